//! Redis: a stream for each destination, whose entries hold every part of a record but its user properties.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::redis::{self, PASSWORD, RedisOptions, RedisSentinels, SENTINEL_PASSWORD, USER};

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::bare::BareClient;
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
const BATCHES_IN_FLIGHT: u64 = 4;
/// A command is held in three forms on its way, outside of the budget: what counts here is that it is bounded.
const BATCH_BYTES: u64 = 1 << 20;

const REFUSED: Refused = Refused {
    class: "redis_wrongtype",
    words: "WRONGTYPE Operation against a key holding the wrong kind of value",
    offline: false,
};
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "WRONGPASS invalid username-password pair",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to the command",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "NOPERM this user has no permissions to run the 'xadd' command",
};
/// What a plain message has in `celsius`.
const PLAIN: &str = "21.5";
const POISON: &str = "poison";

pub struct Redis {
    server: redis::Redis,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, redis::Redis>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    /// A master and its replica, and who is in them.
    replicated: Option<RedisSentinels>,
    in_replicated: BTreeSet<String>,
    keys: BTreeSet<String>,
}

impl Redis {
    fn server_of(&self, destination: &Destination) -> &redis::Redis {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }

    fn sentinels_of(&self, destination: &Destination) -> Option<&RedisSentinels> {
        self.replicated.as_ref().filter(|_| self.in_replicated.contains(&destination.name))
    }
}

impl Adapter for Redis {
    const KIND: &'static str = "redis";

    async fn start(_: &Start) -> Result<Self> {
        let server = redis::Redis::with(options()).await?;
        Ok(Self {
            server,
            with_tls: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            replicated: None,
            in_replicated: BTreeSet::new(),
            keys: BTreeSet::new(),
        })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: false },
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            repeats: Repeats::InFlight,
            loses_when_killed: None,
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    /// Arguments are bytes.
    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    /// A stream is there when something is added to it. Poisoned records go to a key that is none.
    async fn make(&mut self, destination: &Destination) -> Result<()> {
        self.keys.insert(key(destination));
        if destination.guarded {
            let no_stream = format!("{}:{POISON}", destination.name);
            self.server_of(destination).cli(&["SET", &no_stream, "x"]).await?;
            self.keys.insert(no_stream);
        }
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = match self.sentinels_of(destination) {
            Some(set) => set.config(&json!({ "command_template": template(destination) })),
            None => config(way.port.unwrap_or(self.server.port()), destination),
        };
        match way.safety {
            Safety::Confirmed => {
                config["batch_records"] = BATCH_RECORDS.into();
                config["max_in_flight"] = BATCHES_IN_FLIGHT.into();
                config["batch_bytes"] = BATCH_BYTES.into();
                config["connect_timeout_ms"] = 2_000.into();
                config["answer_timeout_ms"] = 5_000.into();
                // Lost connections are tried again by the pipeline alone, which counts that.
                config["max_retries"] = 0.into();
                if self.sentinels_of(destination).is_some() {
                    config["wait_replicas"] = 1.into();
                }
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let key = key(destination);
        let server = match self.sentinels_of(destination) {
            Some(set) => set.master().await?,
            None => self.server_of(destination),
        };
        entries(&server.cli(&["--no-raw", "XRANGE", &key, "-", "+"]).await?)
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let keys = self.server.cli(&["KEYS", "*"]).await?;
        let strange = keys.lines().filter(|key| !key.is_empty() && !self.keys.contains(*key));
        Ok(strange.map(str::to_owned).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": POISON }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, _: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => change_user(&self.server, &["resetpass", ">another"]).await,
            _ => change_user(&self.server, &["-xadd"]).await,
        }
    }

    async fn mend(&mut self, breakage: &Breakage, _: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => change_user(&self.server, &["resetpass", &format!(">{PASSWORD}")]).await,
            _ => change_user(&self.server, &["+xadd"]).await,
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await
    }

    async fn replicate(&mut self, destinations: &[Destination]) -> Result<bool> {
        self.replicated = Some(RedisSentinels::with(options(), Some(SENTINEL_PASSWORD)).await?);
        self.in_replicated = destinations.iter().map(|destination| destination.name.clone()).collect();
        Ok(true)
    }

    async fn fail_over(&mut self) -> Result<()> {
        self.replicated.as_mut().context("no sentinels")?.replace_master().await
    }

    async fn bare(&self, destination: &Destination) -> Result<Option<BareClient>> {
        let Some(set) = self.sentinels_of(destination) else { return Ok(None) };
        // Line by line, please; `stdbuf` becomes what it starts.
        let mut command = tokio::process::Command::new("stdbuf");
        command.args(["-oL", "redis-cli", "--no-auth-warning", "-p", &set.master().await?.port().to_string()]);
        command.args(["--user", USER, "-a", PASSWORD]);
        let key = key(destination);
        Ok(Some(BareClient {
            command,
            // An entry as those of a connector.
            line: Box::new(move |payload| {
                let quoted = payload.replace('"', "\\\"");
                format!("XADD {key} * id bare topic c/bare client bare payload \"{quoted}\"")
            }),
            // The id of the entry.
            confirms: |said, before| {
                let (milliseconds, number) = said.split_once('-')?;
                let is_id = milliseconds.parse::<u64>().is_ok() && number.parse::<u64>().is_ok();
                is_id.then_some(before + 1)
            },
        }))
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
        let clients = self.server.cli(&["CLIENT", "LIST"]).await?;
        Ok(Some(clients.matches(&format!(" user={USER} ")).count()))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = RedisOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..options()
            };
            self.with_tls.insert(key.clone(), redis::Redis::with(options).await?);
        }
        let port = self.with_tls[&key].port();
        self.elsewhere.insert(destination.name.clone(), key);
        let mut config = config(port, destination);
        config["tls_enabled"] = true.into();
        Ok(config)
    }

