//! The table as the server describes it: which of our columns it has, and how each is written.

use super::row::{Column, Part, TimeForm};

/// What a column holds, by its name.
const OURS: [(&str, Ours); 8] = [
    ("id", Ours::Id),
    ("topic", Ours::Topic),
    ("client_id", Ours::ClientId),
    ("qos", Ours::Qos),
    ("retain", Ours::Retain),
    ("timestamp", Ours::Timestamp),
    ("payload", Ours::Payload),
    ("key", Ours::Key),
];

#[derive(Clone, Copy)]
enum Ours {
    Id,
    Topic,
    ClientId,
    Qos,
    Retain,
    Timestamp,
    Payload,
    Key,
}

/// Columns that no insert may name: the server computes them.
const COMPUTED: [&str; 2] = ["MATERIALIZED", "ALIAS"];

/// A name inside of a statement.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the table has none of the columns id, topic, client_id, qos, retain, timestamp, payload and key")]
    NoneOfOurs,
    #[error(
        "column {column} has type {type_name}, into which milliseconds do not fit: use DateTime64(3), DateTime, Int64, or String"
    )]
    TooNarrow { column: &'static str, type_name: String },
    #[error("the description of the table cannot be read: {0}")]
    Unreadable(String),
}

/// Reads the answer to `DESCRIBE TABLE … FORMAT TabSeparated`: name, type, kind of default, and more that does not
/// matter. Gives our columns in our order, whatever theirs is.
pub(super) fn columns(description: &str) -> Result<Vec<Column>, Unfit> {
    let mut described = Vec::new();
    for line in description.lines() {
        let mut fields = line.split('\t').map(unescaped);
        let (Some(name), Some(type_name)) = (fields.next(), fields.next()) else {
            return Err(Unfit::Unreadable(line.to_owned()));
        };
        let default = fields.next().unwrap_or_default();
        if !COMPUTED.contains(&default.as_str()) {
            described.push((name, type_name));
        }
    }
    let mut columns = Vec::new();
    for (name, ours) in OURS {
        let found = described.iter().find(|(described, _)| described == name);
        if let Some((_, type_name)) = found {
            columns.push(Column { name, part: part(name, ours, type_name)? });
        }
    }
    if columns.is_empty() { Err(Unfit::NoneOfOurs) } else { Ok(columns) }
}

fn part(name: &'static str, ours: Ours, type_name: &str) -> Result<Part, Unfit> {
    let inner = inner_type(type_name);
    Ok(match ours {
        Ours::Id => Part::Id,
        Ours::Topic => Part::Topic,
        Ours::ClientId => Part::ClientId,
        Ours::Qos => Part::Qos,
        Ours::Retain if is_number(inner) => Part::RetainDigit,
        Ours::Retain => Part::RetainWord,
        Ours::Timestamp => Part::Timestamp(time_form(name, inner)?),
        Ours::Payload => Part::Payload,
        Ours::Key => Part::Key,
    })
}

/// Without what is only about storage or absence: `LowCardinality(Nullable(String))` is a `String`.
fn inner_type(type_name: &str) -> &str {
    let mut inner = type_name;
    while let Some(next) = ["Nullable(", "LowCardinality("]
        .iter()
        .find_map(|wrapper| inner.strip_prefix(wrapper))
        .and_then(|rest| rest.strip_suffix(')'))
    {
        inner = next;
    }
    inner
}

fn is_number(type_name: &str) -> bool {
    ["UInt", "Int", "Float", "Decimal"].iter().any(|begin| type_name.starts_with(begin))
}

fn time_form(column: &'static str, type_name: &str) -> Result<TimeForm, Unfit> {
    const NARROW: [&str; 8] = ["UInt8", "UInt16", "UInt32", "Int8", "Int16", "Int32", "Float32", "BFloat16"];
    let base = type_name.split('(').next().unwrap_or_default();
    match base {
        "DateTime" | "DateTime32" => Ok(TimeForm::Seconds),
        "DateTime64" => Ok(TimeForm::SecondsAndMilliseconds),
        "Date" => Ok(TimeForm::Day),
        "Date32" => Ok(TimeForm::Day32),
        narrow if NARROW.contains(&narrow) => Err(Unfit::TooNarrow { column, type_name: type_name.to_owned() }),
        // 64 bits and more, texts, and whatever else reads a number: the server has the last word.
        _ => Ok(TimeForm::Milliseconds),
    }
}

