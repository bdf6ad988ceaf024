//! Parts of a record as values of CQL, in the binary form of each type (native protocol, "Data type serialization
//! formats").

use api_types::envelope::write_envelope;
use api_types::{ClusterId, Record};
use scylla::cluster::metadata::ColumnType;
use scylla::errors::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};

use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::sinks::shared::global_id::GlobalId;

/// What a column gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Id,
    Topic,
    ClientId,
    Qos,
    Retain,
    Payload,
    Arrived,
}

/// The columns that are filled where the table has them.
pub(super) const COLUMNS: [(&str, Source); 7] = [
    ("msgid", Source::Id),
    ("topic", Source::Topic),
    ("client_id", Source::ClientId),
    ("qos", Source::Qos),
    ("retain", Source::Retain),
    ("payload", Source::Payload),
    ("arrived", Source::Arrived),
];

/// A type of CQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Text,
    /// The server looks at every byte.
    Ascii,
    Blob,
    Boolean,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Varint,
    Float,
    Double,
    Timestamp,
    Date,
}

impl Wire {
    /// Of a type's name, as `system_schema` has it.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "text" | "varchar" => Self::Text,
            "ascii" => Self::Ascii,
            "blob" => Self::Blob,
            "boolean" => Self::Boolean,
            "tinyint" => Self::TinyInt,
            "smallint" => Self::SmallInt,
            "int" => Self::Int,
            "bigint" => Self::BigInt,
            "varint" => Self::Varint,
            "float" => Self::Float,
            "double" => Self::Double,
            "timestamp" => Self::Timestamp,
            "date" => Self::Date,
            _ => return None,
        })
    }

    /// As it stands in a statement.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Ascii => "ascii",
            Self::Blob => "blob",
            Self::Boolean => "boolean",
            Self::TinyInt => "tinyint",
            Self::SmallInt => "smallint",
            Self::Int => "int",
            Self::BigInt => "bigint",
            Self::Varint => "varint",
            Self::Float => "float",
            Self::Double => "double",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
        }
    }

    /// A value that no server objects to.
    pub(super) fn innocent(self) -> Cell {
        let bytes: Box<[u8]> = match self {
            Self::Text | Self::Ascii | Self::Blob => b"sluice"[..].into(),
            Self::Boolean | Self::TinyInt | Self::Varint => [0].into(),
            Self::SmallInt => [0; 2].into(),
            Self::Int | Self::Float | Self::Date => [0; 4].into(),
            Self::BigInt | Self::Double | Self::Timestamp => [0; 8].into(),
        };
        Cell(bytes)
    }
}

/// How a column's type is written; `None` where the source has no form of it.
pub(super) fn wire(source: Source, type_name: &str) -> Option<Wire> {
    use Wire::{Ascii, BigInt, Blob, Boolean, Date, Int, SmallInt, Text, Timestamp, TinyInt, Varint};
    let wire = Wire::named(type_name)?;
    let fits = match source {
        Source::Id | Source::Topic | Source::ClientId => matches!(wire, Text | Ascii | Blob),
        Source::Qos => matches!(wire, TinyInt | SmallInt | Int | BigInt | Varint | Text | Ascii),
        Source::Retain => matches!(wire, Boolean | TinyInt | SmallInt | Int | Text | Ascii),
        Source::Payload => !matches!(wire, Timestamp | Date),
        Source::Arrived => matches!(wire, Timestamp | Date | BigInt | Varint | Text | Ascii),
    };
    fits.then_some(wire)
}

/// The same for all records of a connector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) cluster: ClusterId,
    pub(super) payload: PayloadFormat,
}

impl Format {
    pub(super) fn cell(self, record: &Record, source: Source, wire: Wire) -> Result<Cell, RecordFault> {
        let message = &record.message;
        match source {
            Source::Id => of_text(&GlobalId { cluster: self.cluster, record: record.id }.to_string(), wire),
            Source::Topic => of_text(&message.topic, wire),
            Source::ClientId => of_text(&message.client_id, wire),
            Source::Qos => of_number(i64::from(message.qos), wire),
            Source::Retain if matches!(wire, Wire::Text | Wire::Ascii) => {
                of_text(if message.retain { "true" } else { "false" }, wire)
            }
            Source::Retain => of_number(i64::from(message.retain), wire),
            Source::Arrived => of_number(milliseconds(message.timestamp_ms)?, wire),
            Source::Payload => match self.payload {
                PayloadFormat::Raw => of_payload(&message.payload, wire),
                PayloadFormat::Envelope => {
                    let mut envelope = Vec::new();
                    write_envelope(record, &mut envelope);
                    of_payload(&envelope, wire)
                }
            },
        }
    }
}

/// The time of a write, in microseconds: the same whenever the record is written, and later for a later record of the
/// same queue and millisecond, unless a multiple of 1,000 lies between the two: there is room for no more.
pub(super) fn write_time(record: &Record) -> Result<Cell, RecordFault> {
    let micros = milliseconds(record.message.timestamp_ms)?.checked_mul(1_000).ok_or_else(|| too_late(record))?;
    let place = i64::try_from(record.id.sequence.0 % 1_000).unwrap_or_default();
    let micros = micros.checked_add(place).ok_or_else(|| too_late(record))?;
    Ok(Cell(micros.to_be_bytes().into()))
}

