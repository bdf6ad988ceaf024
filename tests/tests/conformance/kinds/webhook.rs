//! nginx: places that can be closed, taken away and locked, and a log of what came to each.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tests::nginx::{Nginx, Request, USER};
use tests::ports;

use super::envelope;
use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 200;
const PASSWORD: &str = "p@ss:w/o?r#d";

const REFUSED: Refused = Refused { class: "http_422", words: "nobody believes this reading", offline: false };
const WRONG_PASSWORD: Breakage =
    Breakage { name: "wrong password", health_reason: "TARGET_AUTH", class: "target_auth", words: "401" };
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

pub struct Webhook {
    nginx: Nginx,
    /// One more listener for each way to speak TLS.
    tls: BTreeMap<String, u16>,
    log: Mutex<Log>,
}

/// The server's log as far as it was read.
#[derive(Default)]
struct Log {
    offset: u64,
    half: Vec<u8>,
    places: BTreeMap<String, Place>,
}

#[derive(Clone, Default)]
struct Place {
    seen: Vec<Seen>,
    requests: u64,
}

impl Webhook {
    /// What came to one place so far.
    fn place(&self, destination: &Destination) -> Result<Place> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.read_on(&self.nginx)?;
        Ok(log.places.get(&format!("/place/{}", destination.name)).cloned().unwrap_or_default())
    }
}

impl Log {
    fn read_on(&mut self, nginx: &Nginx) -> Result<()> {
        let mut file = std::fs::File::open(nginx.places_log()).context("the log of places")?;
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.half)? as u64;
        let end = self.half.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.half.drain(..end).collect();
        for line in String::from_utf8(lines).context("a log that is no text")?.lines() {
            let request = Request::read(line)?;
            let place = self.places.entry(request.path.clone()).or_default();
            place.requests += 1;
            if request.status == 200 {
                let records: Vec<&RawValue> = serde_json::from_str(&request.body).context("a body that is no array")?;
                for record in records {
                    place.seen.push(envelope::seen(record.get())?);
                }
            }
        }
        Ok(())
    }
}

impl Adapter for Webhook {
    const KIND: &'static str = "webhook";

    async fn start(_: &Start) -> Result<Self> {
        let nginx = Nginx::start().await?;
        nginx.set_password(PASSWORD).await?;
        Ok(Self { nginx, tls: BTreeMap::new(), log: Mutex::default() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: envelope::PARTS,
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: 1,
            // The receiver could tell them apart by `Idempotency-Key`; this one does not.
            repeats: Repeats::InFlight,
            loses_when_killed: None,
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_PLACE, CLOSED],
            has_login: true,
            has_tls: true,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        envelope::carries(shape)
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        self.nginx.set_place(&destination.name, true)
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(&format!("http://127.0.0.1:{}", way.port.unwrap_or(self.nginx.port())), destination);
        match way.safety {
            Safety::Confirmed => config["batch_records"] = BATCH_RECORDS.into(),
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        Ok(self.place(destination)?.seen)
    }

    /// Paths that somebody asked for and nobody made.
    async fn strangers(&self) -> Result<Vec<String>> {
        let stranger = |request: &Request| request.path.contains("stranger") || !request.path.starts_with("/place/");
        let requests = self.nginx.requests()?;
        Ok(requests
            .into_iter()
            .filter(stranger)
            .map(|request| format!("{} {}", request.method, request.path))
            .collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": "poison" }).to_string().into_bytes()
    }

    async fn requests(&self, destination: &Destination) -> Result<Option<u64>> {
        Ok(Some(self.place(destination)?.requests))
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.nginx.set_password("another one").await,
            NO_PLACE => self.nginx.set_place(&destination.name, false),
            _ => self.nginx.set_closed(&destination.name, true),
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.nginx.set_password(PASSWORD).await,
            NO_PLACE => self.nginx.set_place(&destination.name, true),
            _ => self.nginx.set_closed(&destination.name, false),
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.nginx.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.nginx.restart().await
    }

    fn pause(&self) -> Result<()> {
        self.nginx.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.nginx.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.nginx.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        ports::connections_to(self.nginx.port()).map(Some)
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let files = &offer.certificates;
        let key = format!("{} {}", files.server.display(), offer.client_required);
        let port = match self.tls.get(&key) {
            Some(port) => *port,
            None => {
                let client_ca = offer.client_required.then_some(files.ca.as_path());
                let port = self.nginx.listen_with_tls(&files.server, &files.server_key, client_ca).await?;
                self.tls.insert(key, port);
                port
            }
        };
        Ok(config(&format!("https://127.0.0.1:{port}"), destination))
    }

    fn finish(self) {
        self.nginx.finish();
    }
}

fn config(server: &str, destination: &Destination) -> Value {
    json!({ "url": format!("{server}/place/{}", destination.name), "timeout_ms": 5_000,
            "auth_type": "basic", "username": USER, "password": PASSWORD })
}
