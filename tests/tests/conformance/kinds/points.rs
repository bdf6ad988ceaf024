//! What kinds have in common whose records are points of InfluxDB: tags for topic and client id, fields for the payload.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tests::influxdb::{InfluxDb, USER};

use crate::adapter::{Carried, Destination, Parts, Refused, Seen};
use crate::shapes::{Message, Payload, Shape, Text};

pub const PARTS: Parts = Parts { id: false, topic: true, client_id: true, user_properties: false };

/// The topic of the point that gives a guarded measurement its types.
const GUARD: &str = "guard";
/// Of plain messages; it stands first in them.
const NAME: &str = "message";
/// No case takes longer.
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// A time that is made unique may be later than the record's own by less than this.
const UNIQUE_WITHIN: Duration = Duration::from_millis(1);

const fn refused(class: &'static str, words: &'static str) -> Carried {
    Carried::Refused(Refused { class, words, offline: true })
}

/// As the page of influxdb says.
pub fn carries(shape: Shape) -> Carried {
    match shape {
        Shape::Payload(Payload::Large | Payload::InvalidUtf8) => refused("not_utf8", "not UTF-8"),
        Shape::Payload(Payload::Nul) => refused("nul_in_text", "U+0000"),
        Shape::Payload(Payload::JsonNumbers) => refused("number_out_of_range", "a float would round"),
        Shape::Payload(Payload::JsonSpread) => refused("field_twice", "more than one value for field \"a\""),
        Shape::Payload(Payload::JsonFlat | Payload::JsonNested) => Carried::As {
            documented: "the values of an object are fields: numbers floats, nulls none, objects inside it by their \
                         paths, arrays as JSON",
            payload: |message| as_fields(message).unwrap_or_default(),
        },
        Shape::Payload(
            Payload::Empty | Payload::OneByte | Payload::JsonNull | Payload::JsonText | Payload::Text(_),
        )
        | Shape::UserProperty(_) => Carried::Equal,
        Shape::Topic(text) | Shape::ClientId(text) => match text {
            Text::LineBreaks => refused("unwritable_name", "has a control character"),
            Text::Backslashes => refused("unwritable_name", "a backslash"),
            Text::Unicode | Text::Quotes | Text::Separators | Text::Slashes | Text::Placeholders => Carried::Equal,
        },
    }
}

/// A database; a guarded one has a float where poison is a text.
pub async fn make(server: &InfluxDb, destination: &Destination, measurement: &str) -> Result<()> {
    let name = &destination.name;
    // Types of fields belong to a stretch of time: one for all of them.
    server.run(&format!("CREATE DATABASE {name} WITH DURATION INF SHARD DURATION 5000w")).await?;
    server.run(&format!("GRANT ALL ON {name} TO {USER}")).await?;
    if destination.guarded {
        server.write(name, &format!("{measurement},topic={GUARD} celsius=1")).await?;
    }
    Ok(())
}

pub async fn read(server: &InfluxDb, destination: &Destination, measurement: &str) -> Result<Vec<Seen>> {
    let rows = server.rows_of(&destination.name, &format!("SELECT * FROM {measurement}")).await?;
    let of_connectors = rows.into_iter().filter(|row| row["topic"] != GUARD);
    of_connectors.map(seen).collect()
}

/// Databases that nobody made, and measurements beside the one.
pub async fn strangers(server: &InfluxDb, made: &BTreeSet<String>, measurement: &str) -> Result<Vec<String>> {
    let own = [tests::influxdb::DATABASE, "_internal"];
    let mut strangers = Vec::new();
    for row in server.rows("SHOW DATABASES").await? {
        let database = row["name"].as_str().context("no name")?;
        if !made.contains(database) && !own.contains(&database) {
            strangers.push(database.to_owned());
            continue;
        }
        let measurements = server.rows_of(database, "SHOW MEASUREMENTS").await?;
        let others = measurements.iter().filter_map(|row| row["name"].as_str()).filter(|name| *name != measurement);
        strangers.extend(others.map(|name| format!("{database}.{name}")));
    }
    Ok(strangers)
}

pub fn poison(name: &str) -> Vec<u8> {
    json!({ NAME: name, "celsius": "poison" }).to_string().into_bytes()
}

fn seen(row: Value) -> Result<Seen> {
    let Value::Object(mut columns) = row else { anyhow::bail!("no row: {row}") };
    columns.remove(tests::influxdb::MEASUREMENT);
    is_recent(columns.remove("time").and_then(|time| time.as_u64()).context("no time")?)?;
    let mut tag = |name: &str| columns.remove(name).and_then(|value| value.as_str().map(str::to_owned));
    let (topic, client_id) = (tag("topic"), tag("client_id"));
    // Each row has the columns of all others.
    let fields: Map<String, Value> = columns.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let payload = match fields.get("payload") {
        Some(Value::String(text)) if fields.len() == 1 => text.clone().into_bytes(),
        _ => text_of(fields),
    };
    Ok(Seen { id: None, topic, client_id, payload, user_properties: None })
}

/// The time of a point, in nanoseconds, is one of this run.
fn is_recent(time_ns: u64) -> Result<()> {
    let (time, now) = (Duration::from_nanos(time_ns), SystemTime::now().duration_since(UNIX_EPOCH)?);
    ensure!(time <= now + UNIQUE_WITHIN, "a point of the future: {time:?}, now {now:?}");
    ensure!(time + AGE_MAX >= now, "a point of {time:?}, now {now:?}");
    Ok(())
}

/// The fields of an object, read by the rules of the page and not by the sink.
fn as_fields(message: &Message) -> Option<Vec<u8>> {
    let Value::Object(object) = serde_json::from_slice(&message.payload).ok()? else { return None };
    let mut fields = Map::new();
    spread("", object, &mut fields);
    Some(text_of(fields))
}

fn spread(path: &str, object: Map<String, Value>, fields: &mut Map<String, Value>) {
    for (name, value) in object {
        let name = format!("{path}{name}");
        match value {
            Value::Null => {}
            Value::Object(inner) if !inner.is_empty() => spread(&format!("{name}."), inner, fields),
            Value::Array(_) | Value::Object(_) => drop(fields.insert(name, value.to_string().into())),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => drop(fields.insert(name, value)),
        }
    }
}

/// The name first, as it was published; the others by their names, numbers as floats.
fn text_of(fields: Map<String, Value>) -> Vec<u8> {
    let mut sorted: Vec<(String, Value)> = fields.into_iter().collect();
    sorted.sort_by(|(a, _), (b, _)| (a != NAME, a).cmp(&(b != NAME, b)));
    let float = |value: Value| match value.as_f64() {
        Some(number) => json!(number),
        None => value,
    };
    let object: Map<String, Value> = sorted.into_iter().map(|(name, value)| (name, float(value))).collect();
    Value::Object(object).to_string().into_bytes()
}