fn too_late(record: &Record) -> RecordFault {
    let says = format!("{} ms since 1970 is later than a write can be", record.message.timestamp_ms);
    RecordFault::offline("time_out_of_range", says)
}

fn milliseconds(timestamp_ms: u64) -> Result<i64, RecordFault> {
    i64::try_from(timestamp_ms).map_err(|_| {
        let says = format!("{timestamp_ms} ms since 1970 is later than a timestamp can say");
        RecordFault::offline("time_out_of_range", says)
    })
}

/// A value's bytes; its type is known to whoever made it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cell(Box<[u8]>);

impl Cell {
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl SerializeValue for Cell {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        writer.set_value(&self.0).map_err(SerializationError::new)
    }
}

fn of_text(text: &str, wire: Wire) -> Result<Cell, RecordFault> {
    of_payload(text.as_bytes(), wire)
}

/// Numbers and booleans are read from their text, which must be nothing but that.
fn of_payload(bytes: &[u8], wire: Wire) -> Result<Cell, RecordFault> {
    if wire == Wire::Blob {
        return Ok(Cell(bytes.into()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(RecordFault::offline("not_utf8", "the payload is no UTF-8, and its column holds text"));
    };
    let unreadable = |what: &str| RecordFault::offline("unreadable_value", format!("the payload is no {what}"));
    match wire {
        Wire::Text | Wire::Ascii | Wire::Blob => Ok(Cell(bytes.into())),
        Wire::Boolean => match text.trim() {
            "true" => of_number(1, wire),
            "false" => of_number(0, wire),
            _ => Err(unreadable("boolean")),
        },
        Wire::Float => {
            let number: f32 = text.trim().parse().map_err(|_| unreadable("number"))?;
            if number.is_finite() { Ok(Cell(number.to_be_bytes().into())) } else { Err(not_finite()) }
        }
        Wire::Double => {
            let number: f64 = text.trim().parse().map_err(|_| unreadable("number"))?;
            if number.is_finite() { Ok(Cell(number.to_be_bytes().into())) } else { Err(not_finite()) }
        }
        Wire::TinyInt | Wire::SmallInt | Wire::Int | Wire::BigInt | Wire::Varint | Wire::Timestamp | Wire::Date => {
            of_number(text.trim().parse().map_err(|_| unreadable("whole number of 64 bits"))?, wire)
        }
    }
}

/// Too large for the type, or none at all.
fn not_finite() -> RecordFault {
    RecordFault::offline("out_of_range", "the payload is no finite number of its column's type")
}

/// Of a time: milliseconds.
fn of_number(number: i64, wire: Wire) -> Result<Cell, RecordFault> {
    const DAY_MS: i64 = 86_400_000;
    /// 1970-01-01.
    const EPOCH: i64 = 1 << 31;
    let out_of_range =
        |_| RecordFault::offline("out_of_range", format!("{number} does not fit into a column of this type"));
    let bytes: Box<[u8]> = match wire {
        Wire::Text | Wire::Ascii | Wire::Blob => number.to_string().into_bytes().into(),
        Wire::Boolean => [u8::from(number != 0)].into(),
        Wire::TinyInt => i8::try_from(number).map_err(out_of_range)?.to_be_bytes().into(),
        Wire::SmallInt => i16::try_from(number).map_err(out_of_range)?.to_be_bytes().into(),
        Wire::Int => i32::try_from(number).map_err(out_of_range)?.to_be_bytes().into(),
        Wire::BigInt | Wire::Timestamp => number.to_be_bytes().into(),
        Wire::Varint => varint(number),
        Wire::Float => (number as f32).to_be_bytes().into(),
        Wire::Double => (number as f64).to_be_bytes().into(),
        Wire::Date => u32::try_from(EPOCH + number.div_euclid(DAY_MS)).map_err(out_of_range)?.to_be_bytes().into(),
    };
    Ok(Cell(bytes))
}

/// Two's complement without bytes that say nothing.
fn varint(number: i64) -> Box<[u8]> {
    let bytes = number.to_be_bytes();
    let idle = |at: usize| {
        let sign_follows = bytes[at + 1] & 0x80 != 0;
        (bytes[at] == 0 && !sign_follows) || (bytes[at] == 0xff && sign_follows)
    };
    let first = (0..bytes.len() - 1).find(|at| !idle(*at)).unwrap_or(bytes.len() - 1);
    bytes[first..].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::opened::record;

    const FORMAT: Format = Format { cluster: ClusterId(7), payload: PayloadFormat::Raw };

    fn check(payload: &[u8], type_name: &str, expect: Result<&[u8], &str>) {
        let wire = wire(Source::Payload, type_name).expect("fits");
        let cell = FORMAT.cell(&record(1, payload), Source::Payload, wire);
        let found = cell.as_ref().map(|cell| &*cell.0).map_err(|fault| &*fault.class);
        assert_eq!(found, expect, "{payload:?} as {type_name}");
    }

    #[test]
    fn payloads_are_read_by_the_type_of_their_column() {
        check(b"\xff\0", "blob", Ok(b"\xff\0"));
        check(b"warm\0", "text", Ok(b"warm\0"));
        check("ü".as_bytes(), "ascii", Ok("ü".as_bytes()));
        check(b"", "text", Ok(b""));
        check(b"\xff", "text", Err("not_utf8"));
        check(b" 21.5\n", "double", Ok(&21.5_f64.to_be_bytes()));
        check(b"21.5", "float", Ok(&21.5_f32.to_be_bytes()));
        check(b"warm", "double", Err("unreadable_value"));
        for payload in [&b"1e999"[..], b"-1e999", b"NaN", b"inf", b"-Infinity"] {
            check(payload, "double", Err("out_of_range"));
            check(payload, "float", Err("out_of_range"));
        }
        check(b"1e39", "float", Err("out_of_range"));
        check(b"1e39", "double", Ok(&1e39_f64.to_be_bytes()));
        check(b"", "int", Err("unreadable_value"));
        check(b"21.5", "int", Err("unreadable_value"));
        check(b"-2", "int", Ok(&[0xff, 0xff, 0xff, 0xfe]));
        check(b"128", "tinyint", Err("out_of_range"));
        check(b"-128", "tinyint", Ok(&[0x80]));
        check(b"40000", "smallint", Err("out_of_range"));
        check(b"9223372036854775807", "bigint", Ok(&i64::MAX.to_be_bytes()));
        check(b"true", "boolean", Ok(&[1]));
        check(b"1", "boolean", Err("unreadable_value"));
    }

    #[test]
    fn whole_numbers_of_any_length_are_as_short_as_they_can_be() {
        for (number, expect) in [
            (0, &[0][..]),
            (-1, &[0xff]),
            (127, &[0x7f]),
            (128, &[0, 0x80]),
            (-128, &[0x80]),
            (-129, &[0xff, 0x7f]),
            (i64::MIN, &i64::MIN.to_be_bytes()),
        ] {
            assert_eq!(*varint(number), *expect, "{number}");
        }
    }

    #[test]
    fn a_type_takes_what_it_can_hold() {
        for (source, type_name, expect) in [
            (Source::Id, "text", Some(Wire::Text)),
            (Source::Id, "uuid", None),
            (Source::Id, "int", None),
            (Source::Arrived, "timestamp", Some(Wire::Timestamp)),
            (Source::Arrived, "date", Some(Wire::Date)),
            (Source::Arrived, "int", None),
            (Source::Qos, "tinyint", Some(Wire::TinyInt)),
            (Source::Retain, "boolean", Some(Wire::Boolean)),
            (Source::Payload, "map<text, text>", None),
            (Source::Payload, "timestamp", None),
        ] {
            assert_eq!(wire(source, type_name), expect, "{source:?} {type_name}");
        }
    }

    #[test]
    fn types_are_named_as_they_are_read() {
        for name in [
            "text",
            "ascii",
            "blob",
            "boolean",
            "tinyint",
            "smallint",
            "int",
            "bigint",
            "varint",
            "float",
            "double",
            "timestamp",
            "date",
        ] {
            assert_eq!(Wire::named(name).map(Wire::name), Some(name));
        }
    }

    #[test]
    fn a_later_record_of_a_millisecond_is_later_but_for_a_multiple_of_a_thousand() {
        let time = |sequence| {
            let mut record = record(sequence, "x");
            record.message.timestamp_ms = 1_700_000_000_000;
            write_time(&record).expect("has one").0
        };
        assert!(time(998) < time(999) && time(1_000) < time(1_001));
        assert!(time(1_000) < time(999), "the limit that the page tells");
    }

    #[test]
    fn times_are_milliseconds_days_or_too_late() {
        let mut record = record(2_345, "x");
        let cell = |record: &Record, wire| FORMAT.cell(record, Source::Arrived, wire).map(|cell| cell.0);
        record.message.timestamp_ms = 1_700_000_000_000;
        assert_eq!(cell(&record, Wire::Timestamp), Ok(1_700_000_000_000_i64.to_be_bytes().into()));
        assert_eq!(cell(&record, Wire::Date), Ok((2_147_483_648_u32 + 19_675).to_be_bytes().into()));
        assert_eq!(write_time(&record), Ok(Cell(1_700_000_000_000_345_i64.to_be_bytes().into())));
        record.message.timestamp_ms = i64::MAX as u64;
        assert_eq!(cell(&record, Wire::Date).map_err(|fault| fault.class), Err("out_of_range".into()));
        assert_eq!(write_time(&record).map_err(|fault| fault.class), Err("time_out_of_range".into()));
        record.message.timestamp_ms = u64::MAX;
        assert_eq!(cell(&record, Wire::Timestamp).map_err(|fault| fault.class), Err("time_out_of_range".into()));
    }
}
