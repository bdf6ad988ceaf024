//! The fields of a point: a JSON object's values with their types, or the payload as one text.

use serde_json::{Number, Value};

use crate::config::integers::Integers;
use crate::config::read_unique;
use crate::sink::RecordFault;

/// The field of a payload that is no JSON object.
const PAYLOAD_FIELD: &str = "payload";
/// Between the names of an object and of a value inside it, as in `${payload.a.b}`.
const SEPARATOR: char = '.';

#[derive(Clone, Debug, PartialEq)]
pub(super) enum FieldValue {
    /// Its decimal digits, as they are written.
    Float(String),
    Integer(i64),
    Boolean(bool),
    Text(String),
}

impl FieldValue {
    /// As InfluxDB names it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Integer(_) => "integer",
            Self::Boolean(_) => "boolean",
            Self::Text(_) => "string",
        }
    }
}

/// In the payload's order. A name that the point itself uses gets an underscore at its end.
pub(super) fn fields(
    payload: &[u8],
    integers: Integers,
    used_names: &[&str],
) -> Result<Vec<(String, FieldValue)>, RecordFault> {
    let Ok(text) = std::str::from_utf8(payload) else {
        return Err(RecordFault::offline("not_utf8", "the payload is not UTF-8, and a field takes nothing else"));
    };
    let object = match read_unique(payload) {
        Ok(read) if read.value.is_object() => read,
        Ok(_) | Err(_) => return Ok(vec![(PAYLOAD_FIELD.to_owned(), text_value(PAYLOAD_FIELD, text.to_owned())?)]),
    };
    if let Some(twice) = object.twice.first() {
        return Err(field_twice(twice));
    }
    let mut found = Vec::new();
    if let Value::Object(entries) = object.value {
        for (name, value) in entries {
            let name = if used_names.contains(&name.as_str()) { format!("{name}_") } else { name };
            push_value(&mut found, name, value, integers)?;
        }
    }
    if let Some(number) = beyond_64_bits(text) {
        let message = format!("the payload has {number}, which 64 bits do not hold");
        return Err(RecordFault::offline("number_out_of_range", message));
    }
    if found.is_empty() {
        return Err(RecordFault::offline(
            "no_fields",
            "the payload is an object without a value, and a point needs one",
        ));
    }
    let mut names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(field_twice(pair[0])),
        None => Ok(found),
    }
}

fn push_value(
    found: &mut Vec<(String, FieldValue)>,
    name: String,
    value: Value,
    integers: Integers,
) -> Result<(), RecordFault> {
    let value = match value {
        // A point has no empty fields: one that is not there is its null.
        Value::Null => return Ok(()),
        Value::Object(entries) if !entries.is_empty() => {
            for (inner, value) in entries {
                push_value(found, format!("{name}{SEPARATOR}{inner}"), value, integers)?;
            }
            return Ok(());
        }
        Value::Bool(flag) => FieldValue::Boolean(flag),
        Value::Number(number) => number_value(&name, &number, integers)?,
        Value::String(text) => text_value(&name, text)?,
        Value::Array(_) | Value::Object(_) => text_value(&name, value.to_string())?,
    };
    found.push((name, value));
    Ok(())
}

fn number_value(name: &str, number: &Number, integers: Integers) -> Result<FieldValue, RecordFault> {
    let out_of_range =
        |what: &str| RecordFault::offline("number_out_of_range", format!("field {name:?} is {number}, which {what}"));
    let Some(whole) = number.as_i128() else {
        return Ok(FieldValue::Float(number.to_string()));
    };
    match integers {
        Integers::Integer => {
            let whole = i64::try_from(whole).map_err(|_| out_of_range("no integer of 64 bits holds"))?;
            Ok(FieldValue::Integer(whole))
        }
        Integers::Float if whole as f64 as i128 == whole => Ok(FieldValue::Float(number.to_string())),
        Integers::Float => Err(out_of_range("a float would round")),
    }
}

/// The first whole number in a JSON text, also inside its arrays, that is too large for 64 bits: reading makes a rounded
/// float of it and says nothing.
fn beyond_64_bits(json: &str) -> Option<&str> {
    let mut rest = json;
    while let Some(at) = rest.find(|character: char| matches!(character, '"' | '-' | '0'..='9')) {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = after_text(text);
            continue;
        }
        let is_after = |character: char| !matches!(character, '-' | '+' | '.' | 'e' | 'E' | '0'..='9');
        let (number, after) = rest.split_at(rest.find(is_after).unwrap_or(rest.len()));
        let is_whole = !number.contains(['.', 'e', 'E']);
        if is_whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            return Some(number);
        }
        rest = after;
    }
    None
}

