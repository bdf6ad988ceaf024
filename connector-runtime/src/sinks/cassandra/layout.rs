//! The table as it is, and as it is made where it is missing. Names are quoted, values never stand in the text.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use scylla::client::session::Session;
use scylla::cluster::Node;
use scylla::errors::ExecutionError;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, Statement};
use scylla::value::CqlValue;
use tokio::time::timeout;

use super::config::Config;
use super::fault::{DOES_NOT_FIT, Error, down};
use super::value::{COLUMNS, Cell, Source, Wire, wire};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

const KEYSPACE: &str = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
const TABLE_COLUMNS: &str =
    "SELECT column_name, kind, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
const VERSION: &str = "SELECT schema_version FROM system.local WHERE key = 'local'";

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
    /// Whose nodes rows are written through; any, where there is none.
    datacenter: Option<String>,
    /// How long it may take to prepare a statement at all nodes.
    limit: Duration,
}

/// A column that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) source: Source,
    pub(super) wire: Wire,
    pub(super) role: Role,
}

/// Of a column in the primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// By which a row's nodes are found.
    Partition,
    Clustering,
    None,
}

/// Of a column, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Column {
    name: String,
    kind: String,
    type_name: String,
}

impl Column {
    fn role(&self) -> Role {
        match self.kind.as_str() {
            "partition_key" => Role::Partition,
            "clustering" => Role::Clustering,
            _ => Role::None,
        }
    }
}

