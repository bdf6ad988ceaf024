//! From a record to a document.

use api_types::{Message, Record};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf, Timestamp, doc,
};
use serde_json::{Map, Number, Value};

use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;

const ID: &str = "_id";
/// What tells a record from one of another cluster that has the same id.
const OF_THE_ENVELOPE: [&str; 3] = ["topic", "client_id", "timestamp"];

/// Documents that are made at a time; in between others get their turn.
const CHUNK_BYTES: usize = 64 << 10;

/// What tells a value of extended JSON from an object.
const TYPES: [&str; 16] = [
    "$oid",
    "$symbol",
    "$regularExpression",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$code",
    "$timestamp",
    "$date",
    "$minKey",
    "$maxKey",
    "$dbPointer",
    "$undefined",
];
/// Values in a value of extended JSON: a `$dbPointer`, whose id is an object, has four.
const PARTS_MAX: usize = 4;

/// How documents look.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) payload: PayloadFormat,
}

impl Format {
    /// For each record, its document or why it has none.
    pub(super) async fn documents(
        self,
        records: &[&Record],
        bytes_max: usize,
    ) -> Vec<Result<RawDocumentBuf, RecordFault>> {
        let (mut documents, mut bytes) = (Vec::with_capacity(records.len()), 0);
        for record in records {
            documents.push(self.document(record, bytes_max));
            bytes += record.message.payload.len();
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        documents
    }

    /// The bytes to be sent, of which there may be at most so many.
    pub(super) fn document(self, record: &Record, bytes_max: usize) -> Result<RawDocumentBuf, RecordFault> {
        let document = match self.payload {
            PayloadFormat::Envelope => envelope(record),
            PayloadFormat::Raw => raw(record)?,
        };
        let unwritable =
            |error: mongodb::bson::error::Error| RecordFault::offline("no_bson", format!("it is no BSON: {error}"));
        let document = RawDocumentBuf::try_from(&document).map_err(unwritable)?;
        let bytes = document.as_bytes().len();
        if bytes > bytes_max {
            let message = format!("a document of {bytes} bytes; the server takes at most {bytes_max}");
            return Err(RecordFault::offline("too_large", message));
        }
        Ok(document)
    }

    /// The fields of a document that say whether it is a record's own; `None` for all of them.
    pub(super) fn identity(self) -> Option<Document> {
        match self.payload {
            PayloadFormat::Envelope => {
                Some(OF_THE_ENVELOPE.into_iter().map(|name| (name.to_owned(), 1.into())).collect())
            }
            PayloadFormat::Raw => None,
        }
    }

    /// Whether a document with this record's `_id` was written for it, and not for a record of another cluster.
    /// Somebody may have added to it since.
    pub(super) fn is_ours(self, sent: &RawDocumentBuf, found: &Document) -> bool {
        let Ok(sent) = Document::try_from(sent.as_ref()) else { return false };
        match self.payload {
            PayloadFormat::Envelope => OF_THE_ENVELOPE.iter().all(|name| found.get(name) == sent.get(name)),
            PayloadFormat::Raw => sent
                .iter()
                .all(|(name, value)| is_now(value) || found.get(name).is_some_and(|found| is_same(value, found))),
        }
    }
}

/// The server puts its own time in place of an empty timestamp.
fn is_now(value: &Bson) -> bool {
    *value == Bson::Timestamp(Timestamp { time: 0, increment: 0 })
}

/// Byte for byte: a NaN is the same as itself, and 0.0 is not -0.0.
fn is_same(one: &Bson, other: &Bson) -> bool {
    let encoded = |value: &Bson| RawDocumentBuf::try_from(&doc! { "": value.clone() }).map(RawDocumentBuf::into_bytes);
    matches!((encoded(one), encoded(other)), (Ok(one), Ok(other)) if one == other)
}

pub(super) fn id(record: &Record) -> String {
    record.id.to_string()
}

/// As `api_types::envelope`, in the types that BSON has and JSON has not.
fn envelope(record: &Record) -> Document {
    let message = &record.message;
    let mut document = doc! {
        ID: id(record),
        "topic": &message.topic,
        "client_id": &message.client_id,
        "qos": i32::from(message.qos),
        "retain": message.retain,
        "timestamp": DateTime::from_millis(i64::try_from(message.timestamp_ms).unwrap_or(i64::MAX)),
        "payload": payload(message),
    };
    if let Some(content_type) = &message.content_type {
        document.insert("content_type", content_type);
    }
    if let Some(response_topic) = &message.response_topic {
        document.insert("response_topic", response_topic);
    }
    if let Some(data) = &message.correlation_data {
        document.insert("correlation_data", binary(data));
    }
    if !message.user_properties.is_empty() {
        // An index finds a name and its value, which it does not in an array of arrays; some servers refuse those.
        let named = |(name, value): &(String, String)| Bson::from(doc! { "name": name, "value": value });
        document.insert("user_properties", message.user_properties.iter().map(named).collect::<Vec<Bson>>());
    }
    document
}

fn payload(message: &Message) -> Bson {
    if let Ok(value) = serde_json::from_slice::<Value>(&message.payload) {
        return bson(value);
    }
    match std::str::from_utf8(&message.payload) {
        Ok(text) => text.into(),
        Err(_) => binary(&message.payload),
    }
}

fn raw(record: &Record) -> Result<Document, RecordFault> {
    let value = serde_json::from_slice::<Value>(&record.message.payload).map(bson);
    let Ok(Bson::Document(fields)) = value else {
        return Err(RecordFault::offline("no_object", "the payload is no JSON object"));
    };
    if fields.contains_key(ID) {
        return Err(RecordFault::offline("has_id", "the payload has an _id of its own, and that is the record's id"));
    }
    let mut document = doc! { ID: id(record) };
    document.extend(fields);
    Ok(document)
}

fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() })
}

