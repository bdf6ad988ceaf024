//! How a connection writes: decided once for each connection, from the configuration and from the table as it is.
//!
//! | configuration | rows are written |
//! |---|---|
//! | `sql_template`, or no `enable_batch_insert` | by a prepared statement for each record |
//! | `enable_batch_insert` | by statements for 1, 2, 4, … rows, each prepared when it is first needed |

use api_types::ClusterId;

use super::answer::AnswerError;
use super::config::Config;
use super::connect::Session;
use super::fault::target_fault;
use super::statement::{Insert, default_columns, ids_that_are_there};
use super::table::Table;
use super::value::{Field, RowFormat, Source};
use crate::config::payload::PayloadFormat;
use crate::sink::TargetFault;
use crate::sinks::shared::relational::{Conflict, DOES_NOT_FIT, written_columns};
use crate::template::TemplateError;
use crate::template::statement::{Dialect, Parameters, StatementTemplate};

/// What a statement can have at most.
const PARAMETERS_MAX: usize = 65_535;
/// The largest statement has 2^10 rows: more make it no faster, and each size that is prepared takes memory there.
const SIZES: usize = 11;

/// What the user wants written.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Statement { template: StatementTemplate, payload: PayloadFormat },
    Rows { table: String, payload: PayloadFormat, conflict: Conflict, many_at_once: bool, cluster: ClusterId },
}

pub(super) struct Plan {
    pub(super) format: RowFormat,
    /// Those that are written; a statement of one's own has none that are known.
    pub(super) columns: Vec<String>,
    /// For one record.
    pub(super) statement: u32,
    pub(super) many: Option<Many>,
    pub(super) ids: Option<Ids>,
    /// What the plan was made for; a statement of one's own has no table that is known.
    pub(super) table: Option<Table>,
}

/// Statements for many rows: the one for 2^n rows stands at place n.
pub(super) struct Many {
    insert: Insert,
    prepared: Vec<Option<u32>>,
}

/// Where the ids of rows are looked up.
pub(super) struct Ids {
    table: String,
    column: String,
    pub(super) cluster: ClusterId,
}

impl Wanted {
    pub(super) fn new(config: &Config, cluster: ClusterId) -> Result<Self, TemplateError> {
        let payload = config.payload_format;
        if let Some(template) = &config.sql_template {
            let template = StatementTemplate::parse(template, Dialect::Mysql)?;
            return Ok(Self::Statement { template, payload });
        }
        let key = config.conflict_columns.as_ref().map(|columns| columns.0.as_slice());
        let conflict = Conflict::new(config.id_column.as_deref(), config.enable_upsert, key);
        let (table, many_at_once) = (config.table.clone(), config.enable_batch_insert);
        Ok(Self::Rows { table, payload, conflict, many_at_once, cluster })
    }

    pub(super) async fn plan(&self, session: &mut Session) -> Result<Plan, TargetFault> {
        match self {
            Self::Statement { template, payload } => plan_of_template(session, template, *payload).await,
            Self::Rows { table, payload, conflict, many_at_once, cluster } => {
                let found = Table::look_at(session, table).await.map_err(|error| target_fault(&error))?;
                let ours = default_columns(*payload);
                let id = match conflict {
                    Conflict::Skip { id_column } => Some((id_column.as_str(), Source::Id(*cluster))),
                    Conflict::Refuse | Conflict::Replace { .. } => None,
                };
                let (names, sources) = written_columns(table, ours, |column| found.may_have(column), id)?;
                let fields = names.iter().zip(sources).map(|(name, source)| Field::new(source, found.data_type(name)));
                let format = RowFormat::new(fields.collect());
                conflict.places_of_key(&names)?;
                let insert = Insert::new(table, names.clone(), conflict.clone());
                // The server says what is missing, before the first record does.
                let prepared = session.prepare(&insert.of_rows(1)).await.map_err(|error| target_fault(&error))?;
                found.check_transactions()?;
                let ids = check_conflict(session, &found, table, conflict, &names, *cluster).await?;
                let many = many_at_once.then(|| Many::new(insert, prepared.id, format.width()));
                Ok(Plan { format, columns: names, statement: prepared.id, many, ids, table: Some(found) })
            }
        }
    }
}

async fn plan_of_template(
    session: &mut Session,
    template: &StatementTemplate,
    payload: PayloadFormat,
) -> Result<Plan, TargetFault> {
    let prepared = session.prepare(&template.sql).await.map_err(|error| target_fault(&error))?;
    let sources: Vec<Source> = match &template.parameters {
        Parameters::Seed => default_columns(payload).into_iter().map(|(_, source)| source).collect(),
        Parameters::Named(placeholders) => placeholders.iter().cloned().map(Source::Named).collect(),
    };
    if usize::from(prepared.parameters) != sources.len() {
        let (found, meant) = (prepared.parameters, sources.len());
        let message = format!("the server finds {found} parameters in the statement, and {meant} are meant");
        return Err(TargetFault::new(DOES_NOT_FIT, message));
    }
    if prepared.columns > 0 {
        return Err(TargetFault::new(DOES_NOT_FIT, "the statement answers with rows, which nobody would read"));
    }
    let format = RowFormat::new(sources.into_iter().map(|source| Field::new(source, None)).collect());
    Ok(Plan { format, columns: Vec::new(), statement: prepared.id, many: None, ids: None, table: None })
}

async fn check_conflict(
    session: &mut Session,
    found: &Table,
    table: &str,
    conflict: &Conflict,
    names: &[String],
    cluster: ClusterId,
) -> Result<Option<Ids>, TargetFault> {
    match conflict {
        Conflict::Refuse => Ok(None),
        Conflict::Replace { key } => {
            found.check_key(key)?;
            found.check_other_keys(key, names)?;
            Ok(None)
        }
        Conflict::Skip { id_column } => {
            found.check_key(std::slice::from_ref(id_column))?;
            let ids = Ids { table: table.to_owned(), column: id_column.clone(), cluster };
            // Whether they may be read at all.
            session.query(&ids.query(&[String::new()])).await.map_err(|error| target_fault(&error))?;
            Ok(Some(ids))
        }
    }
}

impl Ids {
    pub(super) fn query(&self, ids: &[String]) -> String {
        ids_that_are_there(&self.table, &self.column, ids)
    }
}

impl Many {
    fn new(insert: Insert, of_one_row: u32, width: usize) -> Self {
        let sizes = (0..SIZES).filter(|size| (1 << size) * width.max(1) <= PARAMETERS_MAX).count();
        let mut prepared = vec![None; sizes];
        if let Some(first) = prepared.first_mut() {
            *first = Some(of_one_row);
        }
        Self { insert, prepared }
    }

    /// The largest size for this many rows.
    pub(super) fn size_within(&self, rows: usize) -> usize {
        let largest = rows.max(1).ilog2() as usize;
        largest.min(self.prepared.len().saturating_sub(1))
    }

    pub(super) async fn prepared(&mut self, session: &mut Session, size: usize) -> Result<u32, AnswerError> {
        if let Some(known) = self.prepared.get(size).copied().flatten() {
            return Ok(known);
        }
        let prepared = session.prepare(&self.insert.of_rows(1 << size)).await?;
        if let Some(place) = self.prepared.get_mut(size) {
            *place = Some(prepared.id);
        }
        Ok(prepared.id)
    }
}
