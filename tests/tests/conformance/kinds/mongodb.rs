//! mongo-java-server: a collection for each destination, whose documents are envelopes. A wrong password is tried at
//! FerretDB, where that is there: the other one has no users.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Map, Number, Value, json};
use tests::ferretdb::{self, FerretDb};
use tests::mongodb::{self, DATABASE, MongoDb, MongoDbOptions};
use tests::ports;

use super::envelope;
use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::{Payload, Shape};

const BATCH_RECORDS: u64 = 500;
const BATCHES_IN_FLIGHT: u64 = 4;
/// The driver holds documents in several forms on their way, outside of the budget: what counts here is that it is bounded.
const BATCH_BYTES: u64 = 1 << 20;

const REFUSED: Refused = Refused { class: "mongodb_11000", words: "E11000 duplicate key error", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "Authentication failed",
};
/// The document that poisoned ones collide with.
const GUARD: &str = "guard";

pub struct Mongodb {
    server: MongoDb,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, MongoDb>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    with_users: Option<FerretDb>,
    /// Destinations at the one with users.
    of_users: BTreeSet<String>,
    collections: BTreeSet<String>,
}

impl Mongodb {
    fn server_of(&self, destination: &Destination) -> &MongoDb {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }

    fn with_users(&self) -> Result<&FerretDb> {
        self.with_users.as_ref().context("FerretDB is not here")
    }
}

impl Adapter for Mongodb {
    const KIND: &'static str = "mongodb";

    async fn start(_: &Start) -> Result<Self> {
        Ok(Self {
            server: MongoDb::start().await?,
            with_tls: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            with_users: FerretDb::start().await?,
            of_users: BTreeSet::new(),
            collections: BTreeSet::new(),
        })
    }

    fn facts(&self) -> Facts {
        let has_login = self.with_users.is_some();
        Facts {
            parts: envelope::PARTS,
            shows_order: false,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            repeats: Repeats::Never,
            loses_when_killed: None,
            poison: REFUSED,
            breakages: if has_login { &[WRONG_PASSWORD] } else { &[] },
            has_login,
            has_tls: true,
        }
    }

    fn unbroken(&self) -> Option<&'static str> {
        Some("FerretDB could not be built here, and nothing else has users; databases and collections make themselves")
    }

    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(Payload::JsonFlat | Payload::JsonNumbers | Payload::JsonSpread) => Carried::As {
                documented: "JSON becomes BSON: the same values, not the same text",
                payload: envelope::on_one_line,
            },
            Shape::Payload(Payload::JsonText) => Carried::As {
                documented: "a payload that is a JSON text is that text, as one without quotes is",
                payload: |message| envelope::text_of(message).into_bytes(),
            },
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    /// A collection is there when something is inserted.
    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let name = &destination.name;
        self.collections.insert(name.clone());
        if destination.guarded {
            let server = self.server_of(destination);
            let once = json!([{ "key": { "payload.poison": 1 }, "name": "once", "unique": true, "sparse": true }]);
            server.command(&json!({ "createIndexes": name, "indexes": once })).await?;
            let guard = json!([{ "_id": GUARD, "payload": { "poison": 1 } }]);
            server.command(&json!({ "insert": name, "documents": guard })).await?;
        }
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(way.port.unwrap_or(self.server.port()), destination);
        if let (true, Ok(server)) = (self.of_users.contains(&destination.name), self.with_users()) {
            config["port"] = server.port().into();
            (config["username"], config["password"]) = (ferretdb::USER.into(), ferretdb::PASSWORD.into());
        }
        match way.safety {
            Safety::Confirmed => {
                config["batch_size"] = BATCH_RECORDS.into();
                config["max_in_flight"] = BATCHES_IN_FLIGHT.into();
                config["batch_bytes"] = BATCH_BYTES.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let name = &destination.name;
        let documents = match self.of_users.contains(name) {
            true => self.with_users()?.admin().find(DATABASE, name, &json!({})).await?,
            false => self.server_of(destination).documents(name).await?,
        };
        documents.into_iter().filter(|document| document["_id"] != GUARD).map(seen).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let names = |answer: &Value| -> Vec<String> {
            let names = answer.as_array().into_iter().flatten();
            names.filter_map(|named| named["name"].as_str().map(str::to_owned)).collect()
        };
        let answer = self.server.command(&json!({ "listCollections": 1 })).await?;
        let collections = names(&answer["cursor"]["firstBatch"]);
        ensure!(!collections.is_empty(), "{answer}");
        let answer = self.server.client().command("admin", &json!({ "listDatabases": 1 })).await?;
        let databases = names(&answer["databases"]);
        let strange = |name: &String| !self.collections.contains(name) && !name.starts_with("system.");
        let foreign = |name: &String| ![DATABASE, "admin", "local", "config"].contains(&name.as_str());
        Ok(collections.into_iter().filter(strange).chain(databases.into_iter().filter(foreign)).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "poison": 1 }).to_string().into_bytes()
    }

    async fn requests(&self, destination: &Destination) -> Result<Option<u64>> {
        let inserts = self.server_of(destination).told(&format!("insert into {} ", destination.name))?;
        Ok(Some(inserts.len() as u64))
    }

    async fn break_by(&mut self, _: &Breakage, destination: &Destination) -> Result<()> {
        self.of_users.insert(destination.name.clone());
        self.with_users()?.change_password("another one").await
    }

    async fn mend(&mut self, _: &Breakage, _: &Destination) -> Result<()> {
        self.with_users()?.change_password(ferretdb::PASSWORD).await
    }

    async fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await
    }

    fn pause(&self) -> Result<()> {
        self.server.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.server.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.server.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        ports::connections_to(self.server.port()).map(Some)
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = MongoDbOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..MongoDbOptions::default()
            };
            self.with_tls.insert(key.clone(), MongoDb::with(options).await?);
        }
        let port = self.with_tls[&key].port();
        self.elsewhere.insert(destination.name.clone(), key);
        let mut config = config(port, destination);
        config["enable_tls"] = true.into();
        Ok(config)
    }

    fn beside(&self, field: &str, value: u64) -> Value {
        match field {
            "min_pool_size" => json!({ "max_pool_size": value.max(1) }),
            _ => Value::Null,
        }
    }

    fn finish(self) {
        self.server.finish();
        self.with_tls.into_values().for_each(MongoDb::finish);
        self.with_users.into_iter().for_each(FerretDb::finish);
    }
}

