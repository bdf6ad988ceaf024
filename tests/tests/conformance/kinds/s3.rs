//! versitygw: a bucket for each destination, whose objects are arrays of envelopes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tests::front::{Front, FrontOptions};
use tests::ports;
use tests::s3::{self, REGION, SECRET, USER};

use super::envelope;
use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
/// An object is wanted soon.
const LINGER_MS: u64 = 20;
/// As the kind has it by default.
const BATCHES_IN_FLIGHT: u64 = 4;

/// A store does not look into objects: a record that is refused needs `raw`.
const NOT_TEXT: Refused = Refused { class: "not_text", words: "neither JSON nor UTF-8 text", offline: true };
const WRONG_SECRET: Breakage = Breakage {
    name: "wrong secret",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "SignatureDoesNotMatch",
};
const NO_BUCKET: Breakage = Breakage {
    name: "missing bucket",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "The specified bucket does not exist",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to write objects",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "is not authorized to perform: s3:PutObject",
};

pub struct S3 {
    server: s3::S3,
    /// nginx with TLS before it, one for each way to speak it.
    fronts: BTreeMap<String, Front>,
    buckets: BTreeSet<String>,
}

impl Adapter for S3 {
    const KIND: &'static str = "s3";

    async fn start(_: &Start) -> Result<Self> {
        let server = s3::S3::start().await?;
        Ok(Self { server, fronts: BTreeMap::new(), buckets: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: envelope::PARTS,
            shows_order: false,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            repeats: Repeats::Never,
            loses_when_killed: None,
            poison: NOT_TEXT,
            breakages: &[WRONG_SECRET, NO_BUCKET, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        envelope::carries(shape)
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let bucket = bucket(destination);
        self.server.make_bucket(&bucket).await?;
        self.buckets.insert(bucket);
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let port = way.port.unwrap_or(self.server.port());
        let mut config = config(&format!("http://127.0.0.1:{port}"), destination);
        match way.safety {
            Safety::Confirmed => {
                config["batch_records"] = BATCH_RECORDS.into();
                config["linger_ms"] = LINGER_MS.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        for (key, bytes) in self.server.objects(&bucket(destination))? {
            let records: Vec<&RawValue> =
                serde_json::from_slice(&bytes).with_context(|| format!("{key} is no array"))?;
            for record in records {
                all.push(match destination.guarded {
                    true => Seen { payload: record.get().as_bytes().to_vec(), ..Seen::default() },
                    false => envelope::seen(record.get())?,
                });
            }
        }
        Ok(all)
    }

    /// Buckets, and objects where no connector writes.
    async fn strangers(&self) -> Result<Vec<String>> {
        let mut strangers: Vec<String> =
            self.server.buckets()?.into_iter().filter(|name| !self.buckets.contains(name)).collect();
        for bucket in &self.buckets {
            let keys = self.server.objects(bucket)?.into_keys();
            strangers.extend(keys.filter(|key| !is_expected(key)).map(|key| format!("{bucket}/{key}")));
        }
        Ok(strangers)
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        [format!("{{\"message\":\"{name}\",\"celsius\":\"").as_bytes(), b"\xff\xfe\"}"].concat()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_SECRET => self.server.set_secret("another one").await,
            NO_BUCKET => self.server.take_away(&bucket(destination)),
            _ => self.server.set_readonly(&bucket(destination), true).await,
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_SECRET => self.server.set_secret(SECRET).await,
            NO_BUCKET => self.server.bring_back(&bucket(destination)),
            _ => self.server.set_readonly(&bucket(destination), false).await,
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
            // The host is part of what was signed.
            let lines = "location / { proxy_pass URL; proxy_set_header Host $http_host; } client_max_body_size 64m;";
            let options = FrontOptions {
                lines: lines.replace("URL", &self.server.url()),
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..FrontOptions::default()
            };
            self.fronts.insert(key.clone(), Front::start(options).await?);
        }
        let mut config = config(&self.fronts[&key].url(), destination);
        config["linger_ms"] = LINGER_MS.into();
        Ok(config)
    }

    fn finish(self) {
        self.server.finish();
        self.fronts.into_values().for_each(Front::finish);
    }
}

/// Names of buckets have no underscores.
fn bucket(destination: &Destination) -> String {
    destination.name.replace('_', "-")
}

/// `mqtt/{date}/{name}.json`
fn is_expected(key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    matches!(&*parts, ["mqtt", date, name] if date.len() == "2026-01-01".len() && name.ends_with(".json"))
}

fn config(url: &str, destination: &Destination) -> Value {
    let mut config = json!({
        "endpoint": url, "region": REGION, "bucket": bucket(destination), "access_key_id": USER,
        "secret_access_key": SECRET, "timeout_secs": 5,
    });
    if destination.guarded {
        config["payload_format"] = "raw".into();
    }
    config
}
