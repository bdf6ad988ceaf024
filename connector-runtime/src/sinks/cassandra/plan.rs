//! How rows are written: decided once, from the table as it is, and again when the cluster's schema has changed.
//!
//! A prepared statement takes bytes by the types that its columns had when it was prepared. When a table is made anew with
//! other types, the driver prepares the statement again on its own and sends the bytes all the same. So after each batch
//! the schema's version is asked for, and a batch that met another table is written anew.

use api_types::{Incarnation, Message, RaftId, Record, RecordId, Sequence};
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use super::fault::Error;
use super::layout::{Field, SchemaVersion, Table, schema_version};
use super::value::{Cell, Format, write_time};
use crate::sink::{RecordFault, TargetFault};

/// Cassandra reads nothing more from a connection after a request above `native_transport_max_frame_size`, and that is its
/// default, less a little for what stands beside the values.
const ROW_BYTES_MAX: usize = (16 << 20) - (4 << 10);

pub(super) struct Plan {
    pub(super) statement: PreparedStatement,
    pub(super) fields: Vec<Field>,
    pub(super) schema: SchemaVersion,
}

impl Plan {
    pub(super) async fn make(session: &Session, table: &Table) -> Result<Self, Error> {
        // First, so that whatever changes meanwhile is seen as a change.
        let mut schema = schema_version(session).await?;
        let mut columns = table.columns(session).await?;
        if columns.is_empty() && unless_invalid(table.create(session).await)? {
            schema = schema_version(session).await?;
            columns = table.columns(session).await?;
        }
        let is_there = !columns.is_empty();
        let fields = if is_there { table.fields(&columns).map_err(Error::Target)? } else { Table::fields_of_default() };
        let prepared = session.prepare(table.insert(&fields)).await;
        let mut statement = prepared.map_err(|error| match Error::from(&error) {
            Error::Invalid(said) => Error::Target(Table::refused(is_there, said)),
            other => other,
        })?;
        // The same key and the same time: a repeat changes nothing.
        statement.set_is_idempotent(true);
        Ok(Self { statement, fields, schema })
    }

    /// The values of a record, and the time of the write.
    pub(super) fn row(&self, record: &Record, format: Format) -> Result<Vec<Cell>, RecordFault> {
        let cells = self.fields.iter().map(|field| format.cell(record, field.source, field.wire));
        let row: Vec<Cell> = cells.chain([write_time(record)]).collect::<Result<_, _>>()?;
        let bytes: usize = row.iter().map(Cell::bytes).sum();
        if bytes > ROW_BYTES_MAX {
            let says = format!("{bytes} bytes are more than a request to Cassandra may have");
            return Err(RecordFault::offline("too_large", says));
        }
        Ok(row)
    }

    /// Whether the server takes such a statement at all: with an innocent key, and without changing anything.
    pub(super) async fn probe(&self, session: &Session, table: &Table, format: Format) -> Result<(), Error> {
        let innocent = Record {
            id: RecordId { raft_id: RaftId(0), incarnation: Incarnation(0), sequence: Sequence(0) },
            message: Message {
                topic: "sluice".into(),
                client_id: "sluice".into(),
                payload: b"0"[..].into(),
                ..Message::default()
            },
        };
        let keys = self.fields.iter().filter(|field| field.is_key);
        let key: Result<Vec<Cell>, RecordFault> =
            keys.map(|field| format.cell(&innocent, field.source, field.wire)).collect();
        // A key that has no innocent value, as a boolean in the payload.
        let Ok(key) = key else { return Ok(()) };
        let asked = session.query_unpaged(table.delete_nothing(&self.fields), key).await;
        match asked.map(drop).map_err(|error| Error::from(&error)) {
            Err(Error::Invalid(said)) => Err(Error::Target(Table::refused(true, said))),
            other => other,
        }
    }
}

/// What is created holds no value of a record.
fn unless_invalid(created: Result<bool, Error>) -> Result<bool, Error> {
    created.map_err(|error| match error {
        Error::Invalid(said) => Error::Target(Table::refused(true, said)),
        other => other,
    })
}

/// Nobody's fault: the same records fit the table as it is now, or are refused once more.
pub(super) fn changed() -> TargetFault {
    let fault = TargetFault::new(crate::sink::TargetFaultKind::Interrupted, "the table has changed");
    TargetFault { reopen: false, ..fault }
}
