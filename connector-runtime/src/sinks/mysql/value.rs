//! From a record to the values of a row, as parameters of a prepared statement. None of them is ever NULL.
//!
//! ```text
//! Source (what of the record) + type of the column ──Wire::of──► Field ──put──► type and bytes, or the record's own fault
//! ```

use std::borrow::Cow;

use api_types::envelope::write_envelope;
use api_types::{ClusterId, Record};
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Datelike, Utc};
use mysql_common::constants::ColumnType;
use serde_json::Value;

use super::packet::put_text;
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::sinks::shared::global_id::GlobalId;
use crate::sinks::shared::relational::Unfit;
use crate::template::{MissingValue, Placeholder};

/// MySQL's calendar ends with this year.
const YEAR_MAX: i32 = 9_999;
const UNSIGNED: u8 = 0x80;

/// What of the record a value is made from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    Id(ClusterId),
    Key,
    Payload(PayloadFormat),
    TimestampMs,
    Named(Placeholder),
}

impl Source {
    fn is_time(&self) -> bool {
        match self {
            Self::TimestampMs | Self::Named(Placeholder::TimestampMs | Placeholder::TimestampSeconds) => true,
            Self::Id(_) | Self::Key | Self::Payload(_) | Self::Named(_) => false,
        }
    }
}

/// How a value goes over the wire; the server converts it to the column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Text,
    Integer,
    Time,
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) source: Source,
    wire: Wire,
}

impl Field {
    /// `data_type` is that of the column, where it is known.
    pub(super) fn new(source: Source, data_type: Option<&str>) -> Self {
        let is_calendar = data_type.is_some_and(|name| ["datetime", "timestamp", "date"].contains(&name));
        let wire = match &source {
            source if source.is_time() && is_calendar => Wire::Time,
            source if source.is_time() => Wire::Integer,
            // As MySQL's own TRUE and FALSE.
            Source::Named(Placeholder::Qos | Placeholder::Retain) => Wire::Integer,
            Source::Id(_) | Source::Key | Source::Payload(_) | Source::TimestampMs | Source::Named(_) => Wire::Text,
        };
        Self { source, wire }
    }

    fn put(&self, record: &Record, types: &mut Vec<u8>, out: &mut BytesMut) -> Result<(), RecordFault> {
        match self.wire {
            Wire::Integer => put_integer(self.integer(record), types, out),
            Wire::Time => {
                let time = i64::try_from(self.integer(record)).ok().and_then(DateTime::from_timestamp_millis);
                return put_time(time.ok_or_else(out_of_range)?, types, out);
            }
            Wire::Text => match &self.source {
                Source::Named(Placeholder::PayloadPath(_)) => return self.put_json_value(record, types, out),
                Source::Id(_) | Source::Key | Source::Payload(_) | Source::TimestampMs | Source::Named(_) => {
                    put_bytes(&self.text(record)?, types, out);
                }
            },
        }
        Ok(())
    }

    fn text<'r>(&self, record: &'r Record) -> Result<Cow<'r, [u8]>, RecordFault> {
        Ok(match &self.source {
            Source::Id(cluster) => {
                Cow::Owned(GlobalId { cluster: *cluster, record: record.id }.to_string().into_bytes())
            }
            Source::Key => Cow::Borrowed(record.message.key().as_bytes()),
            Source::Payload(PayloadFormat::Raw) => Cow::Borrowed(&record.message.payload),
            Source::Payload(PayloadFormat::Envelope) => {
                let mut envelope = Vec::new();
                write_envelope(record, &mut envelope);
                Cow::Owned(envelope)
            }
            Source::TimestampMs => Cow::Owned(record.message.timestamp_ms.to_string().into_bytes()),
            Source::Named(placeholder) => placeholder.value(record).map_err(missing)?,
        })
    }

    /// JSON's `true` and `false` are those of MySQL; anything else is its text.
    fn put_json_value(&self, record: &Record, types: &mut Vec<u8>, out: &mut BytesMut) -> Result<(), RecordFault> {
        let Source::Named(placeholder) = &self.source else { return Ok(()) };
        match placeholder.json(record).map_err(missing)? {
            Value::Bool(value) => put_integer(value.into(), types, out),
            Value::String(text) => put_bytes(text.as_bytes(), types, out),
            value @ (Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                put_bytes(value.to_string().as_bytes(), types, out);
            }
        }
        Ok(())
    }

    fn integer(&self, record: &Record) -> u64 {
        let message = &record.message;
        match &self.source {
            Source::Named(Placeholder::TimestampSeconds) if self.wire == Wire::Time => {
                message.timestamp_ms / 1_000 * 1_000
            }
            Source::Named(Placeholder::TimestampSeconds) => message.timestamp_ms / 1_000,
            Source::Named(Placeholder::Qos) => message.qos.into(),
            Source::Named(Placeholder::Retain) => message.retain.into(),
            Source::Id(_) | Source::Key | Source::Payload(_) | Source::TimestampMs | Source::Named(_) => {
                message.timestamp_ms
            }
        }
    }
}

fn put_type(column: ColumnType, flags: u8, types: &mut Vec<u8>) {
    types.extend([column as u8, flags]);
}

/// Text in the connection's character set; what is no text is bytes, which a text column refuses.
fn put_bytes(value: &[u8], types: &mut Vec<u8>, out: &mut BytesMut) {
    let is_text = std::str::from_utf8(value).is_ok();
    put_type(if is_text { ColumnType::MYSQL_TYPE_VAR_STRING } else { ColumnType::MYSQL_TYPE_BLOB }, 0, types);
    put_text(value, out);
}

