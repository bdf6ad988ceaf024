//! The time of a point. Two points of one series with the same time are one point, and the later one wins: so times are
//! made unique, in a way that gives a record the same time whenever it is sent.

use api_types::Record;

use crate::sink::RecordFault;

/// A resolution of times, finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Precision {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointTime {
    /// Cut to this precision, then made unique below the millisecond by the record's place in its queue.
    Unique(Precision),
    /// Cut to this precision and no more: of two records of a series in one such moment the later one stays.
    Cut(Precision),
}

impl Precision {
    /// As InfluxDB 2 and GreptimeDB write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
        }
    }
}

const NS_PER_MS: i64 = 1_000_000;
const MS_PER_S: i64 = 1_000;

impl PointTime {
    /// The unit in which times are written.
    pub(crate) fn unit(self) -> Precision {
        match self {
            Self::Unique(_) => Precision::Nanoseconds,
            Self::Cut(precision) => precision,
        }
    }

    pub(super) fn of(self, record: &Record) -> Result<i64, RecordFault> {
        let milliseconds = record.message.timestamp_ms;
        let out_of_range = || {
            let message = format!("{milliseconds} ms since the Unix epoch does not fit into 64 bits of nanoseconds");
            RecordFault::offline("time_out_of_range", message)
        };
        let milliseconds = i64::try_from(milliseconds).map_err(|_| out_of_range())?;
        // Whatever the unit: the server counts nanoseconds.
        let nanoseconds = milliseconds.checked_mul(NS_PER_MS).ok_or_else(out_of_range)?;
        Ok(match self {
            Self::Unique(precision) => {
                let cut = match precision {
                    Precision::Nanoseconds | Precision::Microseconds | Precision::Milliseconds => nanoseconds,
                    Precision::Seconds => nanoseconds - nanoseconds % (MS_PER_S * NS_PER_MS),
                };
                let place = i64::try_from(record.id.sequence.0 % NS_PER_MS as u64).unwrap_or_default();
                cut.checked_add(place).ok_or_else(out_of_range)?
            }
            Self::Cut(Precision::Nanoseconds) => nanoseconds,
            Self::Cut(Precision::Microseconds) => nanoseconds / 1_000,
            Self::Cut(Precision::Milliseconds) => milliseconds,
            Self::Cut(Precision::Seconds) => milliseconds / MS_PER_S,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::opened::record;

    #[test]
    fn times_are_converted_and_unique() {
        let record = record(7_000_042, "x");
        // 1_700_000_000_000 ms and the number of the record.
        for (time, expect) in [
            (PointTime::Unique(Precision::Seconds), 1_700_007_000_000_000_042),
            (PointTime::Unique(Precision::Milliseconds), 1_700_007_000_042_000_042),
            (PointTime::Unique(Precision::Nanoseconds), 1_700_007_000_042_000_042),
            (PointTime::Cut(Precision::Nanoseconds), 1_700_007_000_042_000_000),
            (PointTime::Cut(Precision::Microseconds), 1_700_007_000_042_000),
            (PointTime::Cut(Precision::Milliseconds), 1_700_007_000_042),
            (PointTime::Cut(Precision::Seconds), 1_700_007_000),
        ] {
            assert_eq!(time.of(&record), Ok(expect), "{time:?}");
        }
    }

    #[test]
    fn a_time_beyond_the_servers_range_is_the_records_fault() {
        let mut record = record(1, "x");
        for (milliseconds, fits) in [(9_223_372_036_853, true), (9_223_372_036_855, false), (u64::MAX, false)] {
            record.message.timestamp_ms = milliseconds;
            let time = PointTime::Unique(Precision::Milliseconds).of(&record);
            assert_eq!(time.is_ok(), fits, "{time:?}");
        }
    }
}
