//! How rows are written: decided once, from the table as it is, and again when the cluster's schema has changed.
//!
//! A prepared statement takes bytes by the types that its columns had when it was prepared. When a table is made anew with
//! other types, the driver prepares the statement again on its own and sends the bytes all the same; a server that now
//! has other types refuses it, since the statement names its own. After each batch the schema's version is asked for, and
//! a batch that met another table is written anew.

use api_types::Record;
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use super::fault::{DOES_NOT_FIT, Error};
use super::layout::{Field, SchemaVersion, Table};
use super::value::{Cell, Format, write_time};
use super::verdict::Statement;
use crate::sink::{RecordFault, TargetFault, TargetFaultKind};

/// Cassandra reads nothing more from a connection after a request above `native_transport_max_frame_size`, and that is its
/// default, less a little for what stands beside the values.
const ROW_BYTES_MAX: usize = (16 << 20) - (4 << 10);

pub(super) struct Plan {
    pub(super) statement: PreparedStatement,
    pub(super) fields: Vec<Field>,
    /// That all nodes had which could be asked; `None` where they had several.
    pub(super) schema: Option<SchemaVersion>,
}

impl Plan {
    pub(super) async fn make(session: &Session, table: &Table) -> Result<Self, Error> {
        let (mut schema, mut columns) = table.look(session).await?;
        if columns.is_empty() && table.create(session).await.map_err(for_all)? {
            (schema, columns) = table.look(session).await?;
        }
        if columns.is_empty() {
            return Err(match table.prepare(session, table.insert_unknown()).await {
                Err(Error::Invalid(said)) => Error::Target(table.missing(Some(said))),
                // Somebody has made it in this moment: the next look finds its columns.
                Ok(_) => Error::Target(table.missing(None)),
                Err(other) => other,
            });
        }
        let fields = table.fields(&columns).map_err(Error::Target)?;
        let mut statement = table.prepare(session, table.insert(&fields)).await.map_err(for_all)?;
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
    pub(super) async fn probe(&self, session: &Session, table: &Table) -> Result<Statement, Error> {
        let (statement, values) = table.insert_nothing(&self.fields);
        match session.query_unpaged(statement, values).await.map_err(|error| Error::from(&error)) {
            Ok(_) => Ok(Statement::Taken),
            Err(Error::Invalid(said)) => Ok(Statement::Refused(said)),
            Err(other) => Err(other),
        }
    }
}

/// Of what holds no value of a record.
fn for_all(error: Error) -> Error {
    match error {
        Error::Invalid(said) => Error::Target(TargetFault::new(DOES_NOT_FIT, said)),
        other => other,
    }
}

/// Nobody's fault: the same records fit the table as it is now, or are refused once more.
pub(super) fn changed() -> TargetFault {
    let fault = TargetFault::new(TargetFaultKind::Interrupted, "the table has changed");
    TargetFault { reopen: false, ..fault }
}
