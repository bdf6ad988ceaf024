//! Elasticsearch: an index for each destination, made before, whose documents are envelopes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::elasticsearch::{self, PASSWORD, USER};
use tests::front::{Front, FrontOptions};
use tests::ports;

use super::envelope;
use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
/// Of one index; more than any case writes.
const DOCUMENTS_MAX: usize = 1_000_000;

const REFUSED: Refused = Refused {
    class: "document_parsing_exception",
    words: "failed to parse field [payload.celsius] of type [float]",
    offline: false,
};
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "unable to authenticate user [sluice]",
};
const NO_INDEX: Breakage = Breakage {
    name: "missing index",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "no such index",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to create documents",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "is unauthorized for user [sluice]",
};
const BLOCKED: Breakage = Breakage {
    name: "read-only index",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "FORBIDDEN/8/index write",
};
const DISK_ALMOST_FULL: Breakage = Breakage {
    name: "disk almost full",
    health_reason: "TARGET_FULL",
    class: "target_full",
    words: "flood-stage watermark",
};

pub struct Elasticsearch {
    server: elasticsearch::Elasticsearch,
    /// nginx with TLS before it, one for each way to speak it.
    fronts: BTreeMap<String, Front>,
    indices: BTreeSet<String>,
    forbidden: BTreeSet<String>,
}

impl Elasticsearch {
    async fn grant(&self) -> Result<()> {
        let allowed: Vec<&str> = self.indices.difference(&self.forbidden).map(String::as_str).collect();
        self.server.set_rights(&allowed).await
    }

    async fn block(&self, index: &str, block: &str, on: bool) -> Result<()> {
        self.server.call("PUT", &format!("{index}/_settings"), &json!({ block: on })).await.map(drop)
    }
}

impl Adapter for Elasticsearch {
    const KIND: &'static str = "elasticsearch";

    async fn start(_: &Start) -> Result<Self> {
        let server = elasticsearch::Elasticsearch::start().await?;
        server.set("action.auto_create_index", json!("false")).await?;
        Ok(Self { server, fronts: BTreeMap::new(), indices: BTreeSet::new(), forbidden: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: envelope::PARTS,
            shows_order: false,
            batch_records: BATCH_RECORDS,
            batches_in_flight: 4,
            repeats: Repeats::Never,
            loses_when_killed: None,
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_INDEX, NO_RIGHT, BLOCKED, DISK_ALMOST_FULL],
            has_login: true,
            has_tls: true,
        }
    }

    /// It knows nobody before the index with its users is there.
    fn ends_while_down(&self) -> &'static [&'static str] {
        &["target_unreachable", "target_auth"]
    }

    fn carries(&self, shape: Shape) -> Carried {
        envelope::carries(shape)
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let payload = if destination.guarded {
            json!({ "properties": { "message": { "type": "keyword" }, "celsius": { "type": "float" } } })
        } else {
            json!({ "type": "object", "enabled": false })
        };
        let word = json!({ "type": "keyword", "ignore_above": 1024 });
        let body = json!({
            "settings": { "number_of_replicas": 0, "max_result_window": DOCUMENTS_MAX },
            "mappings": { "dynamic": false, "properties": {
                "@timestamp": { "type": "date" }, "id": word, "topic": word, "client_id": word, "payload": payload,
            } },
        });
        self.server.make_index(&destination.name, &body).await?;
        self.indices.insert(destination.name.clone());
        self.grant().await
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(&format!("http://127.0.0.1:{}", way.port.unwrap_or(self.server.port())), destination);
        match way.safety {
            Safety::Confirmed => config["batch_records"] = BATCH_RECORDS.into(),
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let hits = self.server.hits(&destination.name, DOCUMENTS_MAX).await?;
        hits.iter().map(|hit| envelope::seen(hit.text())).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        Ok(self.server.indices().await?.into_iter().filter(|name| !self.indices.contains(name)).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": "poison" }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let index = &destination.name;
        match *breakage {
            WRONG_PASSWORD => self.server.set_password("another one").await,
            NO_INDEX => self.server.call("DELETE", index, &Value::Null).await.map(drop),
            NO_RIGHT => {
                self.forbidden.insert(index.clone());
                self.grant().await
            }
            BLOCKED => self.block(index, "index.blocks.write", true).await,
            _ => self.block(index, "index.blocks.read_only_allow_delete", true).await,
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let index = &destination.name;
        match *breakage {
            WRONG_PASSWORD => self.server.set_password(PASSWORD).await,
            NO_INDEX => self.make(destination).await,
            NO_RIGHT => {
                self.forbidden.remove(index);
                self.grant().await
            }
            BLOCKED => self.block(index, "index.blocks.write", false).await,
            _ => self.block(index, "index.blocks.read_only_allow_delete", false).await,
        }
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
        if !self.fronts.contains_key(&key) {
            let options = FrontOptions {
                lines: format!("location / {{ proxy_pass {}; }}", self.server.url()),
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..FrontOptions::default()
            };
            self.fronts.insert(key.clone(), Front::start(options).await?);
        }
        Ok(config(&self.fronts[&key].url(), destination))
    }

    fn finish(self) {
        self.server.finish();
        self.fronts.into_values().for_each(Front::finish);
    }
}

fn config(url: &str, destination: &Destination) -> Value {
    json!({ "url": url, "index": destination.name, "auth_type": "basic", "username": USER, "password": PASSWORD,
            "timeout_secs": 5 })
}
