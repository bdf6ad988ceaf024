//! Records as `sluice bench publish` makes them, for loops that do not ask Sluice.

use std::fmt::Write as _;

pub const BYTES: usize = 256;
/// As of the generator: all numbers have ten digits.
const FIRST_NUMBER: u64 = 1_000_000_000;
const STAMP_US: u64 = 1_700_000_000_000_000;
const CONNECTIONS: u64 = 20;
/// As long as a cluster's id.
const CLUSTER: &str = "09c5a1b2c3d4e5f60718293a4b5c6de2";

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

    pub fn id(&self) -> String {
        format!("1-17-{}", self.number)
    }

    /// For targets that several clusters may share.
    pub fn global_id(&self) -> String {
        format!("{CLUSTER}-{}", self.id())
    }

    /// The envelope, as an element of a JSON array.
    pub fn envelope(&self) -> String {
        format!(
            r#"{{"id":"{}","topic":"{}","client_id":"{}","qos":1,"retain":false,"timestamp":{},"payload":{}}}"#,
            self.id(),
            self.topic,
            self.client_id,
            self.sent_us / 1_000,
            self.payload()
        )
    }

    /// Two lines of a `_bulk` of Elasticsearch: what to do, and the document.
    pub fn creation(&self) -> String {
        // All records are from one second.
        let time = format!("2023-11-14T22:13:20.{:03}Z", self.sent_us / 1_000 % 1_000);
        let envelope = self.envelope();
        let fields = envelope.strip_prefix('{').unwrap_or(&envelope);
        format!("{{\"create\":{{\"_id\":\"{}\"}}}}\n{{\"@timestamp\":\"{time}\",{fields}\n", self.global_id())
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

/// The body of a `_bulk`.
pub fn creations(records: &mut dyn Iterator<Item = Record>) -> String {
    records.map(|record| record.creation()).collect()
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
    fn creations_are_two_lines_of_json() {
        let creation = Record::new(7).creation();
        let lines: Vec<serde_json::Value> =
            creation.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["create"]["_id"], Record::new(7).global_id());
        assert_eq!(lines[1]["@timestamp"], "2023-11-14T22:13:20.000Z");
        assert_eq!(lines[1]["id"], Record::new(7).id());
        assert_eq!(lines.len(), 2);
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
