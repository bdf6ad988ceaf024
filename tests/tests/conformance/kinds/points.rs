//! What kinds have in common whose records are points of InfluxDB: tags for topic and client id, fields for the payload.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tests::influxdb::{InfluxDb, PASSWORD, USER};

use crate::adapter::{Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Seen};
use crate::shapes::{Message, Payload, Shape, Text};

pub const BATCH_RECORDS: u64 = 500;
/// Of every destination, which is a database.
pub const MEASUREMENT: &str = "m";

const PARTS: Parts = Parts { id: false, topic: true, client_id: true, user_properties: false };

/// The topic of the point that gives a guarded measurement its types.
const GUARD: &str = "guard";
/// Of plain messages; it stands first in them.
const NAME: &str = "message";
/// No case takes longer.
const AGE_MAX: Duration = Duration::from_secs(3_600);
/// A time that is made unique may be later than the record's own by less than this.
const UNIQUE_WITHIN: Duration = Duration::from_millis(1);

const REFUSED: Refused = Refused {
    class: "field_type_conflict",
    words: "input field \"celsius\" on measurement \"m\" is type string, already exists as type float",
    offline: false,
};
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "authorization failed",
};
const NO_DATABASE: Breakage = Breakage {
    name: "missing database",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "database not found",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to write",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "user is not authorized to write to database",
};

const fn refused(class: &'static str, words: &'static str) -> Carried {
    Carried::Refused(Refused { class, words, offline: true })
}

pub fn facts() -> Facts {
    Facts {
        parts: PARTS,
        // Rows come in the order of their times.
        shows_order: false,
        batch_records: BATCH_RECORDS,
        batches_in_flight: 1,
        // A repeat has the same series and the same time.
        repeats: Repeats::Never,
        loses_when_killed: None,
        poison: REFUSED,
        breakages: &[WRONG_PASSWORD, NO_DATABASE, NO_RIGHT],
        has_login: true,
        has_tls: true,
    }
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
pub async fn make(server: &InfluxDb, destination: &Destination) -> Result<()> {
    let name = &destination.name;
    // Types of fields belong to a stretch of time: one for all of them.
    server.run(&format!("CREATE DATABASE {name} WITH DURATION INF SHARD DURATION 5000w")).await?;
    server.run(&format!("GRANT ALL ON {name} TO {USER}")).await?;
    if destination.guarded {
        server.write(name, &format!("{MEASUREMENT},topic={GUARD} celsius=1")).await?;
    }
    Ok(())
}

pub async fn read(server: &InfluxDb, destination: &Destination) -> Result<Vec<Seen>> {
    let rows = server.rows_of(&destination.name, &format!("SELECT * FROM {MEASUREMENT}")).await?;
    let of_connectors = rows.into_iter().filter(|row| row["topic"] != GUARD);
    of_connectors.map(seen).collect()
}

/// Databases that nobody made, and measurements beside the one.
pub async fn strangers(server: &InfluxDb, made: &BTreeSet<String>) -> Result<Vec<String>> {
    let own = [tests::influxdb::DATABASE, "_internal"];
    let mut strangers = Vec::new();
    for row in server.rows("SHOW DATABASES").await? {
        let database = row["name"].as_str().context("no name")?;
        if !made.contains(database) && !own.contains(&database) {
            strangers.push(database.to_owned());
            continue;
        }
        let measurements = server.rows_of(database, "SHOW MEASUREMENTS").await?;
        let others = measurements.iter().filter_map(|row| row["name"].as_str()).filter(|name| *name != MEASUREMENT);
        strangers.extend(others.map(|name| format!("{database}.{name}")));
    }
    Ok(strangers)
}

pub fn requests(server: &InfluxDb, destination: &Destination) -> Result<Option<u64>> {
    let parameter = format!("db={}&", destination.name);
    let writes = server.writes()?;
    Ok(Some(writes.iter().filter(|request| request.contains(&parameter)).count() as u64))
}

pub async fn break_by(server: &InfluxDb, breakage: &Breakage, destination: &Destination) -> Result<()> {
    let name = &destination.name;
    let statement = match *breakage {
        WRONG_PASSWORD => format!("SET PASSWORD FOR {USER} = 'another one'"),
        NO_DATABASE => format!("DROP DATABASE {name}"),
        _ => format!("REVOKE ALL ON {name} FROM {USER}"),
    };
    server.run(&statement).await.map(drop)
}

pub async fn mend(server: &InfluxDb, breakage: &Breakage, destination: &Destination) -> Result<()> {
    let name = &destination.name;
    match *breakage {
        WRONG_PASSWORD => server.run(&format!("SET PASSWORD FOR {USER} = '{PASSWORD}'")).await.map(drop),
        NO_DATABASE => make(server, destination).await,
        _ => server.run(&format!("GRANT ALL ON {name} TO {USER}")).await.map(drop),
    }
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
pub fn is_recent(time_ns: u64) -> Result<()> {
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
