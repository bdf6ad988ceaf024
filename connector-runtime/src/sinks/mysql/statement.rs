//! The statements that write into a table. Names are quoted, values never stand in the text.

use super::value::Source;
use crate::config::payload::PayloadFormat;
use crate::sinks::shared::relational::Conflict;

/// The columns that the default statement fills, those of them that the table has; in the order of the seed's `?`.
pub(super) fn default_columns(payload: PayloadFormat) -> [(&'static str, Source); 3] {
    [("record_key", Source::Key), ("payload", Source::Payload(payload)), ("timestamp", Source::TimestampMs)]
}

/// A table, and what is written into it.
#[derive(Clone, Debug)]
pub(super) struct Insert {
    table: String,
    columns: Vec<String>,
    conflict: Conflict,
}

impl Insert {
    pub(super) fn new(table: &str, columns: Vec<String>, conflict: Conflict) -> Self {
        Self { table: quoted(table), columns, conflict }
    }

    pub(super) fn of_rows(&self, count: usize) -> String {
        let columns: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let rows = vec![row; count].join(", ");
        format!("INSERT INTO {} ({}) VALUES {rows}{}", self.table, columns.join(", "), self.on_duplicate_key())
    }

    /// A row whose id is there already is looked for after the server has refused it: `UPDATE id = id` would also hide
    /// a duplicate of another key.
    fn on_duplicate_key(&self) -> String {
        match &self.conflict {
            Conflict::Refuse | Conflict::Skip { .. } => String::new(),
            Conflict::Replace { key } => {
                let others: Vec<String> = self.columns.iter().filter(|name| !key.contains(name)).cloned().collect();
                // A row that is nothing but its key stays as it is.
                let replaced = if others.is_empty() { key.clone() } else { others };
                let set: Vec<String> = replaced.iter().map(|name| format!("{0} = VALUES({0})", quoted(name))).collect();
                format!(" ON DUPLICATE KEY UPDATE {}", set.join(", "))
            }
        }
    }
}

/// Which of these ids are there. An id has digits, letters and dashes only.
pub(super) fn ids_that_are_there(table: &str, id_column: &str, ids: &[String]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    let (table, column) = (quoted(table), quoted(id_column));
    format!("SELECT {column} FROM {table} WHERE {column} IN ({})", ids.join(", "))
}

pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text whose bytes cannot end it, whatever they are.
pub(super) fn literal(text: &str) -> String {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("CONVERT(X'{digits}' USING utf8mb4)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(columns: &[&str], conflict: Conflict) -> Insert {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Insert::new("the `table`", columns, conflict)
    }

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let columns = ["payload", "x`y"];
        assert_eq!(
            insert(&columns, Conflict::Refuse).of_rows(1),
            "INSERT INTO `the ``table``` (`payload`, `x``y`) VALUES (?, ?)"
        );
        assert_eq!(
            insert(&columns, Conflict::Skip { id_column: "x`y".into() }).of_rows(3),
            "INSERT INTO `the ``table``` (`payload`, `x``y`) VALUES (?, ?), (?, ?), (?, ?)"
        );
        assert_eq!(
            insert(&columns, Conflict::Replace { key: vec!["x`y".into()] }).of_rows(1),
            "INSERT INTO `the ``table``` (`payload`, `x``y`) VALUES (?, ?) \
             ON DUPLICATE KEY UPDATE `payload` = VALUES(`payload`)"
        );
        assert_eq!(
            insert(&["k"], Conflict::Replace { key: vec!["k".into()] }).of_rows(1),
            "INSERT INTO `the ``table``` (`k`) VALUES (?) ON DUPLICATE KEY UPDATE `k` = VALUES(`k`)"
        );
        assert_eq!(
            ids_that_are_there("t", "i`d", &["7-1".into(), "7-2".into()]),
            "SELECT `i``d` FROM `t` WHERE `i``d` IN ('7-1', '7-2')"
        );
        assert_eq!(literal("a'\\"), "CONVERT(X'61275c' USING utf8mb4)");
    }
}
