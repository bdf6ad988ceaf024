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
    #[error("column {column} has type {type_name}, which holds none of its values: use {instead}")]
    HoldsNone { column: &'static str, type_name: String, instead: &'static str },
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
    if let Some(instead) = instead(ours, inner) {
        return Err(Unfit::HoldsNone { column: name, type_name: type_name.to_owned(), instead });
    }
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

/// Without what is only about storage or absence: `LowCardinality(Nullable(String))` is a `String`, and so is
/// `SimpleAggregateFunction(any, String)`.
fn inner_type(type_name: &str) -> &str {
    let mut inner = type_name;
    while let Some(inside) = inner.strip_suffix(')') {
        let plain = ["Nullable(", "LowCardinality("].iter().find_map(|wrapper| inside.strip_prefix(wrapper));
        let aggregate = || inside.strip_prefix("SimpleAggregateFunction(")?.split_once(", ").map(|(_, inner)| inner);
        match plain.or_else(aggregate) {
            Some(next) => inner = next,
            None => break,
        }
    }
    inner
}

/// A type's name without what is in its brackets, and that.
fn base_and_arguments(type_name: &str) -> (&str, &str) {
    type_name.split_once('(').unwrap_or((type_name, ""))
}

fn is_number(type_name: &str) -> bool {
    ["UInt", "Int", "Float", "BFloat", "Decimal"].iter().any(|begin| type_name.starts_with(begin))
}

/// Its values have parts.
fn is_structured(base: &str) -> bool {
    const STRUCTURED: [&str; 15] = [
        "Array",
        "Tuple",
        "Nested",
        "Map",
        "JSON",
        "Object",
        "UUID",
        "IPv4",
        "IPv6",
        "Point",
        "Ring",
        "LineString",
        "MultiLineString",
        "Polygon",
        "MultiPolygon",
    ];
    STRUCTURED.contains(&base)
}

fn is_time(base: &str) -> bool {
    ["Date", "Date32", "DateTime", "DateTime32", "DateTime64", "Time", "Time64"].contains(&base)
}

/// What a column should be whose type takes no value that there is for it: every record would be refused. Texts that
/// publishers choose may be anything, so that any type holds some of them.
fn instead(ours: Ours, inner: &str) -> Option<&'static str> {
    let (base, arguments) = base_and_arguments(inner);
    let is_shorter =
        |bytes: u64| base == "FixedString" && arguments.trim_end_matches(')').parse().is_ok_and(|has: u64| has < bytes);
    let is_enum = base.starts_with("Enum");
    let holds_none = match ours {
        // At least `1-1-1`, and another one for each record.
        Ours::Id => {
            is_structured(base) || is_time(base) || is_number(base) || is_enum || base == "Bool" || is_shorter(5)
        }
        Ours::Qos => is_structured(base) || is_time(base),
        Ours::Retain => {
            let has_words = || arguments.contains("'true'") || arguments.contains("'false'");
            is_structured(base) || is_time(base) || is_shorter(4) || is_enum && !has_words()
        }
        Ours::Timestamp => {
            is_structured(base) || is_enum || ["Bool", "Time", "Time64"].contains(&base) || is_shorter(13)
        }
        Ours::Topic | Ours::ClientId | Ours::Payload | Ours::Key => false,
    };
    let instead = match ours {
        Ours::Qos => "UInt8",
        Ours::Retain => "Bool or UInt8",
        Ours::Timestamp => "DateTime64(3), DateTime, Int64, or String",
        Ours::Id | Ours::Topic | Ours::ClientId | Ours::Payload | Ours::Key => "String",
    };
    holds_none.then_some(instead)
}

/// Of milliseconds since 1970, until 2286.
const MILLISECONDS_DIGITS: u32 = 13;

/// `18, 3)` has 15 before the point.
fn whole_digits(arguments: &str) -> Option<u32> {
    let (precision, scale) = arguments.trim_end_matches(')').split_once(", ")?;
    precision.parse::<u32>().ok()?.checked_sub(scale.parse().ok()?)
}

