//! The statements that write into a table. Names are quoted, values never stand in the text.

use tokio_postgres::types::Type;

use super::value::{Source, Wire};
use crate::sinks::shared::relational::Conflict;

/// The columns that the default statement fills, those of them that the table has.
pub(super) const DEFAULT_COLUMNS: [(&str, Source); 5] = [
    ("client_id", Source::ClientId),
    ("topic", Source::Topic),
    ("timestamp", Source::TimestampMs),
    ("payload", Source::Payload),
    ("data", Source::Payload),
];

/// A table, and what is written into it.
#[derive(Clone, Debug)]
pub(super) struct Insert {
    table: String,
    columns: Vec<String>,
    conflict: Conflict,
}

impl Insert {
    pub(super) fn new(table: &str, columns: Vec<String>, conflict: Conflict) -> Self {
        Self { table: quoted_table(table), columns, conflict }
    }

    pub(super) fn of_one_row(&self) -> String {
        let parameters: Vec<String> = (1..=self.columns.len()).map(|number| format!("${number}")).collect();
        format!("{} VALUES ({}){}", self.insert_into(), parameters.join(", "), self.on_conflict())
    }

    /// Says what the server thinks of the statement, and writes nothing.
    pub(super) fn explained(&self) -> String {
        let nulls = vec!["NULL"; self.columns.len()].join(", ");
        format!("EXPLAIN {} VALUES ({nulls}){}", self.insert_into(), self.on_conflict())
    }

    /// One parameter for each column, an array of its values.
    pub(super) fn of_many_rows(&self, columns: &[(Wire, Type)]) -> String {
        let (mut arrays, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (wire, column)) in columns.iter().enumerate() {
            let number = at + 1;
            arrays.push(format!("${number}::{}[]", wire.element_type().name()));
            names.push(format!("c{number}"));
            values.push(match wire {
                Wire::Literal => {
                    format!("r.c{number}::{}.{}", quoted(column.schema()), quoted(column.name()))
                }
                Wire::Text
                | Wire::Json
                | Wire::Jsonb
                | Wire::Bytea
                | Wire::Int2
                | Wire::Int4
                | Wire::Int8
                | Wire::Timestamp
                | Wire::Timestamptz
                | Wire::Date => format!("r.c{number}"),
            });
        }
        format!(
            "{} SELECT {} FROM UNNEST({}) AS r({}){}",
            self.insert_into(),
            values.join(", "),
            arrays.join(", "),
            names.join(", "),
            self.on_conflict()
        )
    }

    pub(super) fn copy(&self) -> String {
        format!("COPY {} ({}) FROM STDIN (FORMAT binary)", self.table, quoted_list(&self.columns))
    }

    fn insert_into(&self) -> String {
        format!("INSERT INTO {} ({})", self.table, quoted_list(&self.columns))
    }

    fn on_conflict(&self) -> String {
        match &self.conflict {
            Conflict::Refuse => String::new(),
            Conflict::Skip { id_column } => format!(" ON CONFLICT ({}) DO NOTHING", quoted(id_column)),
            Conflict::Replace { key } => {
                let others = self.columns.iter().filter(|column| !key.contains(column));
                let set: Vec<String> = others.map(|column| format!("{0} = EXCLUDED.{0}", quoted(column))).collect();
                // A row that is nothing but its key is there already.
                let action =
                    if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
                format!(" ON CONFLICT ({}) DO {action}", quoted_list(key))
            }
        }
    }
}

/// `schema.table` names a schema.
pub(super) fn quoted_table(table: &str) -> String {
    match table.split_once('.') {
        Some((schema, table)) => format!("{}.{}", quoted(schema), quoted(table)),
        None => quoted(table),
    }
}

/// The name of the table as messages of the server have it.
pub(super) fn bare_table(table: &str) -> &str {
    table.split_once('.').map_or(table, |(_, table)| table)
}

fn quoted_list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(conflict: Conflict) -> Insert {
        Insert::new("log.the \"table\"", vec!["topic".into(), "x\"y".into()], conflict)
    }

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let columns = [(Wire::Text, Type::VARCHAR), (Wire::Literal, Type::INET)];
        assert_eq!(
            insert(Conflict::Refuse).of_one_row(),
            r#"INSERT INTO "log"."the ""table""" ("topic", "x""y") VALUES ($1, $2)"#
        );
        assert_eq!(
            insert(Conflict::Skip { id_column: "the id".into() }).of_many_rows(&columns),
            "INSERT INTO \"log\".\"the \"\"table\"\"\" (\"topic\", \"x\"\"y\") \
             SELECT r.c1, r.c2::\"pg_catalog\".\"inet\" FROM UNNEST($1::text[], $2::text[]) AS r(c1, c2) \
             ON CONFLICT (\"the id\") DO NOTHING"
        );
        assert_eq!(
            insert(Conflict::Refuse).copy(),
            r#"COPY "log"."the ""table""" ("topic", "x""y") FROM STDIN (FORMAT binary)"#
        );
        assert_eq!(bare_table("log.the \"table\""), "the \"table\"");
    }

    #[test]
    fn what_is_not_the_key_is_replaced() {
        let of = |key: &[&str]| insert(Conflict::Replace { key: key.iter().map(|name| (*name).to_owned()).collect() });
        assert!(
            of(&["topic"]).of_one_row().ends_with(r#" ON CONFLICT ("topic") DO UPDATE SET "x""y" = EXCLUDED."x""y""#)
        );
        assert!(of(&["topic", "x\"y"]).explained().ends_with(r#" ON CONFLICT ("topic", "x""y") DO NOTHING"#));
    }
}