fn bson(value: Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(value) => value.into(),
        Value::Number(number) => bson_number(&number),
        Value::String(text) => text.into(),
        Value::Array(values) => Bson::Array(values.into_iter().map(bson).collect()),
        Value::Object(fields) => bson_object(fields),
    }
}

/// The smallest type that holds an integer, as MongoDB's own tools do.
fn bson_number(number: &Number) -> Bson {
    if let Some(integer) = number.as_i64() {
        return i32::try_from(integer).map_or(Bson::Int64(integer), Bson::Int32);
    }
    let wide = number.as_u64().and_then(|integer| integer.to_string().parse::<Decimal128>().ok());
    wide.map(Bson::Decimal128).or_else(|| number.as_f64().map(Bson::Double)).unwrap_or(Bson::Null)
}

/// `{"$date": …}`, `{"$oid": …}` and the like are MongoDB's extended JSON: a value of that type. What only looks so is
/// an object. However deep a publisher puts one into another, each is looked at once.
fn bson_object(mut fields: Map<String, Value>) -> Bson {
    let is_code = fields.len() == 2
        && fields.get("$code").is_some_and(Value::is_string)
        && fields.get("$scope").is_some_and(Value::is_object);
    if is_code
        && let (Some(Value::String(code)), Some(Value::Object(scope))) =
            (fields.remove("$code"), fields.remove("$scope"))
    {
        return Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope: document(scope) });
    }
    if fields.len() == 1
        && let Some((name, value)) = fields.iter().next()
        && TYPES.contains(&name.as_str())
        && has_few_parts(value)
        && let Ok(value) = Bson::try_from(fields.clone())
    {
        return value;
    }
    Bson::Document(document(fields))
}

fn document(fields: Map<String, Value>) -> Document {
    fields.into_iter().map(|(name, value)| (name, bson(value))).collect()
}

