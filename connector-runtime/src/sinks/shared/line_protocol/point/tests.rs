//! InfluxData's own parser reads back what is written; its `split_lines` follows the parser of InfluxDB 1 and 2.

use influxdb_line_protocol::{FieldValue as Parsed, parse_lines, split_lines};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::awkward::awkward_text;
use super::super::time::Precision;
use super::*;
use crate::sinks::opened::record;

fn format(measurement: &str, dialect: Dialect) -> PointFormat {
    PointFormat {
        measurement: MeasurementFormat::new(measurement).expect("is a template"),
        time: PointTime::Unique(Precision::Milliseconds),
        integers: Integers::Float,
        dialect,
        own_columns: &["time"],
    }
}

#[test]
fn a_record_is_one_line() {
    let format = format("plant ${topic[1]}", Dialect::Influx);
    let line = format.line(&record(5, r#"{"t":21.5,"on":true,"say":"a \"b\""}"#)).expect("has a form");
    assert_eq!(
        line,
        "plant\\ one,client_id=device-5,topic=plant/one t=21.5,on=true,say=\"a \\\"b\\\"\" 1700000000005000005"
    );
    let mut nobody = record(6, "off");
    nobody.message.client_id.clear();
    let line = format.line(&nobody).expect("has a form");
    assert_eq!(line, "plant\\ one,topic=plant/one payload=\"off\" 1700000000006000006", "no tag without a value");
}

#[test]
fn a_fault_names_what_has_no_form() {
    let mut bad = record(1, "x");
    bad.message.topic = "a\nb".to_owned();
    let fault = format("m", Dialect::Influx).line(&bad).expect_err("a line break");
    assert_eq!((&*fault.class, fault.offline), ("unwritable_name", true));
    assert_eq!(&*fault.message, "the topic \"a\\nb\" has a control character");
    let fault = format("${payload.site}", Dialect::Influx).line(&record(1, "{}")).expect_err("no site");
    assert_eq!(&*fault.class, "missing_value");
    let fault = format("${payload.site}", Dialect::Influx).line(&record(1, "{\"site\":\"\"}")).expect_err("empty");
    assert_eq!(&*fault.class, "empty_name");
    let fault = format("m", Dialect::Influx).line(&record(1, "{\"\":1}")).expect_err("a field without a name");
    assert_eq!(&*fault.class, "empty_name");
}

#[test]
fn slashes_of_values_become_underscores_where_that_is_asked_for() {
    let mut flat = format("up/${topic}", Dialect::Doubling);
    flat.measurement = flat.measurement.flat();
    let line = flat.line(&record(1, "x")).expect("has a form");
    assert!(line.starts_with("up/plant_one,"), "{line}");
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        awkward_text().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        prop::collection::vec(awkward_text(), 0..3).prop_map(Value::from),
    ]
}

fn parsed(value: &Parsed<'_>) -> Value {
    match value {
        Parsed::F64(number) => json!(number),
        Parsed::I64(number) => json!(number),
        Parsed::U64(number) => json!(number),
        Parsed::String(text) => json!(text.to_string()),
        Parsed::Boolean(flag) => json!(flag),
    }
}

/// The value as a field has it.
fn expected(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(_) => json!(value.to_string()),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => value.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_written_is_read_back_or_refused(
        measurement in awkward_text(), topic in awkward_text(), client_id in awkward_text(),
        fields in prop::collection::vec((awkward_text(), value()), 1..4),
    ) {
        let fields: Map<String, Value> = fields.into_iter().collect();
        let mut record = record(1, Value::Object(fields.clone()).to_string());
        record.message.user_properties = vec![("measurement".to_owned(), measurement.clone())];
        record.message.topic = topic.clone();
        record.message.client_id = client_id.clone();
        if let Ok(line) = format("${user.measurement}", Dialect::Doubling).line(&record) {
            let read: Vec<_> = parse_lines(&line).collect();
            prop_assert_eq!(read.len(), 1, "{}", &line);
            let read = read[0].as_ref().expect("is a line");
            prop_assert_eq!(read.series.measurement.to_string(), measurement, "{}", &line);
            let tag = |name: &str| read.tag_value(name).map(|value| value.to_string()).unwrap_or_default();
            prop_assert_eq!((tag("topic"), tag("client_id")), (topic, client_id), "{}", &line);
            prop_assert_eq!(read.timestamp, Some(1_700_000_000_001_000_001));
            let got: Vec<(String, Value)> =
                read.field_set.iter().map(|(name, value)| (name.to_string(), parsed(value))).collect();
            let expect: Vec<(String, Value)> =
                fields.iter().map(|(name, value)| (name.clone(), expected(value))).collect();
            prop_assert_eq!(got, expect, "{}", &line);
        }
        // No record of either dialect becomes two lines, or takes its neighbour into its own.
        for dialect in [Dialect::Influx, Dialect::Doubling] {
            if let Ok(line) = format("${user.measurement}", dialect).line(&record) {
                let body = format!("{line}\nnext v=1 1\n");
                let split: Vec<&str> = split_lines(&body).filter(|line| !line.is_empty()).collect();
                prop_assert_eq!(split, vec![line.as_str(), "next v=1 1"]);
            }
        }
    }

    #[test]
    fn ordinary_names_are_never_refused(topic in "[a-zA-Z0-9 ,=/\"#_.äöü漢-]{1,12}") {
        let mut record = record(1, "x");
        record.message.topic = topic;
        for dialect in [Dialect::Influx, Dialect::Doubling] {
            prop_assert!(format("m", dialect).line(&record).is_ok());
        }
    }
}