impl Table {
    pub(super) fn new(config: &Config) -> Self {
        let replication = config.create_if_missing.then(|| {
            let where_to = config.datacenter.as_deref().unwrap_or("replication_factor");
            let copies = config.replication_factor;
            format!("{{'class': 'NetworkTopologyStrategy', '{}': {copies}}}", where_to.replace('\'', "''"))
        });
        Self {
            keyspace: config.keyspace.clone(),
            name: config.table.clone(),
            replication,
            ttl_secs: config.ttl_secs,
            datacenter: config.datacenter.clone(),
            limit: Duration::from_secs(config.timeout_secs),
        }
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.keyspace), quoted(&self.name))
    }

    /// Says of each value what its bytes are: a table that was made anew with other types refuses the statement.
    pub(super) fn insert(&self, fields: &[Field]) -> String {
        let value = |field: &Field| match field.role {
            // The server does not tell which value is the key where that says its type.
            Role::Partition => "?".to_owned(),
            Role::Clustering | Role::None => format!("({})?", field.wire.name()),
        };
        self.insert_of(fields, value, "?")
    }

    fn insert_of(&self, fields: &[Field], value: impl Fn(&Field) -> String, time: &str) -> String {
        let names: Vec<String> = fields.iter().map(|field| quoted(field.name)).collect();
        let values: Vec<String> = fields.iter().map(value).collect();
        let ttl = self.ttl_secs.map(|seconds| format!(" AND TTL {seconds}")).unwrap_or_default();
        let (table, names, values) = (self.quoted(), names.join(", "), values.join(", "));
        format!("INSERT INTO {table} ({names}) VALUES ({values}) USING TIMESTAMP {time}{ttl}")
    }

    /// Writes a row without values and takes it away, at once and both as of 1970, so that nobody ever sees it: what the
    /// server says about this it says about every insert. Once for each of both come the values of the key.
    pub(super) fn insert_nothing(&self, fields: &[Field]) -> (String, Vec<Cell>) {
        let is_key = |field: &&Field| field.role != Role::None;
        let value = |field: &Field| if is_key(&field) { "?" } else { "null" }.to_owned();
        let keys: Vec<String> =
            fields.iter().filter(is_key).map(|field| format!("{} = ?", quoted(field.name))).collect();
        let (insert, table, keys) = (self.insert_of(fields, value, "1"), self.quoted(), keys.join(" AND "));
        let delete = format!("DELETE FROM {table} USING TIMESTAMP 1 WHERE {keys}");
        let innocent = || fields.iter().filter(is_key).map(|field| field.wire.innocent());
        (format!("BEGIN UNLOGGED BATCH {insert}; {delete}; APPLY BATCH"), innocent().chain(innocent()).collect())
    }

    /// Of a table that is not there: the server says so itself when it is asked to prepare it.
    pub(super) fn insert_unknown(&self) -> String {
        format!("INSERT INTO {} ({}) VALUES (?)", self.quoted(), quoted(COLUMNS[0].0))
    }

    /// The columns, empty where there is no such table, and the version of the schema that the nodes have. Each of them
    /// must know the same columns, whatever its version.
    pub(super) async fn look(&self, session: &Session) -> Result<(Option<SchemaVersion>, Vec<Column>), Error> {
        // First, so that whatever changes meanwhile is seen as a change.
        let version = self.schema_version(session).await?;
        let nodes = self.nodes(session);
        let asked = nodes.iter().map(|node| self.columns(session, of_this_node(TABLE_COLUMNS, node)));
        match agreed(join_all(asked).await)? {
            Some(columns) => Ok((version, columns)),
            None => Err(Error::Target(down(&format!("not every node knows {} as it is now", self.quoted())))),
        }
    }

    /// That of all nodes which can be asked; `None` where they have several, as when a cluster gets a new release node by
    /// node.
    pub(super) async fn schema_version(&self, session: &Session) -> Result<Option<SchemaVersion>, Error> {
        let nodes = self.nodes(session);
        agreed(join_all(nodes.iter().map(|node| version_of(session, node))).await)
    }

    /// Those that rows are written through: it is such a node that reads values, by the types of the columns that it
    /// knows. Who is not connected says at once why.
    fn nodes(&self, session: &Session) -> Vec<Arc<Node>> {
        let state = session.get_cluster_state();
        let is_ours = |node: &Node| self.datacenter.is_none() || node.datacenter == self.datacenter;
        state.get_nodes_info().iter().filter(|node| is_ours(node)).cloned().collect()
    }

    /// The driver waits for all nodes, and for each of them as long as it is connected.
    pub(super) async fn prepare(&self, session: &Session, statement: String) -> Result<PreparedStatement, Error> {
        in_time(self.limit, session.prepare(statement)).await?.map_err(|error| Error::from(&error))
    }

    async fn columns(&self, session: &Session, statement: Statement) -> Result<Vec<Column>, Error> {
        let answer = session.query_unpaged(statement, (&self.keyspace, &self.name)).await;
        let rows = answer.map_err(|error| Error::from(&error))?.into_rows_result().map_err(|error| odd(&error))?;
        let mut columns = Vec::new();
        for row in rows.rows::<(String, String, String)>().map_err(|error| odd(&error))? {
            let (name, kind, type_name) = row.map_err(|error| odd(&error))?;
            columns.push(Column { name, kind, type_name });
        }
        columns.sort();
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
            fields.push(Field { name, source, wire, role: column.role() });
        }
        let is_filled = |column: &Column| fields.iter().any(|field| field.name == column.name);
        if let Some(column) = columns.iter().find(|column| column.role() != Role::None && !is_filled(column)) {
            let (table, name) = (self.quoted(), &column.name);
            let message = format!("column {name} of the primary key of {table} is none of {}", known());
            return Err(TargetFault::new(DOES_NOT_FIT, message));
        }
        Ok(fields)
    }

    /// The server's words about what it was asked for with a table that it does not know.
    pub(super) fn missing(&self, said: Option<String>) -> TargetFault {
        let said = said.unwrap_or_else(|| format!("{} had no columns a moment ago", self.quoted()));
        TargetFault::new(TargetFaultKind::Missing, said)
    }
}

/// What all say who were asked; `None` where they say several things. Who cannot be asked, or does not answer in time,
/// says nothing against the others: that is an error only where nobody answers.
fn agreed<T: PartialEq>(answers: Vec<Result<T, Error>>) -> Result<Option<T>, Error> {
    let (mut told, mut silent) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(answer) => told.push(answer),
            Err(error) => silent = silent.or(Some(error)),
        }
    }
    let mut told = told.into_iter();
    match told.next() {
        Some(first) => Ok(told.all(|other| other == first).then_some(first)),
        None => Err(silent.unwrap_or_else(|| Error::NoNode("no node can be used".to_owned()))),
    }
}

