//! OpenTSDB, and VictoriaMetrics in its place where nothing is refused and much is written.
//!
//! ```text
//!   guarded destination ──▶ a TSD of its own (HBase): says which points it refuses, and why
//!   any other ──▶ nginx: a path, a password, a lock ──▶ VictoriaMetrics: label `destination`
//! ```
//!
//! One TSD has one room for everybody and no login. Whoever lets several write puts something in front that knows them,
//! as here. The name of a message is its metric, so that each message is a series of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::front::{Front, FrontOptions};
use tests::nginx::{self, USER};
use tests::opentsdb::OpenTsdb;
use tests::ports;
use tests::victoria::{Series, VictoriaMetrics};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, block_in_place, spawn_blocking};

use super::points;
use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::bare::BareClient;
use crate::shapes::{Payload, Shape};

const BATCH_RECORDS: u64 = 500;
/// VictoriaMetrics reads a batch as one request.
const REQUEST_BYTES: u64 = 1 << 20;
/// Guarded destinations of all cases.
const GUARDED: usize = 6;
const PASSWORD: &str = "p@ss:w/o?r#d";
/// The same inside a URL.
const PASSWORD_IN_URL: &str = "p%40ss%3Aw%2Fo%3Fr%23d";
/// The tag that poison has, and nothing else.
const SITE: &str = "site";
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

const REFUSED: Refused = Refused {
    class: "refused_point",
    words: "Invalid tag value with key [site] (\"no spaces\"): illegal character",
    offline: false,
};
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "401 Authorization Required",
};
const NO_PLACE: Breakage = Breakage {
    name: "missing place",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "there is no such place",
};
const CLOSED: Breakage = Breakage {
    name: "closed place",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "this place is closed",
};

