//! Records as rows of the format TabSeparated: the server reads every value by the type of its column, and names the row
//! that it cannot read.

use std::io::Write;

use api_types::Record;
use api_types::envelope::write_envelope;
use chrono::{DateTime, Utc};

use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;

/// A column that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) part: Part,
}

/// A part of the record in the form that the column's type takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Id,
    Topic,
    ClientId,
    Qos,
    /// `1` or `0`.
    RetainDigit,
    /// `true` or `false`.
    RetainWord,
    Timestamp(TimeForm),
    Payload,
    Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// Since the Unix epoch, whatever the time zone of the column.
    Seconds,
    SecondsAndMilliseconds,
    /// In UTC.
    Day,
    Day32,
    Milliseconds,
}

impl TimeForm {
    /// The last moment that the type holds; it would wrap around above it without a word.
    fn last_ms(self) -> u64 {
        const DAY_MS: u64 = 86_400_000;
        match self {
            Self::Seconds => u64::from(u32::MAX) * 1_000 + 999,
            // 2262, where nanoseconds end; coarser ones go on to 2299.
            Self::SecondsAndMilliseconds => i64::MAX as u64 / 1_000_000,
            Self::Day => (u64::from(u16::MAX) + 1) * DAY_MS - 1,
            // 2299-12-31.
            Self::Day32 => 120_530 * DAY_MS - 1,
            Self::Milliseconds => i64::MAX as u64,
        }
    }
}

/// Appends the record's row to `rows`; a record that has none leaves them as they were.
pub(super) fn write(
    record: &Record,
    columns: &[Column],
    format: PayloadFormat,
    rows: &mut Vec<u8>,
) -> Result<(), RecordFault> {
    let began = rows.len();
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            rows.push(b'\t');
        }
        if let Err(fault) = write_part(record, column.part, format, rows) {
            rows.truncate(began);
            return Err(fault);
        }
    }
    rows.push(b'\n');
    Ok(())
}

fn write_part(record: &Record, part: Part, format: PayloadFormat, rows: &mut Vec<u8>) -> Result<(), RecordFault> {
    let message = &record.message;
    match part {
        Part::Id => escape(record.id.to_string().as_bytes(), rows),
        Part::Topic => escape(message.topic.as_bytes(), rows),
        Part::ClientId => escape(message.client_id.as_bytes(), rows),
        Part::Key => escape(message.key().as_bytes(), rows),
        Part::Qos => rows.extend_from_slice(message.qos.to_string().as_bytes()),
        Part::RetainDigit => rows.push(if message.retain { b'1' } else { b'0' }),
        Part::RetainWord => rows.extend_from_slice(if message.retain { b"true" } else { b"false" }),
        Part::Timestamp(form) => write_time(message.timestamp_ms, form, rows)?,
        Part::Payload => match format {
            PayloadFormat::Raw => escape(&message.payload, rows),
            PayloadFormat::Envelope => {
                let mut envelope = Vec::new();
                write_envelope(record, &mut envelope);
                escape(&envelope, rows);
            }
        },
    }
    Ok(())
}