fn time_form(column: &'static str, type_name: &str) -> Result<TimeForm, Unfit> {
    const NARROW: [&str; 8] = ["UInt8", "UInt16", "UInt32", "Int8", "Int16", "Int32", "Float32", "BFloat16"];
    let too_narrow = || Err(Unfit::TooNarrow { column, type_name: type_name.to_owned() });
    let (base, arguments) = base_and_arguments(type_name);
    match base {
        "DateTime" | "DateTime32" => Ok(TimeForm::Seconds),
        "DateTime64" => Ok(TimeForm::SecondsAndMilliseconds),
        "Date" => Ok(TimeForm::Day),
        "Date32" => Ok(TimeForm::Day32),
        narrow if NARROW.contains(&narrow) => too_narrow(),
        "Decimal" if whole_digits(arguments).is_some_and(|digits| digits < MILLISECONDS_DIGITS) => too_narrow(),
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
        let description = "payload\tString\t\t\t\nother\tInt32\t\t\t\nid\tFixedString(36)\t\t\t\t\t\nkey\tString\tALIAS\tid\t\n\
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
            ("Decimal(13, 0)", TimeForm::Milliseconds),
            ("SimpleAggregateFunction(max, DateTime)", TimeForm::Seconds),
            ("Float64", TimeForm::Milliseconds),
            ("String", TimeForm::Milliseconds),
        ] {
            assert_eq!(form(type_name), Ok(Part::Timestamp(expect)), "{type_name}");
        }
        for type_name in [
            "UInt8",
            "UInt32",
            "Int32",
            "Nullable(UInt32)",
            "Float32",
            "Decimal(9, 0)",
            "Decimal(15, 3)",
            "Decimal(38, 26)",
        ] {
            assert!(matches!(form(type_name), Err(Unfit::TooNarrow { .. })), "{type_name}");
        }
        let retain = |type_name: &str| columns(&format!("retain\t{type_name}\t\n")).expect("reads")[0].part;
        for type_name in ["UInt8", "Int64", "Nullable(UInt8)", "BFloat16"] {
            assert_eq!(retain(type_name), Part::RetainDigit, "{type_name}");
        }
        for type_name in ["Bool", "String", "Nullable(Bool)", "LowCardinality(String)"] {
            assert_eq!(retain(type_name), Part::RetainWord, "{type_name}");
        }
    }

    #[test]
    fn a_column_that_no_value_of_ours_fits_is_unfit_and_others_are_the_servers() {
        let is_fit = |column: &str, type_name: &str| match columns(&format!("{column}\t{type_name}\t\n")) {
            Ok(_) => true,
            Err(Unfit::HoldsNone { .. }) => false,
            Err(other) => panic!("{column} {type_name}: {other}"),
        };
        for (column, type_names) in [
            ("id", &["UUID", "Nullable(UUID)", "UInt64", "Float64", "DateTime64(3)", "Enum8(\'a\' = 1)", "Bool"][..]),
            ("id", &["FixedString(4)", "Array(String)", "SimpleAggregateFunction(any, UUID)", "JSON"]),
            ("qos", &["UUID", "Date", "IPv4", "Map(String, String)"]),
            ("retain", &["FixedString(3)", "DateTime", "Enum8(\'yes\' = 1, \'no\' = 0)", "Tuple(UInt8)"]),
            ("timestamp", &["UUID", "Bool", "FixedString(12)", "Time64(3)", "Array(DateTime)"]),
        ] {
            for type_name in type_names {
                assert!(!is_fit(column, type_name), "{column} {type_name}");
            }
        }
        for (column, type_names) in [
            (
                "id",
                &["String", "FixedString(5)", "SimpleAggregateFunction(any, LowCardinality(String))", "Dynamic"][..],
            ),
            ("qos", &["UInt8", "String", "Enum8(\'0\' = 0, \'1\' = 1, \'2\' = 2)", "Bool", "Decimal(9, 0)"]),
            ("retain", &["FixedString(5)", "Enum8(\'false\' = 0, \'true\' = 1)", "Variant(Bool, String)"]),
            // A name may be one of these.
            ("client_id", &["UUID", "IPv4", "UInt64"]),
            ("payload", &["UUID", "Date", "Array(UInt8)", "JSON"]),
        ] {
            for type_name in type_names {
                assert!(is_fit(column, type_name), "{column} {type_name}");
            }
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
