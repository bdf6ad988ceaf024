//! Records as `sluice bench publish` makes them, for loops that do not ask Sluice.

use std::fmt::Write as _;

pub const BYTES: usize = 256;
/// As of the generator: all numbers have ten digits.
const FIRST_NUMBER: u64 = 1_000_000_000;
const STAMP_US: u64 = 1_700_000_000_000_000;
const CONNECTIONS: u64 = 20;

pub struct Record {
    pub number: u64,
    pub topic: String,
    pub client_id: String,
    pub sent_us: u64,
    pub pad: String,
}

impl Record {
    pub fn new(at: u64) -> Self {
        let (connection, pad) = (at % CONNECTIONS, String::new());
        let mut record = Self {
            number: FIRST_NUMBER + at,
            topic: format!("sink/{connection}"),
            client_id: format!("bench{connection}"),
            sent_us: STAMP_US + at,
            pad,
        };
        record.pad = "x".repeat(BYTES.saturating_sub(record.payload().len()));
        record
    }

    pub fn payload(&self) -> String {
        format!(r#"{{"sent_us":{},"number":{},"pad":"{}"}}"#, self.sent_us, self.number, self.pad)
    }

    /// The envelope, as an element of a JSON array.
    pub fn envelope(&self) -> String {
        format!(
            r#"{{"id":"1-17-{}","topic":"{}","client_id":"{}","qos":1,"retain":false,"timestamp":{},"payload":{}}}"#,
            self.number,
            self.topic,
            self.client_id,
            self.sent_us / 1_000,
            self.payload()
        )
    }

    /// A point of InfluxDB, its time in nanoseconds and of its own.
    pub fn point(&self) -> String {
        format!(
            "mqtt,client_id={},topic={} sent_us={},number={},pad=\"{}\" {}",
            self.client_id,
            self.topic,
            self.sent_us,
            self.number,
            self.pad,
            self.sent_us * 1_000
        )
    }
}

/// Bodies of so many records each, the last of what is left.
pub fn bodies(records: u64, each: u64, body: impl Fn(&mut dyn Iterator<Item = Record>) -> String) -> Vec<String> {
    let starts = (0..records).step_by(usize::try_from(each).unwrap_or(usize::MAX));
    starts.map(|start| body(&mut (start..records.min(start + each)).map(Record::new))).collect()
}

/// Lines of line protocol.
pub fn points(records: &mut dyn Iterator<Item = Record>) -> String {
    records.fold(String::new(), |mut lines, record| {
        // A string takes everything.
        let _ = writeln!(lines, "{}", record.point());
        lines
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_those_of_the_generator() {
        let record = Record::new(7);
        let payload: serde_json::Value = serde_json::from_str(&record.payload()).expect("JSON");
        assert_eq!(record.payload().len(), BYTES);
        assert_eq!(payload["number"], 1_000_000_007_u64);
        let envelope: serde_json::Value = serde_json::from_str(&record.envelope()).expect("JSON");
        assert_eq!(envelope["payload"], payload);
    }

    #[test]
    fn bodies_hold_every_record_once() {
        let all = bodies(25, 10, points);
        assert_eq!(all.iter().map(|body| body.lines().count()).collect::<Vec<_>>(), [10, 10, 5]);
        let times: std::collections::BTreeSet<&str> =
            all.iter().flat_map(|body| body.lines()).filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(times.len(), 25);
    }
}