/// Posts each line and says the number of one that is confirmed; these servers bring no client of their own.
const PUT_LINES: &str = r#"
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.netloc)
for number, line in enumerate(sys.stdin, 1):
    connection.request("POST", f"{url.path}?{url.query}", line.encode(), {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status == 204:
        print(number)
"#;

const fn refused(class: &'static str, words: &'static str) -> Carried {
    Carried::Refused(Refused { class, words, offline: true })
}

pub struct Opentsdb {
    victoria: VictoriaMetrics,
    front: Front,
    /// With TLS, one for each way to speak it.
    fronts: BTreeMap<String, Front>,
    made: BTreeSet<String>,
    /// Of the fronts: who may come in, and where.
    folder: PathBuf,
    guards: Guards,
}

/// OpenTSDB takes a while to start, and the first cases do without.
struct Guards {
    starting: Option<JoinHandle<Result<OpenTsdb>>>,
    opentsdb: Option<OpenTsdb>,
    /// Which TSD a destination has.
    tsds: BTreeMap<String, usize>,
}

impl Guards {
    fn start() -> Self {
        let start = || Handle::current().block_on(OpenTsdb::with_tsds(GUARDED));
        let starting = Some(spawn_blocking(start));
        Self { starting, opentsdb: None, tsds: BTreeMap::new() }
    }

    async fn ready(&mut self) -> Result<()> {
        if let Some(starting) = self.starting.take() {
            self.opentsdb = Some(starting.await??);
        }
        Ok(())
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        self.ready().await?;
        let next = self.tsds.len();
        ensure!(next < GUARDED, "there are only {GUARDED} TSDs");
        self.tsds.insert(destination.name.clone(), next);
        Ok(())
    }

    /// The TSD of a destination that was made.
    fn of(&self, destination: &Destination) -> Result<(&OpenTsdb, usize)> {
        let opentsdb = self.opentsdb.as_ref().context("OpenTSDB has not started")?;
        let tsd = self.tsds.get(&destination.name).with_context(|| format!("{} was not made", destination.name))?;
        Ok((opentsdb, *tsd))
    }

    fn finish(mut self) {
        // Chosen cases may end before it has started.
        let ready = block_in_place(|| Handle::current().block_on(self.ready()));
        if let (Ok(()), Some(opentsdb)) = (ready, self.opentsdb) {
            opentsdb.finish();
        }
    }
}

impl Adapter for Opentsdb {
    const KIND: &'static str = "opentsdb";

    async fn start(start: &Start) -> Result<Self> {
        let guards = Guards::start();
        let victoria = VictoriaMetrics::start().await?;
        let folder = start.folder.clone();
        for name in ["open", "closed"] {
            std::fs::create_dir(folder.join(name))?;
        }
        nginx::write_password(&passwords(&folder), PASSWORD).await?;
        let options = FrontOptions { lines: lines(&victoria, &folder), ..FrontOptions::default() };
        let front = Front::start(options).await?;
        Ok(Self { victoria, front, fronts: BTreeMap::new(), made: BTreeSet::new(), folder, guards })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: false, topic: false, client_id: false, user_properties: false },
            // Points come in the order of their times.
            shows_order: false,
            batch_records: BATCH_RECORDS,
            batches_in_flight: 1,
            // A repeat has the same series and the same time.
            repeats: Repeats::Never,
            loses_when_killed: Some("VictoriaMetrics confirms what it keeps in memory for a second"),
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_PLACE, CLOSED],
            has_login: true,
            has_tls: true,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(payload) => match payload {
                Payload::Empty
                | Payload::OneByte
                | Payload::Large
                | Payload::Nul
                | Payload::InvalidUtf8
                | Payload::Text(_) => refused("not_a_point", "the payload is not JSON"),
                Payload::JsonNull | Payload::JsonText => {
                    refused("not_a_point", "the payload is neither an object nor an array of objects")
                }
                Payload::JsonSpread => refused("not_a_point", "more than one value for"),
                Payload::JsonFlat | Payload::JsonNested | Payload::JsonNumbers => {
                    refused("no_metric", "field \"message\" of the payload is not there")
                }
            },
            // Nothing of them is written.
            Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        if destination.guarded {
            return self.guards.make(destination).await;
        }
        self.made.insert(destination.name.clone());
        nginx::toggle(&self.folder.join("open").join(&destination.name), true)
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        if let Ok((opentsdb, tsd)) = self.guards.of(destination) {
            let mut config = config(&opentsdb.url_of(tsd));
            config["details"] = true.into();
            config["batch_records"] = BATCH_RECORDS.into();
            return config;
        }
        let port = way.port.unwrap_or(self.front.port());
        let mut config = config(&place(&format!("http://127.0.0.1:{port}"), destination));
        match way.safety {
            Safety::Confirmed => {
                config["timeout_secs"] = 5.into();
                config["batch_records"] = BATCH_RECORDS.into();
                config["request_bytes"] = REQUEST_BYTES.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let series = if destination.guarded {
            let (opentsdb, tsd) = self.guards.of(destination)?;
            opentsdb.series_of(tsd).await?
        } else {
            self.victoria.series_with(&format!("{{destination=\"{}\"}}", destination.name)).await?
        };
        let mut seen = Vec::new();
        for one in &series {
            for (time_ms, value) in &one.points {
                points::is_recent(time_ms * NANOSECONDS_PER_MILLISECOND)?;
                seen.push(Seen { payload: payload_of(one, *value), ..Seen::default() });
            }
        }
        Ok(seen)
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let is_known = |series: &Series| {
            series.tags.iter().all(|(name, value)| match name.as_str() {
                "destination" => self.made.contains(value),
                "source" => value == "mqtt",
                _ => false,
            })
        };
        let series = self.victoria.series().await?;
        Ok(series.iter().filter(|series| !is_known(series)).map(|series| format!("{series:?}")).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": crate::shapes::CELSIUS, SITE: "no spaces" }).to_string().into_bytes()
    }

    async fn requests(&self, destination: &Destination) -> Result<Option<u64>> {
        if destination.guarded {
            let (opentsdb, tsd) = self.guards.of(destination)?;
            return opentsdb.puts_of(tsd).await.map(Some);
        }
        let path = format!("/{}/", destination.name);
        Ok(Some(self.front.passed()?.iter().filter(|request| request.uri.starts_with(&path)).count() as u64))
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => nginx::write_password(&passwords(&self.folder), "another one").await,
            NO_PLACE => nginx::toggle(&self.folder.join("open").join(&destination.name), false),
            _ => nginx::toggle(&self.folder.join("closed").join(&destination.name), true),
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => nginx::write_password(&passwords(&self.folder), PASSWORD).await,
            NO_PLACE => nginx::toggle(&self.folder.join("open").join(&destination.name), true),
            _ => nginx::toggle(&self.folder.join("closed").join(&destination.name), false),
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.victoria.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.victoria.start_again().await
    }

    async fn bare(&self, destination: &Destination) -> Result<Option<BareClient>> {
        let url = format!("{}/api/put?extra_label=destination={}", self.victoria.url(), destination.name);
        let mut command = tokio::process::Command::new("python3");
        command.args(["-u", "-c", PUT_LINES, &url]);
        Ok(Some(BareClient { command, line: Box::new(point_of), confirms: |said, _| said.parse().ok() }))
    }

    fn pause(&self) -> Result<()> {
        self.victoria.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.victoria.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.front.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        ports::connections_to(self.front.port()).map(Some)
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.fronts.contains_key(&key) {
            let options = FrontOptions {
                lines: lines(&self.victoria, &self.folder),
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..FrontOptions::default()
            };
            self.fronts.insert(key.clone(), Front::start(options).await?);
        }
        Ok(config(&place(&self.fronts[&key].url(), destination)))
    }

    fn finish(self) {
        self.guards.finish();
        self.victoria.finish();
        self.front.finish();
        self.fronts.into_values().for_each(Front::finish);
    }
}

/// A place is a path at the front, and a label behind it that no publisher can reach.
fn lines(victoria: &VictoriaMetrics, folder: &Path) -> String {
    let (url, folder, passwords) = (victoria.url(), folder.display(), passwords(folder));
    let passwords = passwords.display();
    format!(
        r#"client_max_body_size 64m;
    location ~ "^/(?<place>[a-z0-9_]+)/api/put$" {{
      if (!-e {folder}/open/$place) {{ return 404 "there is no such place\n"; }}
      if (-e {folder}/closed/$place) {{ return 403 "this place is closed\n"; }}
      auth_basic "places";
      auth_basic_user_file {passwords};
      proxy_pass {url}/api/put?$args&extra_label=destination=$place;
    }}"#
    )
}

fn passwords(folder: &Path) -> PathBuf {
    folder.join("passwords")
}

/// The URL of a place, with the login.
fn place(server: &str, destination: &Destination) -> String {
    format!("{}/{}", server.replacen("://", &format!("://{USER}:{PASSWORD_IN_URL}@"), 1), destination.name)
}

fn config(server: &str) -> Value {
    json!({ "server": server, "metric_field": "message", "value_field": "celsius", "tags_fields": [SITE] })
}

/// As the sink would write it.
fn point_of(payload: &str) -> String {
    let message: Value = serde_json::from_str(payload).unwrap_or_default();
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    json!({ "metric": message["message"], "timestamp": timestamp as u64, "value": crate::shapes::CELSIUS,
            "tags": { "source": "mqtt" } })
    .to_string()
}

/// What the message of a point was.
fn payload_of(series: &Series, value: f64) -> Vec<u8> {
    let mut payload = json!({ "message": series.metric, "celsius": value });
    for (name, value) in series.tags.iter().filter(|(name, _)| name == SITE) {
        payload[name] = value.as_str().into();
    }
    payload.to_string().into_bytes()
}
