//! From a record to the values of a row, in the form that the column's type has on the wire.
//!
//! ```text
//! Source (what of the record) + type of the column ──Wire::of──► Field ──put──► bytes, or the record's own fault
//! ```
//!
//! A type that has no form here is sent as text, which PostgreSQL reads as it reads a literal.

use std::fmt::{Display, Write};

use api_types::{ClusterId, Record};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use chrono::{DateTime, Datelike, NaiveDate};
use serde_json::Value;
use tokio_postgres::types::{Kind, Type};

use crate::sink::RecordFault;
use crate::sinks::shared::global_id::GlobalId;
use crate::template::{MissingValue, Placeholder};

/// PostgreSQL counts from 2000-01-01, in microseconds.
const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;
const POSTGRES_EPOCH_DAY: i32 = 730_120;

/// What of the record a value is made from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    Id(ClusterId),
    ClientId,
    Topic,
    TimestampMs,
    Payload,
    Named(Placeholder),
}

impl Source {
    fn is_time(&self) -> bool {
        match self {
            Self::TimestampMs | Self::Named(Placeholder::TimestampMs | Placeholder::TimestampSeconds) => true,
            Self::Id(_) | Self::ClientId | Self::Topic | Self::Payload | Self::Named(_) => false,
        }
    }
}

/// How a value goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Text,
    Json,
    Jsonb,
    Bytea,
    Int2,
    Int4,
    Int8,
    Timestamp,
    Timestamptz,
    Date,
    /// As text, for any type that PostgreSQL can read from text.
    Literal,
}

impl Wire {
    pub(super) fn of(source: &Source, column: &Type) -> Self {
        let mut base = column;
        while let Kind::Domain(inner) = base.kind() {
            base = inner;
        }
        let time = source.is_time();
        match *base {
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => Self::Text,
            Type::JSON => Self::Json,
            Type::JSONB => Self::Jsonb,
            Type::BYTEA => Self::Bytea,
            Type::INT2 if time => Self::Int2,
            Type::INT4 if time => Self::Int4,
            Type::INT8 if time => Self::Int8,
            Type::TIMESTAMP if time => Self::Timestamp,
            Type::TIMESTAMPTZ if time => Self::Timestamptz,
            Type::DATE if time => Self::Date,
            _ => Self::Literal,
        }
    }

    /// Holds valid text without U+0000 only.
    pub(super) fn is_text(self) -> bool {
        match self {
            Self::Text | Self::Json | Self::Jsonb => true,
            Self::Bytea
            | Self::Int2
            | Self::Int4
            | Self::Int8
            | Self::Timestamp
            | Self::Timestamptz
            | Self::Date
            | Self::Literal => false,
        }
    }

    /// The type of a parameter that carries many of these values.
    pub(super) fn element_type(self) -> Type {
        match self {
            Self::Text | Self::Literal => Type::TEXT,
            Self::Json => Type::JSON,
            Self::Jsonb => Type::JSONB,
            Self::Bytea => Type::BYTEA,
            Self::Int2 => Type::INT2,
            Self::Int4 => Type::INT4,
            Self::Int8 => Type::INT8,
            Self::Timestamp => Type::TIMESTAMP,
            Self::Timestamptz => Type::TIMESTAMPTZ,
            Self::Date => Type::DATE,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) source: Source,
    pub(super) wire: Wire,
    /// NULL stands for a payload that is no text: another column has its bytes.
    pub(super) null_unless_text: bool,
}

impl Field {
    pub(super) fn new(source: Source, column: &Type) -> Self {
        let wire = Wire::of(&source, column);
        Self { source, wire, null_unless_text: false }
    }

    fn put(&self, record: &Record, out: &mut BytesMut) -> Result<(), RecordFault> {
        match self.wire {
            Wire::Text | Wire::Literal => self.put_text(record, out),
            Wire::Json => self.put_json(record, out),
            Wire::Jsonb => {
                // The only version there is.
                out.put_u8(1);
                self.put_json(record, out)
            }
            Wire::Bytea => self.put_bytes(record, out),
            Wire::Int2 => {
                out.put_i16(self.number(record).try_into().map_err(|_| out_of_range("smallint"))?);
                Ok(())
            }
            Wire::Int4 => {
                out.put_i32(self.number(record).try_into().map_err(|_| out_of_range("integer"))?);
                Ok(())
            }
            Wire::Int8 => {
                out.put_i64(self.number(record).try_into().map_err(|_| out_of_range("bigint"))?);
                Ok(())
            }
            Wire::Timestamp | Wire::Timestamptz => {
                let since_epoch = i64::try_from(self.time_ms(record)).ok().map(|time| time - POSTGRES_EPOCH_MS);
                let microseconds = since_epoch.and_then(|time| time.checked_mul(1_000));
                out.put_i64(microseconds.ok_or_else(|| out_of_range("timestamp"))?);
                Ok(())
            }
            Wire::Date => {
                let day = date(self.time_ms(record)).ok_or_else(|| out_of_range("date"))?;
                out.put_i32(day.num_days_from_ce() - POSTGRES_EPOCH_DAY);
                Ok(())
            }
        }
    }

    fn put_text(&self, record: &Record, out: &mut BytesMut) -> Result<(), RecordFault> {
        self.put_as(record, put_checked, out)
    }

    fn put_bytes(&self, record: &Record, out: &mut BytesMut) -> Result<(), RecordFault> {
        let any = |value: &[u8], _: &dyn Display, out: &mut BytesMut| {
            out.put_slice(value);
            Ok(())
        };
        self.put_as(record, any, out)
    }