/// What follows the quotation mark at the end of a JSON text's string.
fn after_text(text: &str) -> &str {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

fn text_value(name: &str, text: String) -> Result<FieldValue, RecordFault> {
    if text.contains('\0') {
        return Err(RecordFault::offline("nul_in_text", format!("field {name:?} has the character U+0000")));
    }
    Ok(FieldValue::Text(text))
}

fn field_twice(name: &str) -> RecordFault {
    RecordFault::offline("field_twice", format!("the payload has more than one value for field {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: [&str; 3] = ["topic", "client_id", "time"];

    fn check(payload: &str, integers: Integers, expect: &str) {
        let found = fields(payload.as_bytes(), integers, &USED).expect(payload);
        let found: Vec<String> = found
            .into_iter()
            .map(|(name, value)| match value {
                FieldValue::Float(digits) => format!("{name}={digits}"),
                FieldValue::Integer(number) => format!("{name}={number}i"),
                FieldValue::Boolean(flag) => format!("{name}={flag}"),
                FieldValue::Text(text) => format!("{name}={text:?}"),
            })
            .collect();
        assert_eq!(found.join(" "), expect, "{payload}");
    }

    fn refused(payload: &[u8], integers: Integers, class: &str) {
        let fault = fields(payload, integers, &USED).expect_err(class);
        assert_eq!((&*fault.class, fault.offline), (class, true), "{}", String::from_utf8_lossy(payload));
    }

    #[test]
    fn values_keep_their_types() {
        check(r#"{"t":21.5,"n":21,"on":true,"s":"x"}"#, Integers::Float, r#"t=21.5 n=21 on=true s="x""#);
        check(r#"{"t":21.5,"n":-21,"m":1e3}"#, Integers::Integer, "t=21.5 n=-21i m=1000.0");
        check(
            r#"{"a":{"b":{"c":1},"d":[1,{"e":2}]},"f":{},"g":null}"#,
            Integers::Float,
            r#"a.b.c=1 a.d="[1,{\"e\":2}]" f="{}""#,
        );
        check(
            r#"{"time":1,"topic":"x","client_id":2,"a":{"time":3}}"#,
            Integers::Float,
            r#"time_=1 topic_="x" client_id_=2 a.time=3"#,
        );
        check(
            r#"{"big":9007199254740992,"nano":1700000000000000000}"#,
            Integers::Float,
            "big=9007199254740992 nano=1700000000000000000",
        );
        check(r#"{"big":9007199254740993}"#, Integers::Integer, "big=9007199254740993i");
        check(
            r#"{"m":[18446744073709551615,-9223372036854775808],"f":0.10000000000000000000000,"1e":-0}"#,
            Integers::Float,
            r#"m="[18446744073709551615,-9223372036854775808]" f=0.1 1e=-0.0"#,
        );
        check(
            r#"{"s":"x\" 99999999999999999999","99999999999999999999":"\\"}"#,
            Integers::Float,
            r#"s="x\" 99999999999999999999" 99999999999999999999="\\""#,
        );
    }

    #[test]
    fn what_is_no_object_is_one_text() {
        for payload in ["21.5", "true", "null", "[1]", "off", "", "{\"t\":NaN}", "{\"t\":1e400}", "{"] {
            check(payload, Integers::Float, &format!("payload={payload:?}"));
        }
    }

    #[test]
    fn what_has_no_form_is_the_records_own_fault() {
        refused(b"\xff", Integers::Float, "not_utf8");
        refused(b"{}", Integers::Float, "no_fields");
        refused(b"{\"a\":null}", Integers::Float, "no_fields");
        refused(b"a\0b", Integers::Float, "nul_in_text");
        refused(b"{\"a\":\"\\u0000\"}", Integers::Float, "nul_in_text");
        refused(b"{\"a\":1,\"a\":2}", Integers::Float, "field_twice");
        refused(b"{\"a.b\":1,\"a\":{\"b\":2}}", Integers::Float, "field_twice");
        refused(b"{\"time\":1,\"time_\":2}", Integers::Float, "field_twice");
        refused(b"{\"a\":9007199254740993}", Integers::Float, "number_out_of_range");
        refused(b"{\"a\":-9007199254740993}", Integers::Float, "number_out_of_range");
        refused(b"{\"a\":9223372036854775808}", Integers::Integer, "number_out_of_range");
        for integers in [Integers::Float, Integers::Integer] {
            for payload in [
                r#"{"a":18446744073709551616}"#,
                r#"{"a":-9223372036854775809}"#,
                r#"{"a":{"b":100000000000000000000}}"#,
                r#"{"s":"\"","a":[1,{"b":[18446744073709551616]}]}"#,
            ] {
                refused(payload.as_bytes(), integers, "number_out_of_range");
            }
        }
    }
}
