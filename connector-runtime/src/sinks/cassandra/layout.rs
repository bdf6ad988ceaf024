//! The table as it is, and as it is made where it is missing. Names are quoted, values never stand in the text.

use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::statement::{Consistency, Statement};
use scylla::value::CqlValue;

use super::config::Config;
use super::fault::{DOES_NOT_FIT, Error};
use super::value::{COLUMNS, Source, Wire, wire};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

const SCHEMA_VERSION: &str = "SELECT schema_version FROM system.local WHERE key = 'local'";
const KEYSPACE: &str = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
const TABLE_COLUMNS: &str =
    "SELECT column_name, kind, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";

/// Changes with every table, column or keyspace of the cluster.
pub(super) type SchemaVersion = CqlValue;

/// A table by its name.
#[derive(Clone, Debug)]
pub(super) struct Table {
    keyspace: String,
    name: String,
    /// What is made when it is missing: the options of a new keyspace.
    replication: Option<String>,
    ttl_secs: Option<u32>,
}

/// A column that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) source: Source,
    pub(super) wire: Wire,
    /// Part of the primary key.
    pub(super) is_key: bool,
}

/// Of a column, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    name: String,
    kind: String,
    type_name: String,
}

impl Column {
    fn is_key(&self) -> bool {
        ["partition_key", "clustering"].contains(&self.kind.as_str())
    }
}

impl Table {
    pub(super) fn new(config: &Config) -> Self {
        let replication = config.create_if_missing.then(|| {
            let where_to = config.datacenter.as_deref().unwrap_or("replication_factor");
            let copies = config.replication_factor;
            format!("{{'class': 'NetworkTopologyStrategy', '{}': {copies}}}", where_to.replace('\'', "''"))
        });
        Self { keyspace: config.keyspace.clone(), name: config.table.clone(), replication, ttl_secs: config.ttl_secs }
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.keyspace), quoted(&self.name))
    }

    pub(super) fn insert(&self, fields: &[Field]) -> String {
        let names: Vec<String> = fields.iter().map(|field| quoted(field.name)).collect();
        let values = vec!["?"; fields.len()].join(", ");
        let ttl = self.ttl_secs.map(|seconds| format!(" AND TTL {seconds}")).unwrap_or_default();
        format!("INSERT INTO {} ({}) VALUES ({values}) USING TIMESTAMP ?{ttl}", self.quoted(), names.join(", "))
    }

    /// Takes away, as of 1970, a row that is not there: the statement shares everything with an insert but the values.
    pub(super) fn delete_nothing(&self, fields: &[Field]) -> String {
        let keys: Vec<String> =
            fields.iter().filter(|field| field.is_key).map(|field| format!("{} = ?", quoted(field.name))).collect();
        format!("DELETE FROM {} USING TIMESTAMP 1 WHERE {}", self.quoted(), keys.join(" AND "))
    }

    /// Empty where there is no such table.
    pub(super) async fn columns(&self, session: &Session) -> Result<Vec<Column>, Error> {
        let answer = session.query_unpaged(of_one_node(TABLE_COLUMNS), (&self.keyspace, &self.name)).await;
        let rows = answer.map_err(|error| Error::from(&error))?.into_rows_result().map_err(|error| odd(&error))?;
        let mut columns = Vec::new();
        for row in rows.rows::<(String, String, String)>().map_err(|error| odd(&error))? {
            let (name, kind, type_name) = row.map_err(|error| odd(&error))?;
            columns.push(Column { name, kind, type_name });
        }
        Ok(columns)
    }

    /// Makes what is missing, where that is wanted; `false` where it is not.
    pub(super) async fn create(&self, session: &Session) -> Result<bool, Error> {
        let Some(replication) = &self.replication else { return Ok(false) };
        let found = session.query_unpaged(of_one_node(KEYSPACE), (&self.keyspace,)).await;
        let found = found.map_err(|error| Error::from(&error))?;
        if found.into_rows_result().map_err(|error| odd(&error))?.rows_num() == 0 {
            let keyspace = quoted(&self.keyspace);
            run(session, format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}")).await?;
        }
        let columns = "msgid text PRIMARY KEY, topic text, qos int, payload blob, arrived timestamp";
        run(session, format!("CREATE TABLE IF NOT EXISTS {} ({columns})", self.quoted())).await?;
        Ok(true)
    }

    /// What is written into these columns.
    pub(super) fn fields(&self, columns: &[Column]) -> Result<Vec<Field>, TargetFault> {
        let mut fields = Vec::new();
        for (name, source) in COLUMNS {
            let Some(column) = columns.iter().find(|column| column.name == name) else { continue };
            let Some(wire) = wire(source, &column.type_name) else {
                let message = format!("column {name} of {} has type {}", self.quoted(), column.type_name);
                return Err(TargetFault::new(DOES_NOT_FIT, message));
            };
            fields.push(Field { name, source, wire, is_key: column.is_key() });
        }
        let is_filled = |column: &Column| fields.iter().any(|field| field.name == column.name);
        if let Some(column) = columns.iter().find(|column| column.is_key() && !is_filled(column)) {
            let (table, name) = (self.quoted(), &column.name);
            let message = format!("column {name} of the primary key of {table} is none of {}", known());
            return Err(TargetFault::new(DOES_NOT_FIT, message));
        }
        Ok(fields)
    }

    /// Those of a table that is not there: the server says so itself when it is asked to prepare them.
    pub(super) fn fields_of_default() -> Vec<Field> {
        let field = |(name, source)| Field { name, source, wire: Wire::Text, is_key: false };
        COLUMNS.into_iter().map(field).collect()
    }

    /// The server's words about a statement that it calls invalid before it has seen a value.
    pub(super) fn refused(is_there: bool, said: String) -> TargetFault {
        TargetFault::new(if is_there { DOES_NOT_FIT } else { TargetFaultKind::Missing }, said)
    }
}

