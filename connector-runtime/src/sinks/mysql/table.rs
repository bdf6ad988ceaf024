//! The table as the server describes it: its columns, its unique keys, and whether it knows transactions.

use bytes::Bytes;

use super::answer::{AnswerError, TextRow};
use super::connect::Session;
use super::statement::literal;
use crate::sink::TargetFault;
use crate::sinks::shared::relational::DOES_NOT_FIT;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    name: String,
    /// Nothing where there is no such table, or it may not be seen.
    columns: Vec<Column>,
    unique_keys: Vec<UniqueKey>,
    /// A table without transactions has kept what came before the row that was refused.
    engine_without_transactions: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    data_type: String,
    /// A row that does not name it gets a value of its own, or NULL: it meets no other row there.
    unlike_any_other: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct UniqueKey {
    name: String,
    columns: Vec<String>,
    /// Only the first characters of a column count.
    of_prefixes: bool,
}

const COLUMNS: &str = "TABLE_NAME, COLUMN_NAME, LOWER(DATA_TYPE), \
    EXTRA LIKE '%auto_increment%' OR (IS_NULLABLE = 'YES' AND COALESCE(COLUMN_DEFAULT, 'NULL') = 'NULL' \
    AND COALESCE(GENERATION_EXPRESSION, '') = '') FROM information_schema.COLUMNS";
const KEYS: &str = "TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART IS NOT NULL FROM information_schema.STATISTICS";
const ENGINE: &str = "t.TABLE_NAME, t.ENGINE, e.TRANSACTIONS FROM information_schema.TABLES t \
    JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE";

impl Table {
    pub(super) async fn look_at(session: &mut Session, name: &str) -> Result<Self, AnswerError> {
        let it = format!("TABLE_SCHEMA = DATABASE() AND TABLE_NAME = {}", literal(name));
        let columns = session.query(&format!("SELECT {COLUMNS} WHERE {it} ORDER BY ORDINAL_POSITION")).await?;
        let keys = format!("SELECT {KEYS} WHERE {it} AND NON_UNIQUE = 0 ORDER BY INDEX_NAME, SEQ_IN_INDEX");
        let keys = session.query(&keys).await?;
        let engine = session.query(&format!("SELECT {ENGINE} WHERE {it}")).await?;

        let columns = of_table(columns, name).map(|[column, data_type, unlike_any_other]| Column {
            name: column,
            data_type,
            unlike_any_other: unlike_any_other == "1",
        });
        let mut unique_keys: Vec<UniqueKey> = Vec::new();
        for [key, column, of_prefix] in of_table(keys, name) {
            let of_prefixes = of_prefix == "1";
            match unique_keys.last_mut().filter(|last| last.name == key) {
                Some(last) => {
                    last.columns.push(column);
                    last.of_prefixes |= of_prefixes;
                }
                None => unique_keys.push(UniqueKey { name: key, columns: vec![column], of_prefixes }),
            }
        }
        let mut engines = of_table(engine, name);
        let without = engines.find(|[_, transactions]| transactions != "YES").map(|[engine, _]| engine);
        let (columns, name) = (columns.collect(), name.to_owned());
        Ok(Self { name, columns, unique_keys, engine_without_transactions: without })
    }

    /// Rows are refused also because the table is not any more what it was when it was looked at.
    pub(super) async fn has_changed(&self, session: &mut Session) -> Result<bool, AnswerError> {
        Ok(Self::look_at(session, &self.name).await? != *self)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn may_have(&self, column: &str) -> bool {
        self.columns.is_empty() || self.column(column).is_some()
    }

    pub(super) fn data_type(&self, column: &str) -> Option<&str> {
        self.column(column).map(|column| column.data_type.as_str())
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| same_name(&column.name, name))
    }

    pub(super) fn check_transactions(&self) -> Result<(), TargetFault> {
        let Some(engine) = &self.engine_without_transactions else { return Ok(()) };
        let message = format!(
            "{} is a table of the engine {engine}, which has no transactions: half a batch would stay behind",
            self.name
        );
        Err(TargetFault::new(DOES_NOT_FIT, message))
    }

    /// Without a unique key on exactly these columns nothing tells that a row is there already.
    pub(super) fn check_key(&self, key: &[String]) -> Result<(), TargetFault> {
        if self.unique_keys.iter().any(|unique| unique.is_of(key)) {
            return Ok(());
        }
        let message = format!("{} has no unique key on exactly {}", self.name, key.join(", "));
        Err(TargetFault::new(DOES_NOT_FIT, message))
    }

    /// `ON DUPLICATE KEY UPDATE` replaces the row that it meets by any key.
    pub(super) fn check_other_keys(&self, key: &[String], written: &[String]) -> Result<(), TargetFault> {
        let other = self.unique_keys.iter().find(|unique| !unique.is_of(key) && !self.never_meets(unique, written));
        let Some(other) = other else { return Ok(()) };
        let message = format!(
            "{} has another unique key, {} on {}: a row would replace any other one that it meets there",
            self.name,
            other.name,
            other.columns.join(", ")
        );
        Err(TargetFault::new(DOES_NOT_FIT, message))
    }

    fn never_meets(&self, key: &UniqueKey, written: &[String]) -> bool {
        let unwritten = key.columns.iter().filter(|column| !written.iter().any(|name| same_name(name, column)));
        unwritten.into_iter().any(|name| self.column(name).is_some_and(|column| column.unlike_any_other))
    }
}

impl UniqueKey {
    fn is_of(&self, columns: &[String]) -> bool {
        let among = |list: &[String], name: &str| list.iter().any(|found| same_name(found, name));
        !self.of_prefixes
            && self.columns.iter().all(|column| among(columns, column))
            && columns.iter().all(|column| among(&self.columns, column))
    }
}

/// Names of columns differ in more than case.
fn same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// Rows about this table, without its name. The catalogue compares names without case, also where tables differ in
/// case only.
fn of_table<const N: usize>(rows: Vec<TextRow>, table: &str) -> impl Iterator<Item = [String; N]> {
    let text = |value: Option<Bytes>| value.map(|text| String::from_utf8_lossy(&text).into_owned());
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.into_iter().map(|value| text(value).unwrap_or_default()).collect()).collect();
    let exact = rows.iter().any(|row| row.first().is_some_and(|name| name == table));
    let table = table.to_owned();
    rows.into_iter()
        .filter(move |row| !exact || row.first() == Some(&table))
        .filter_map(|row| row.into_iter().skip(1).collect::<Vec<_>>().try_into().ok())
}