fn put_integer(value: u64, types: &mut Vec<u8>, out: &mut BytesMut) {
    put_type(ColumnType::MYSQL_TYPE_LONGLONG, UNSIGNED, types);
    out.put_u64_le(value);
}

/// As text: a column that has become a number since it was looked at refuses it.
fn put_time(time: DateTime<Utc>, types: &mut Vec<u8>, out: &mut BytesMut) -> Result<(), RecordFault> {
    if time.year() > YEAR_MAX {
        return Err(out_of_range());
    }
    put_bytes(time.format("%Y-%m-%d %H:%M:%S%.3f").to_string().as_bytes(), types, out);
    Ok(())
}

fn missing(error: MissingValue) -> RecordFault {
    RecordFault::offline("missing_value", error.to_string())
}

fn out_of_range() -> RecordFault {
    RecordFault::offline("out_of_range", "the time of the record is beyond MySQL's calendar")
}

/// One record's values, ready to be sent.
#[derive(Debug)]
pub(super) struct Row {
    /// Of the record, in its batch.
    pub(super) place: usize,
    bytes: Bytes,
    values: usize,
}

impl Row {
    pub(super) fn values(&self) -> &[u8] {
        &self.bytes[..self.values]
    }

    /// Two bytes for each value.
    pub(super) fn types(&self) -> &[u8] {
        &self.bytes[self.values..]
    }
}

#[derive(Clone, Debug)]
pub(super) struct RowFormat {
    fields: Vec<Field>,
}

impl RowFormat {
    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self { fields }
    }

    pub(super) fn width(&self) -> usize {
        self.fields.len()
    }

    /// Of the records that fit; why the others do not goes into `unfit`. A value alone may be too long for the server:
    /// it would end the connection.
    pub(super) fn rows(&self, records: &[&Record], values_bytes_max: usize, unfit: &mut Unfit) -> Vec<Row> {
        let mut rows = Vec::with_capacity(records.len());
        let mut out = BytesMut::new();
        let mut types = Vec::with_capacity(2 * self.fields.len());
        for (place, record) in records.iter().enumerate() {
            types.clear();
            out.clear();
            let put = self.fields.iter().try_for_each(|field| field.put(record, &mut types, &mut out));
            let values = out.len();
            match put {
                Err(fault) => unfit.push((place, fault)),
                Ok(()) if values > values_bytes_max => unfit.push((place, too_long(values))),
                Ok(()) => {
                    out.put_slice(&types);
                    rows.push(Row { place, bytes: out.split().freeze(), values });
                }
            }
        }
        rows
    }
}

fn too_long(bytes: usize) -> RecordFault {
    let message = format!("{bytes} bytes are more than the server's max_allowed_packet allows");
    RecordFault::offline("too_long", message)
}

#[cfg(test)]
mod tests {
    use api_types::Message;

    use super::*;

    fn row(source: Source, data_type: Option<&str>, message: Message) -> Result<(Vec<u8>, Vec<u8>), RecordFault> {
        let format = RowFormat::new(vec![Field::new(source, data_type)]);
        let record = Record { message, ..crate::sinks::opened::record(7, "") };
        let mut unfit = Unfit::new();
        let rows = format.rows(&[&record], 1_000, &mut unfit);
        match rows.first() {
            Some(row) => Ok((row.types().to_vec(), row.values().to_vec())),
            None => Err(unfit.remove(0).1),
        }
    }

    #[test]
    fn a_time_is_a_number_or_a_time_by_its_column() {
        let message = Message { timestamp_ms: 1_700_000_000_007, ..Message::default() };
        let number = 1_700_000_000_007_u64.to_le_bytes().to_vec();
        for data_type in [None, Some("bigint"), Some("varchar")] {
            let found = row(Source::TimestampMs, data_type, message.clone()).expect("fits");
            assert_eq!(found, (vec![8, 0x80], number.clone()), "{data_type:?}");
        }
        for data_type in ["datetime", "timestamp", "date"] {
            let found = row(Source::TimestampMs, Some(data_type), message.clone()).expect("fits");
            assert_eq!(found, (vec![0xfd, 0], b"\x172023-11-14 22:13:20.007".to_vec()), "{data_type}");
        }
        let late = Message { timestamp_ms: 253_402_300_800_000, ..Message::default() };
        let fault = row(Source::TimestampMs, Some("datetime"), late).expect_err("is in the year 10000");
        assert_eq!((&*fault.class, fault.offline), ("out_of_range", true));
    }

    #[test]
    fn what_is_no_text_goes_as_bytes_and_what_is_too_long_not_at_all() {
        let of = |payload: &[u8]| Message { payload: payload.to_vec().into(), ..Message::default() };
        let raw = || Source::Payload(PayloadFormat::Raw);
        assert_eq!(row(raw(), Some("longtext"), of(b"a\0b")), Ok((vec![0xfd, 0], b"\x03a\0b".to_vec())));
        assert_eq!(row(raw(), Some("longblob"), of(b"\xff")), Ok((vec![0xfc, 0], b"\x01\xff".to_vec())));
        let fault = row(raw(), None, of(&[b'x'; 1_000])).expect_err("is too long");
        assert_eq!((&*fault.class, fault.offline), ("too_long", true));
    }
}