/// A value of TabSeparated as it was before it was escaped.
pub(super) fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('0') => text.push('\0'),
            Some(other) => text.push(other),
            None => text.push('\\'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_columns_are_taken_and_no_others() {
        let description = "payload\tString\t\t\t\nother\tInt32\t\t\t\nid\tUUID\t\t\t\t\t\nkey\tString\tALIAS\tid\t\n\
                           topic\tLowCardinality(String)\tDEFAULT\t\\'x\\'\t\nqos\tUInt8\tMATERIALIZED\t1\t\n\
                           client_id\tString\tEPHEMERAL\t\t\n";
        let columns = columns(description).expect("reads");
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        assert_eq!(names, ["id", "topic", "client_id", "payload"]);
    }

    #[test]
    fn names_and_types_alone_are_enough() {
        assert_eq!(columns("id\tString\n").expect("reads"), [Column { name: "id", part: Part::Id }]);
    }

    #[test]
    fn a_table_without_our_columns_is_unfit() {
        for description in ["", "a\tString\t\t\n", "id\tString\tALIAS\ta\n"] {
            assert_eq!(columns(description), Err(Unfit::NoneOfOurs), "{description:?}");
        }
        assert_eq!(columns("id\n"), Err(Unfit::Unreadable("id".to_owned())));
    }

    #[test]
    fn the_type_of_a_column_says_how_it_is_written() {
        let form = |type_name: &str| columns(&format!("timestamp\t{type_name}\t\n")).map(|columns| columns[0].part);
        for (type_name, expect) in [
            ("DateTime", TimeForm::Seconds),
            ("DateTime(\\'Europe/Zurich\\')", TimeForm::Seconds),
            ("DateTime64(3)", TimeForm::SecondsAndMilliseconds),
            ("DateTime64(9, \\'UTC\\')", TimeForm::SecondsAndMilliseconds),
            ("Nullable(DateTime64(3))", TimeForm::SecondsAndMilliseconds),
            ("LowCardinality(Nullable(DateTime))", TimeForm::Seconds),
            ("Date", TimeForm::Day),
            ("Date32", TimeForm::Day32),
            ("UInt64", TimeForm::Milliseconds),
            ("Int64", TimeForm::Milliseconds),
            ("Decimal(18, 3)", TimeForm::Milliseconds),
            ("Float64", TimeForm::Milliseconds),
            ("String", TimeForm::Milliseconds),
        ] {
            assert_eq!(form(type_name), Ok(Part::Timestamp(expect)), "{type_name}");
        }
        for type_name in ["UInt8", "UInt32", "Int32", "Nullable(UInt32)", "Float32"] {
            assert!(matches!(form(type_name), Err(Unfit::TooNarrow { .. })), "{type_name}");
        }
        let retain = |type_name: &str| columns(&format!("retain\t{type_name}\t\n")).expect("reads")[0].part;
        for type_name in ["UInt8", "Int64", "Nullable(UInt8)"] {
            assert_eq!(retain(type_name), Part::RetainDigit, "{type_name}");
        }
        for type_name in ["Bool", "String", "Nullable(Bool)", "LowCardinality(String)"] {
            assert_eq!(retain(type_name), Part::RetainWord, "{type_name}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        for (name, expect) in [("messages", "`messages`"), ("a`; DROP", "`a\\`; DROP`"), ("back\\`", "`back\\\\\\``")] {
            assert_eq!(identifier(name), expect);
        }
    }

    #[test]
    fn escapes_are_read_back() {
        assert_eq!(unescaped("Enum8(\\'a\\' = 1)"), "Enum8('a' = 1)");
        assert_eq!(unescaped("a\\tb\\nc\\\\d\\"), "a\tb\nc\\d\\");
    }
}