async fn version_of(session: &Session, node: &Arc<Node>) -> Result<SchemaVersion, Error> {
    let answer = session.query_unpaged(of_this_node(VERSION, node), ()).await;
    let rows = answer.map_err(|error| Error::from(&error))?.into_rows_result().map_err(|error| odd(&error))?;
    let (version,) = rows.single_row::<(SchemaVersion,)>().map_err(|error| odd(&error))?;
    Ok(version)
}

async fn in_time<T>(limit: Duration, asked: impl Future<Output = T>) -> Result<T, Error> {
    timeout(limit, asked).await.map_err(|_| Error::Silent(format!("no answer within {} s", limit.as_secs_f64())))
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

fn of_this_node(statement: &str, node: &Arc<Node>) -> Statement {
    let mut statement = of_one_node(statement);
    let node = NodeIdentifier::Node(Arc::clone(node));
    statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(node, None)));
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
        let (keyspace, name) = ("my \"space\"".to_owned(), "Table".to_owned());
        Table { keyspace, name, replication: None, ttl_secs, datacenter: None, limit: Duration::from_secs(1) }
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
        let columns = [KEY, ("topic", "clustering", "text"), ("qos", "regular", "int"), ("seen", "regular", "int")];
        let fields = table(None).fields(&self::columns(&columns)).expect("fits");
        let into = r#"INSERT INTO "my ""space"""."Table" ("msgid", "topic", "qos") VALUES"#;
        let insert = format!("{into} (?, (text)?, (int)?) USING TIMESTAMP ?");
        assert_eq!(table(None).insert(&fields), insert);
        assert_eq!(table(Some(60)).insert(&fields), format!("{insert} AND TTL 60"));
        let (statement, values) = table(Some(60)).insert_nothing(&fields);
        let insert = format!("{into} (?, ?, null) USING TIMESTAMP 1 AND TTL 60");
        let delete = r#"DELETE FROM "my ""space"""."Table" USING TIMESTAMP 1 WHERE "msgid" = ? AND "topic" = ?"#;
        assert_eq!(statement, format!("BEGIN UNLOGGED BATCH {insert}; {delete}; APPLY BATCH"));
        assert_eq!(values.len(), 4);
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

    /// The driver would wait as long as it takes.
    #[tokio::test(start_paused = true)]
    async fn a_statement_that_nobody_prepares_is_given_up() {
        let asked = in_time(Duration::from_secs(15), std::future::pending::<()>()).await;
        assert!(matches!(&asked, Err(Error::Silent(words)) if words == "no answer within 15 s"), "{asked:?}");
        assert!(matches!(in_time(Duration::from_secs(15), async { 1 }).await, Ok(1)));
    }

    #[test]
    fn a_node_that_cannot_be_asked_says_nothing_against_the_others() {
        let silent = || Err(Error::Silent("silent".to_owned()));
        let lost = || Err(Error::Lost("lost".to_owned()));
        for (answers, expect) in [
            (vec![Ok(1)], Some(1)),
            (vec![Ok(1), Ok(1)], Some(1)),
            (vec![Ok(1), Ok(2)], None),
            (vec![silent(), Ok(1), lost(), Ok(1)], Some(1)),
            (vec![Ok(1), silent(), Ok(2)], None),
        ] {
            let text = format!("{answers:?}");
            let found = agreed(answers).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(found, expect, "{text}");
        }
        let nobody = agreed::<u8>(vec![silent(), lost()]);
        assert!(matches!(nobody, Err(Error::Silent(_))), "{nobody:?}");
        let none = agreed::<u8>(Vec::new());
        assert!(matches!(none, Err(Error::NoNode(_))), "{none:?}");
    }
}
