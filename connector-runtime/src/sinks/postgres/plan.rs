//! How a connection writes: decided once for each connection, from the configuration and from the table as it is.
//!
//! | configuration | plan |
//! |---|---|
//! | `sql_template`, or no `enable_batch_insert` | `Rows`: a prepared statement for each record |
//! | `enable_batch_insert` | `Copy`: binary COPY |
//! | … with `id_column` or `enable_upsert`, into a view, with row-level security, with rules for INSERT, or with a column whose type has no form here | `Arrays`: one INSERT from an array for each column |

use api_types::ClusterId;
use tokio_postgres::{Client, Row, Statement};

use super::config::Config;
use super::fault::target_fault;
use super::statement::{DEFAULT_COLUMNS, Insert, bare_table, quoted_table};
use super::value::{Field, RowFormat, Source, Wire};
use crate::sink::TargetFault;
use crate::sinks::shared::relational::{Conflict, written_columns};
use crate::template::TemplateError;
use crate::template::statement::{Dialect, Parameters, StatementTemplate};

/// What the user wants written.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Statement(StatementTemplate),
    Rows { table: String, conflict: Conflict, many_at_once: bool, cluster: ClusterId },
}

pub(super) enum Plan {
    Rows { statement: Statement, format: RowFormat },
    Arrays { statement: Statement, format: RowFormat, key: Vec<usize> },
    Copy { statement: Statement, format: RowFormat, table: TableCheck },
}

impl Plan {
    pub(super) fn format(&self) -> &RowFormat {
        match self {
            Self::Rows { format, .. } | Self::Arrays { format, .. } | Self::Copy { format, .. } => format,
        }
    }
}

/// A COPY in binary takes eight bytes for a time or for a number alike: after each one, and before its transaction is
/// committed, the table is compared with what the plan was made for.
pub(super) struct TableCheck {
    /// Without its schema, as messages of the server have it.
    pub(super) bare_name: String,
    pub(super) quoted_name: String,
    pub(super) statement: Statement,
    pub(super) layout: Layout,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// `relkind` of pg_class.
    kind: String,
    /// COPY is refused where row-level security counts for this role.
    row_security: bool,
    /// COPY passes them by.
    insert_rules: bool,
    /// In their order.
    columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    type_oid: u32,
    not_null: bool,
}

const LAYOUT: &str = "\
    SELECT a.attname::text, a.atttypid, c.relkind::text, pg_catalog.row_security_active(c.oid), \
    EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '3' AND r.ev_enabled <> 'D'), \
    a.attnotnull \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
    WHERE c.oid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
    ORDER BY a.attnum";

impl Wanted {
    pub(super) fn new(config: &Config, cluster: ClusterId) -> Result<Self, TemplateError> {
        if let Some(template) = &config.sql_template {
            return StatementTemplate::parse(template, Dialect::Postgres).map(Self::Statement);
        }
        let key = config.conflict_columns.as_ref().map(|columns| columns.0.as_slice());
        let conflict = Conflict::new(config.id_column.as_deref(), config.enable_upsert, key);
        Ok(Self::Rows { table: config.table.clone(), conflict, many_at_once: config.enable_batch_insert, cluster })
    }

    pub(super) async fn plan(&self, client: &Client) -> Result<Plan, TargetFault> {
        match self {
            Self::Statement(template) => plan_of_template(client, template).await,
            Self::Rows { table, conflict, many_at_once, cluster } => {
                plan_of_table(client, table, conflict, *many_at_once, *cluster).await
            }
        }
    }
}

async fn plan_of_template(client: &Client, template: &StatementTemplate) -> Result<Plan, TargetFault> {
    let statement = client.prepare(&template.sql).await.map_err(|error| target_fault(&error))?;
    let sources: Vec<Source> = match &template.parameters {
        Parameters::Seed => DEFAULT_COLUMNS.into_iter().map(|(_, source)| source).collect(),
        Parameters::Named(placeholders) => placeholders.iter().cloned().map(Source::Named).collect(),
    };
    let fields = sources.into_iter().zip(statement.params()).map(|(source, parameter)| Field::new(source, parameter));
    let format = RowFormat::new(fields.collect());
    Ok(Plan::Rows { statement, format })
}