    /// What a user wrote goes through `put`; what is ours is plain text.
    fn put_as(
        &self,
        record: &Record,
        put: fn(&[u8], &dyn Display, &mut BytesMut) -> Result<(), RecordFault>,
        out: &mut BytesMut,
    ) -> Result<(), RecordFault> {
        let message = &record.message;
        match &self.source {
            Source::Id(cluster) => write_to(out, GlobalId { cluster: *cluster, record: record.id }),
            Source::TimestampMs => write_to(out, message.timestamp_ms),
            Source::ClientId => put(message.client_id.as_bytes(), &"the client id", out)?,
            Source::Topic => put(message.topic.as_bytes(), &"the topic", out)?,
            Source::Payload => put(&message.payload, &"the payload", out)?,
            Source::Named(placeholder) => put(&placeholder.value(record).map_err(missing)?, placeholder, out)?,
        }
        Ok(())
    }

    /// A payload is JSON or the server refuses it; everything else becomes a JSON value.
    fn put_json(&self, record: &Record, out: &mut BytesMut) -> Result<(), RecordFault> {
        let value = match &self.source {
            Source::Payload | Source::TimestampMs | Source::Named(Placeholder::Payload) => {
                return self.put_text(record, out);
            }
            Source::Id(cluster) => Value::from(GlobalId { cluster: *cluster, record: record.id }.to_string()),
            Source::ClientId => Value::from(record.message.client_id.as_str()),
            Source::Topic => Value::from(record.message.topic.as_str()),
            Source::Named(placeholder) => placeholder.json(record).map_err(missing)?,
        };
        write_to(out, value);
        Ok(())
    }

    /// Of a source that is a time; as a number it is what its placeholder says.
    fn number(&self, record: &Record) -> u64 {
        match self.source {
            Source::Named(Placeholder::TimestampSeconds) => record.message.timestamp_ms / 1_000,
            Source::Id(_)
            | Source::ClientId
            | Source::Topic
            | Source::TimestampMs
            | Source::Payload
            | Source::Named(_) => record.message.timestamp_ms,
        }
    }

    fn time_ms(&self, record: &Record) -> u64 {
        match self.source {
            Source::Named(Placeholder::TimestampSeconds) => record.message.timestamp_ms / 1_000 * 1_000,
            Source::Id(_)
            | Source::ClientId
            | Source::Topic
            | Source::TimestampMs
            | Source::Payload
            | Source::Named(_) => record.message.timestamp_ms,
        }
    }
}

fn date(time_ms: u64) -> Option<NaiveDate> {
    Some(DateTime::from_timestamp_millis(i64::try_from(time_ms).ok()?)?.date_naive())
}

fn missing(error: MissingValue) -> RecordFault {
    RecordFault::offline("missing_value", error.to_string())
}

fn out_of_range(column: &str) -> RecordFault {
    RecordFault::offline("out_of_range", format!("the time of the record does not fit into a column of type {column}"))
}

/// Stands where a value has its length.
pub(super) const NULL: i32 = -1;

fn is_text(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok() && !value.contains(&0)
}

/// Text of PostgreSQL is valid in its encoding and has no U+0000.
fn put_checked(value: &[u8], what: &dyn Display, out: &mut BytesMut) -> Result<(), RecordFault> {
    if std::str::from_utf8(value).is_err() {
        return Err(RecordFault::offline("not_utf8", format!("{what} is not UTF-8, and its column takes text only")));
    }
    if value.contains(&0) {
        return Err(RecordFault::offline("nul_in_text", format!("{what} has a U+0000, which text cannot hold")));
    }
    out.put_slice(value);
    Ok(())
}

fn write_to(out: &mut BytesMut, value: impl Display) {
    // A buffer that grows refuses nothing.
    let _ = write!(out, "{value}");
}

/// The fields of a row, in the layout of binary COPY: their number, then each with its length before it.
#[derive(Clone, Debug)]
pub(super) struct RowFormat {
    fields: Vec<Field>,
    count: i16,
}

impl RowFormat {
    /// PostgreSQL itself allows no more than 1,600 columns; a statement has at most 16,384 characters.
    pub(super) fn new(fields: Vec<Field>) -> Self {
        let count = i16::try_from(fields.len()).unwrap_or(i16::MAX);
        Self { fields, count }
    }

    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Some values are read from text by their type.
    pub(super) fn has_literals(&self) -> bool {
        self.fields.iter().any(|field| field.wire == Wire::Literal)
    }

    /// Nothing is left in `out` of a record that does not fit.
    pub(super) fn put(&self, record: &Record, out: &mut BytesMut) -> Result<(), RecordFault> {
        let start = out.len();
        out.put_i16(self.count);
        for field in &self.fields {
            if field.null_unless_text && !is_text(&record.message.payload) {
                out.put_i32(NULL);
                continue;
            }
            let at = out.len();
            out.put_i32(0);
            if let Err(fault) = field.put(record, out) {
                out.truncate(start);
                return Err(fault);
            }
            let length = u32::try_from(out.len() - at - size_of::<i32>()).unwrap_or(u32::MAX);
            out[at..at + size_of::<i32>()].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

/// The values of a row that was put; `None` is NULL.
pub(super) fn values(mut row: Bytes) -> impl Iterator<Item = Option<Bytes>> {
    row.advance(size_of::<i16>());
    std::iter::from_fn(move || {
        let length = row.has_remaining().then(|| row.get_i32())?;
        // The only length below zero is that of NULL.
        Some(usize::try_from(length).ok().map(|length| row.split_to(length)))
    })
}