fn config(port: u16, destination: &Destination) -> Value {
    let short = json!({ "connect_timeout_secs": 2, "server_selection_timeout_secs": 5, "socket_timeout_secs": 5,
                        "collection": destination.name });
    mongodb::config(port, &short)
}

fn seen(document: Value) -> Result<Seen> {
    let text = |name: &str| document[name].as_str().map(str::to_owned).with_context(|| format!("{name} of {document}"));
    let properties = document["user_properties"].as_array().into_iter().flatten().map(|property| {
        let text = |name: &str| property[name].as_str().map(str::to_owned).with_context(|| property.to_string());
        Ok((text("name")?, text("value")?))
    });
    let properties = properties.collect::<Result<Vec<(String, String)>>>()?;
    ensure!(document["timestamp"]["$date"].is_object(), "the time is no date: {document}");
    Ok(Seen {
        id: Some(text("_id")?),
        topic: Some(text("topic")?),
        client_id: Some(text("client_id")?),
        payload: payload(document.get("payload").context("no payload")?)?,
        user_properties: Some(properties),
    })
}

/// Its bytes: of a text, of binary data, else JSON with the same values.
fn payload(value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Object(fields) if fields.contains_key("$binary") => {
            Ok(STANDARD.decode(fields["$binary"]["base64"].as_str().context("no base64")?)?)
        }
        value => Ok(plain(value)?.to_string().into_bytes()),
    }
}

/// From canonical extended JSON, which has a type for each number.
fn plain(value: &Value) -> Result<Value> {
    match value {
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(fields) => match fields.iter().next() {
            Some((name, Value::String(text))) if name.starts_with("$number") => number(name, text),
            Some((name, _)) if name.starts_with('$') => bail!("{value} is no JSON"),
            Some(_) | None => {
                let fields = fields.iter().map(|(name, value)| Ok((name.clone(), plain(value)?)));
                Ok(Value::Object(fields.collect::<Result<Map<String, Value>>>()?))
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(value.clone()),
    }
}

fn number(name: &str, text: &str) -> Result<Value> {
    Ok(match name {
        "$numberInt" | "$numberLong" => Value::Number(text.parse::<i64>()?.into()),
        // Whole numbers that no other type holds.
        "$numberDecimal" => Value::Number(text.parse::<u64>()?.into()),
        _ => Value::Number(Number::from_f64(text.parse()?).context("is no number of JSON")?),
    })
}