async fn plan_of_table(
    client: &Client,
    table: &str,
    conflict: &Conflict,
    many_at_once: bool,
    cluster: ClusterId,
) -> Result<Plan, TargetFault> {
    let refused = |error: tokio_postgres::Error| target_fault(&error);
    let quoted_name = quoted_table(table);
    let layout_statement = client.prepare(LAYOUT).await.map_err(refused)?;
    let layout = layout(client, &layout_statement, &quoted_name).await.map_err(refused)?;
    let (names, sources) = columns(table, &layout, conflict, cluster)?;
    let key = conflict.places_of_key(&names)?;
    let may_be_null: Vec<bool> =
        names.iter().enumerate().map(|(at, name)| layout.takes_null(name) && !key.contains(&at)).collect();
    let insert = Insert::new(table, names, conflict.clone());

    let row_statement = client.prepare(&insert.of_one_row()).await.map_err(refused)?;
    // Finds a missing permission and a missing unique index before the first record does.
    client.batch_execute(&insert.explained()).await.map_err(refused)?;
    let types = row_statement.params().to_vec();
    let mut fields: Vec<Field> =
        sources.into_iter().zip(&types).map(|(source, column)| Field::new(source, column)).collect();
    let has_bytes = fields.iter().any(|field| field.source == Source::Payload && field.wire == Wire::Bytea);
    for (field, may_be_null) in fields.iter_mut().zip(may_be_null) {
        field.null_unless_text = has_bytes && may_be_null && field.source == Source::Payload && field.wire.is_text();
    }
    let wires: Vec<(Wire, _)> = fields.iter().map(|field| field.wire).zip(types).collect();
    let format = RowFormat::new(fields);
    if !many_at_once {
        return Ok(Plan::Rows { statement: row_statement, format });
    }
    if *conflict != Conflict::Refuse || format.has_literals() || !layout.takes_copy() {
        let statement = client.prepare(&insert.of_many_rows(&wires)).await.map_err(refused)?;
        return Ok(Plan::Arrays { statement, format, key });
    }
    let statement = client.prepare(&insert.copy()).await.map_err(refused)?;
    let table =
        TableCheck { bare_name: bare_table(table).to_owned(), quoted_name, statement: layout_statement, layout };
    Ok(Plan::Copy { statement, format, table })
}

/// The columns that are written, and what they get. A table that is not there gets the statement that says so.
fn columns(
    table: &str,
    layout: &Layout,
    conflict: &Conflict,
    cluster: ClusterId,
) -> Result<(Vec<String>, Vec<Source>), TargetFault> {
    let is_there = |column: &str| layout.columns.is_empty() || layout.columns.iter().any(|found| found.name == column);
    let id = match conflict {
        Conflict::Skip { id_column } => Some((id_column.as_str(), Source::Id(cluster))),
        Conflict::Refuse | Conflict::Replace { .. } => None,
    };
    written_columns(table, DEFAULT_COLUMNS, is_there, id)
}

pub(super) async fn layout(
    client: &Client,
    statement: &Statement,
    quoted_table: &str,
) -> Result<Layout, tokio_postgres::Error> {
    let rows = client.query(statement, &[&quoted_table]).await?;
    let column = |row: &Row| {
        Ok::<_, tokio_postgres::Error>(Column {
            name: row.try_get(0)?,
            type_oid: row.try_get(1)?,
            not_null: row.try_get(5)?,
        })
    };
    let columns: Result<_, _> = rows.iter().map(column).collect();
    let mut layout = Layout { columns: columns?, ..Layout::default() };
    if let Some(row) = rows.first() {
        layout.kind = row.try_get(2)?;
        layout.row_security = row.try_get(3)?;
        layout.insert_rules = row.try_get(4)?;
    }
    Ok(layout)
}

impl Layout {
    fn takes_null(&self, column: &str) -> bool {
        self.columns.iter().any(|found| found.name == column && !found.not_null)
    }

    /// Tables and partitioned tables. A view takes INSERT only, a foreign table may.
    fn takes_copy(&self) -> bool {
        ["r", "p"].contains(&self.kind.as_str()) && !self.row_security && !self.insert_rules
    }
}