fn write_time(timestamp_ms: u64, form: TimeForm, rows: &mut Vec<u8>) -> Result<(), RecordFault> {
    let out_of_range = || {
        let says = format!("{timestamp_ms} ms since 1970 is later than the column's type can say");
        RecordFault::offline("time_out_of_range", says)
    };
    if timestamp_ms > form.last_ms() {
        return Err(out_of_range());
    }
    let (seconds, milliseconds) = (timestamp_ms / 1_000, timestamp_ms % 1_000);
    let written = match form {
        // Ten digits are what older servers know for seconds.
        TimeForm::Seconds => write!(rows, "{seconds:010}"),
        TimeForm::SecondsAndMilliseconds => write!(rows, "{seconds:010}.{milliseconds:03}"),
        TimeForm::Milliseconds => write!(rows, "{timestamp_ms}"),
        TimeForm::Day | TimeForm::Day32 => {
            let moment = i64::try_from(timestamp_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
            write!(rows, "{}", moment.ok_or_else(out_of_range)?.format("%Y-%m-%d"))
        }
    };
    written.map_err(|error| RecordFault::offline("time_out_of_range", error.to_string()))
}

/// What ends a value or a row, or begins an escape, must not stand for itself. All other bytes do.
fn escape(bytes: &[u8], rows: &mut Vec<u8>) {
    let mut plain_from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escaped: &[u8] = match byte {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            // At the end of a row it would be taken for half of a line break.
            b'\r' => b"\\r",
            b'\0' => b"\\0",
            b'\\' => b"\\\\",
            _ => continue,
        };
        rows.extend_from_slice(&bytes[plain_from..at]);
        rows.extend_from_slice(escaped);
        plain_from = at + 1;
    }
    rows.extend_from_slice(&bytes[plain_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::opened::record;

    fn row(record: &Record, parts: &[Part], format: PayloadFormat) -> Result<String, RecordFault> {
        let columns: Vec<Column> = parts.iter().map(|part| Column { name: "any", part: *part }).collect();
        let mut rows = b"before\n".to_vec();
        let written = write(record, &columns, format, &mut rows);
        let text = String::from_utf8(rows).expect("is text");
        let row = text.strip_prefix("before\n").expect("what was there stays").to_owned();
        match written {
            Ok(()) => Ok(row),
            Err(fault) => {
                assert_eq!(row, "", "nothing is left of a row that is not written");
                Err(fault)
            }
        }
    }

    #[test]
    fn every_part_has_its_place_and_cannot_leave_it() {
        let mut record = record(5, "a\tb\nc\r\0\\N");
        record.message.qos = 2;
        record.message.retain = true;
        record.message.topic = "t\t".to_owned();
        let parts = [
            Part::Id,
            Part::Topic,
            Part::ClientId,
            Part::Qos,
            Part::RetainDigit,
            Part::RetainWord,
            Part::Payload,
            Part::Key,
        ];
        let expect = "1-7-5\tt\\t\tdevice-5\t2\t1\ttrue\ta\\tb\\nc\\r\\0\\\\N\tdevice-5\n";
        assert_eq!(row(&record, &parts, PayloadFormat::Raw), Ok(expect.to_owned()));
    }

    #[test]
    fn the_envelope_is_escaped_as_a_whole() {
        let mut record = record(5, "x");
        record.message.user_properties = vec![("site".to_owned(), "a\\b".to_owned())];
        let text = row(&record, &[Part::Payload], PayloadFormat::Envelope).expect("has a row");
        let envelope = super::super::table::unescaped(text.trim_end());
        let value: serde_json::Value = serde_json::from_str(&envelope).expect("is JSON");
        assert_eq!((&value["id"], &value["payload"]), (&"1-7-5".into(), &"x".into()));
        assert!(envelope.contains(r"a\\b"), "{envelope}");
    }

    #[test]
    fn times_have_the_form_of_their_column() {
        let mut record = record(0, "x");
        record.message.timestamp_ms = 1_700_000_000_007;
        for (form, expect) in [
            (TimeForm::Seconds, "1700000000\n"),
            (TimeForm::SecondsAndMilliseconds, "1700000000.007\n"),
            (TimeForm::Milliseconds, "1700000000007\n"),
            (TimeForm::Day, "2023-11-14\n"),
            (TimeForm::Day32, "2023-11-14\n"),
        ] {
            assert_eq!(row(&record, &[Part::Timestamp(form)], PayloadFormat::Raw), Ok(expect.to_owned()), "{form:?}");
        }
    }

    #[test]
    fn a_time_that_the_column_cannot_say_is_the_records_fault() {
        for (form, last, last_text) in [
            (TimeForm::Seconds, 4_294_967_295_999, "4294967295\n"),
            (TimeForm::Day, 5_662_310_399_999, "2149-06-06\n"),
            (TimeForm::Day32, 10_413_791_999_999, "2299-12-31\n"),
            (TimeForm::SecondsAndMilliseconds, 9_223_372_036_854, "9223372036.854\n"),
        ] {
            let mut record = record(0, "x");
            record.message.timestamp_ms = last;
            let parts = [Part::Id, Part::Timestamp(form)];
            assert_eq!(row(&record, &parts, PayloadFormat::Raw), Ok(format!("1-7-0\t{last_text}")), "{form:?}");
            record.message.timestamp_ms = last + 1;
            let fault = row(&record, &parts, PayloadFormat::Raw).expect_err("is too late");
            assert_eq!((&*fault.class, fault.offline), ("time_out_of_range", true), "{form:?}");
        }
    }
}