pub(super) async fn schema_version(session: &Session) -> Result<SchemaVersion, Error> {
    let answer = session.query_unpaged(of_one_node(SCHEMA_VERSION), ()).await.map_err(|error| Error::from(&error))?;
    let rows = answer.into_rows_result().map_err(|error| odd(&error))?;
    let (version,): (Option<CqlValue>,) = rows.single_row().map_err(|error| odd(&error))?;
    Ok(version.unwrap_or(CqlValue::Empty))
}

async fn run(session: &Session, statement: String) -> Result<(), Error> {
    match session.query_unpaged(of_one_node(&statement), ()).await {
        Ok(_) => Ok(()),
        // Made, and not known to every node yet: it is looked at next.
        Err(ExecutionError::SchemaAgreementError(_)) => Ok(()),
        Err(error) => Err(Error::from(&error)),
    }
}

/// What a node knows of itself has one replica, whatever rows are written with.
fn of_one_node(statement: &str) -> Statement {
    let mut statement = Statement::new(statement);
    statement.set_consistency(Consistency::LocalOne);
    statement
}

/// An answer that no server gives.
fn odd(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Target(TargetFault::new(TargetFaultKind::Down, chain(error)))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn known() -> String {
    COLUMNS.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(ttl_secs: Option<u32>) -> Table {
        Table { keyspace: "my \"space\"".to_owned(), name: "Table".to_owned(), replication: None, ttl_secs }
    }

    fn columns(columns: &[(&str, &str, &str)]) -> Vec<Column> {
        let column = |(name, kind, type_name): &(&str, &str, &str)| Column {
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            type_name: (*type_name).to_owned(),
        };
        columns.iter().map(column).collect()
    }

    const KEY: (&str, &str, &str) = ("msgid", "partition_key", "text");

    #[test]
    fn names_are_quoted_and_values_are_bound() {
        let found = columns(&[("topic", "clustering", "text"), KEY, ("seen", "regular", "int")]);
        let fields = table(None).fields(&found).expect("fits");
        let insert = r#"INSERT INTO "my ""space"""."Table" ("msgid", "topic") VALUES (?, ?) USING TIMESTAMP ?"#;
        assert_eq!(table(None).insert(&fields), insert);
        assert_eq!(table(Some(60)).insert(&fields), format!("{insert} AND TTL 60"));
        assert_eq!(
            table(None).delete_nothing(&fields),
            r#"DELETE FROM "my ""space"""."Table" USING TIMESTAMP 1 WHERE "msgid" = ? AND "topic" = ?"#
        );
    }

    #[test]
    fn a_table_must_take_what_is_written() {
        for (found, expect) in [
            (columns(&[KEY, ("payload", "regular", "blob")]), None),
            (columns(&[KEY, ("qos", "regular", "uuid")]), Some("column qos of")),
            (columns(&[KEY, ("bucket", "partition_key", "int")]), Some("column bucket of the primary key")),
            (columns(&[("id", "partition_key", "text")]), Some("column id of the primary key")),
        ] {
            let fault = table(None).fields(&found).err();
            assert_eq!(fault.is_some(), expect.is_some(), "{found:?}: {fault:?}");
            if let (Some(fault), Some(expect)) = (fault, expect) {
                assert!(fault.kind == DOES_NOT_FIT && fault.message.starts_with(expect), "{fault:?}");
            }
        }
    }
}