    fn finish(self) {
        self.server.finish();
        self.with_tls.into_values().for_each(redis::Redis::finish);
        self.replicated.into_iter().for_each(RedisSentinels::finish);
    }
}

/// What it has confirmed is on the disk.
fn options() -> RedisOptions {
    RedisOptions { settings: vec![("appendfsync".to_owned(), "always".to_owned())], ..RedisOptions::default() }
}

fn config(port: u16, destination: &Destination) -> Value {
    json!({ "server": format!("127.0.0.1:{port}"), "username": USER, "password": PASSWORD,
            "command_template": template(destination) })
}

fn template(destination: &Destination) -> String {
    let key = if destination.guarded { format!("{}:${{payload.celsius}}", destination.name) } else { key(destination) };
    format!("XADD {key} * id ${{id}} topic ${{topic}} client ${{client_id}} payload ${{payload}}")
}

fn key(destination: &Destination) -> String {
    if destination.guarded { format!("{}:{PLAIN}", destination.name) } else { destination.name.clone() }
}

async fn change_user(server: &redis::Redis, rules: &[&str]) -> Result<()> {
    let answer = server.cli(&[&["ACL", "SETUSER", USER][..], rules].concat()).await?;
    ensure!(answer == "OK", "{answer}");
    Ok(())
}

/// An entry is its id and the four fields with their names.
const TEXTS_OF_AN_ENTRY: usize = 9;

/// redis-cli writes each text in quotes, with everything that is not plain ASCII as an escape, on a line of its own.
fn entries(printed: &str) -> Result<Vec<Seen>> {
    let texts = printed.lines().filter_map(|line| line.find('"').map(|begin| &line[begin..]));
    let texts: Vec<Vec<u8>> = texts.map(unquoted).collect::<Result<_>>()?;
    ensure!(texts.len().is_multiple_of(TEXTS_OF_AN_ENTRY), "{} texts in {printed:.200}", texts.len());
    texts.chunks(TEXTS_OF_AN_ENTRY).map(seen).collect()
}

fn seen(entry: &[Vec<u8>]) -> Result<Seen> {
    let [_, _, id, _, topic, _, client_id, _, payload] = entry else { bail!("an entry of {} texts", entry.len()) };
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).context("is no text");
    Ok(Seen {
        id: Some(text(id)?),
        topic: Some(text(topic)?),
        client_id: Some(text(client_id)?),
        payload: payload.clone(),
        user_properties: None,
    })
}

fn unquoted(quoted: &str) -> Result<Vec<u8>> {
    let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).context("no quotes")?;
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside.bytes();
    while let Some(byte) = rest.next() {
        let plain = match byte {
            b'\\' => match rest.next().context("ends in a backslash")? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                b'x' => {
                    let digits = [rest.next().context("no digit")?, rest.next().context("no digit")?];
                    u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?
                }
                other => other,
            },
            _ => byte,
        };
        bytes.push(plain);
    }
    Ok(bytes)
}