fn has_few_parts(value: &Value) -> bool {
    let (mut open, mut parts) = (vec![value], 0);
    while let Some(value) = open.pop() {
        parts += 1;
        match value {
            Value::Object(fields) if fields.len() <= PARTS_MAX => open.extend(fields.values()),
            Value::Array(_) | Value::Object(_) => return false,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        if parts > PARTS_MAX {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use mongodb::bson::oid::ObjectId;

    use super::*;
    use crate::sinks::opened::record;

    const ENVELOPE: Format = Format { payload: PayloadFormat::Envelope };
    const RAW: Format = Format { payload: PayloadFormat::Raw };
    const ENOUGH: usize = 16 << 20;

    fn check(payload: impl Into<Vec<u8>>, expect: impl Into<Bson>) {
        let document = ENVELOPE.document(&record(1, payload), ENOUGH).expect("is a document");
        let document = Document::try_from(document.as_ref()).expect("is BSON");
        assert_eq!(document.get("payload"), Some(&expect.into()));
    }

    #[test]
    fn payloads_become_the_types_that_they_have() {
        check("21.5", 21.5);
        check("7", 7_i32);
        check("2147483648", 2_147_483_648_i64);
        check("-9223372036854775808", i64::MIN);
        check("18446744073709551615", "18446744073709551615".parse::<Decimal128>().expect("is a number"));
        check("18446744073709551616", 18_446_744_073_709_551_616.0);
        check("true", true);
        check("null", Bson::Null);
        check("warm", "warm");
        check("\"warm\"", "warm");
        check("", "");
        check("before\0after", "before\0after");
        check(vec![0xff, 0x00], binary(&[0xff, 0x00]));
        check(r#"{"a":[1,{"b":null}],"$c":2}"#, doc! { "a": [1, { "b": Bson::Null }], "$c": 2 });
    }

    #[test]
    fn extended_json_becomes_its_type_and_what_only_looks_so_stays() {
        let date = DateTime::from_millis(1_700_000_000_000);
        check(r#"{"at":{"$date":"2023-11-14T22:13:20Z"}}"#, doc! { "at": date });
        check(r#"{"at":{"$date":{"$numberLong":"1700000000000"}}}"#, doc! { "at": date });
        let id = ObjectId::parse_str("65f0c0ffee65f0c0ffee65f0").expect("is an id");
        check(r#"[{"$oid":"65f0c0ffee65f0c0ffee65f0"}]"#, vec![Bson::from(id)]);
        check(r#"{"n":{"$numberLong":"7"}}"#, doc! { "n": 7_i64 });
        check(r#"{"at":{"$date":"yesterday"}}"#, doc! { "at": { "$date": "yesterday" } });
        check(r#"{"at":{"$date":1,"x":2}}"#, doc! { "at": { "$date": 1, "x": 2 } });
    }

    #[test]
    fn code_has_a_scope_of_values() {
        let scope = doc! { "at": DateTime::from_millis(1_700_000_000_000), "$c": 1 };
        let code = JavaScriptCodeWithScope { code: "f()".to_owned(), scope };
        check(r#"{"$code":"f()","$scope":{"at":{"$date":"2023-11-14T22:13:20Z"},"$c":1}}"#, code);
        check(r#"{"$code":"f()"}"#, Bson::JavaScriptCode("f()".to_owned()));
        check(r#"{"$code":"f()","$scope":1}"#, doc! { "$code": "f()", "$scope": 1 });
        let pointer = r#"{"$dbPointer":{"$ref":"a.b","$id":{"$oid":"65f0c0ffee65f0c0ffee65f0"}}}"#;
        assert!(matches!(bson(serde_json::from_str(pointer).expect("is JSON")), Bson::DbPointer(_)));
    }

    /// Not each of many objects in one another is tried with all that is in it.
    #[test]
    fn objects_that_look_like_values_cost_what_others_cost() {
        let numbers = vec!["7"; 50_000].join(",");
        let nested = |begin: &str, end: &str| {
            // As deep as JSON may be.
            let deep = 120 / begin.matches('{').count();
            let text = format!("{}[{numbers}]{}", begin.repeat(deep), end.repeat(deep));
            serde_json::from_str::<Value>(&text).expect("is JSON")
        };
        let took = |value: Value| {
            let began = std::time::Instant::now();
            drop(bson(value));
            began.elapsed()
        };
        let least = |begin: &str, end: &str| (0..3).map(|_| took(nested(begin, end))).min().expect("three");
        let plain = least(r#"{"a":"#, "}");
        for (begin, end) in [
            (r#"{"$date":"#, "}"),
            (r#"{"$unknown":"#, "}"),
            (r#"{"$binary":{"base64":"#, "}}"),
            (r#"{"$code":"f()","$scope":{"a":"#, "}}"),
        ] {
            let same = least(begin, end);
            println!("measured: {same:?} for {begin}, {plain:?} for other objects");
            assert!(same < plain * 10, "{same:?} for {begin}, {plain:?} for other objects");
        }
    }

    #[tokio::test]
    async fn others_get_their_turn_while_documents_are_made() {
        let few = [record(1, "7")];
        let many = [1, 2, 3].map(|number| record(number, vec![b'x'; CHUNK_BYTES / 2]));
        let made = |records: &[Record]| {
            let records: Vec<&Record> = records.iter().collect();
            ENVELOPE.documents(&records, ENOUGH).now_or_never().map(|documents| documents.len())
        };
        assert_eq!((made(&few), made(&many)), (Some(1), None));
    }

    #[test]
    fn an_envelope_has_everything_and_its_time_is_a_date() {
        let mut record = record(1, "x");
        record.message.qos = 1;
        record.message.content_type = Some("text/plain".into());
        record.message.response_topic = Some("answers".into());
        record.message.correlation_data = Some(b"\x01"[..].into());
        record.message.user_properties = vec![("k".into(), "1".into()), ("k".into(), "2".into())];
        let document = ENVELOPE.document(&record, ENOUGH).expect("is a document");
        let expect = doc! {
            "_id": "1-7-1", "topic": "plant/one", "client_id": "device-1", "qos": 1, "retain": false,
            "timestamp": DateTime::from_millis(1_700_000_000_001), "payload": "x", "content_type": "text/plain",
            "response_topic": "answers", "correlation_data": binary(&[1]),
            "user_properties": [{ "name": "k", "value": "1" }, { "name": "k", "value": "2" }],
        };
        assert_eq!(Document::try_from(document.as_ref()).expect("is BSON"), expect);
    }

    fn refused(format: Format, payload: &str, bytes_max: usize) -> String {
        let fault = format.document(&record(1, payload), bytes_max).expect_err("is refused");
        assert!(fault.offline);
        fault.class.to_string()
    }

    #[test]
    fn raw_is_the_payload_with_the_id() {
        let document = RAW.document(&record(1, r#"{"t":21.5,"id":7}"#), ENOUGH).expect("is a document");
        let document = Document::try_from(document.as_ref()).expect("is BSON");
        assert_eq!(document, doc! { "_id": "1-7-1", "t": 21.5, "id": 7 });
        for payload in ["7", "[{}]", "x", "", r#"{"$date":"2023-11-14T22:13:20Z"}"#] {
            assert_eq!(refused(RAW, payload, ENOUGH), "no_object", "{payload}");
        }
        assert_eq!(refused(RAW, r#"{"_id":7}"#, ENOUGH), "has_id");
    }

    #[test]
    fn what_no_server_would_take_is_found_before() {
        assert_eq!(refused(ENVELOPE, r#"{"a\u0000b":1}"#, ENOUGH), "no_bson");
        assert_eq!(refused(ENVELOPE, &"x".repeat(1_000), 1_000), "too_large");
    }

    #[test]
    fn a_document_is_the_records_own_or_a_strangers() {
        let mut ours = record(1, r#"{"t":1}"#);
        let sent = ENVELOPE.document(&ours, ENOUGH).expect("is a document");
        let mut found = doc! {
            "_id": "1-7-1", "topic": "plant/one", "client_id": "device-1",
            "timestamp": DateTime::from_millis(1_700_000_000_001), "seen": true,
        };
        assert!(ENVELOPE.is_ours(&sent, &found));
        found.insert("topic", "plant/two");
        assert!(!ENVELOPE.is_ours(&sent, &found));
        let sent = RAW.document(&ours, ENOUGH).expect("is a document");
        assert!(RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": 1, "seen": true }));
        ours.message.payload = r#"{"t":2}"#.into();
        let sent = RAW.document(&ours, ENOUGH).expect("is a document");
        assert!(!RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": 1 }));
    }

    #[test]
    fn a_raw_document_is_the_records_own_by_its_bytes_but_for_the_servers_time() {
        let mut ours = record(1, r#"{"t":{"$numberDouble":"NaN"},"at":{"$timestamp":{"t":0,"i":0}}}"#);
        let sent = RAW.document(&ours, ENOUGH).expect("is a document");
        let now = Timestamp { time: 1_700_000_000, increment: 1 };
        assert!(RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": f64::NAN, "at": now }));
        assert!(!RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": 1.0, "at": now }));
        ours.message.payload = r#"{"t":0.0,"n":{"a":1,"b":2}}"#.into();
        let sent = RAW.document(&ours, ENOUGH).expect("is a document");
        assert!(RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": 0.0, "n": { "a": 1, "b": 2 } }));
        assert!(!RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": -0.0, "n": { "a": 1, "b": 2 } }));
        assert!(!RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": 0.0, "n": { "b": 2, "a": 1 } }));
        assert!(!RAW.is_ours(&sent, &doc! { "_id": "1-7-1", "t": 0.0, "n": { "a": 1_i64, "b": 2 } }));
    }
}
