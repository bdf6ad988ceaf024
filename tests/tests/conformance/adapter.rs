//! What the suite asks of an adapter: one kind's server, its destinations, and how to read them back.
//!
//! ```text
//!   case ──make──▶ destination at the server ◀──writes── sluice (connector with `config`)
//!     │                    ▲        │                        │
//!     ├─kill, pause, break─┘        └─read──▶ Vec<Seen> ◀────┘ every record, as the target has it, in its order
//!     └─ compares what was acknowledged with what was seen, ended and counted
//! ```
//!
//! An adapter declares what the kind's page promises as data (`facts`, `carries`); a case never knows which kind it
//! runs for. One server serves all cases of its kind, one after the other; every case makes destinations of its own.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::Value;
use tests::certificates::Certificates;

use crate::bare::BareClient;
use crate::shapes::{Message, Shape};

pub trait Adapter: Sized {
    /// As in `connector_type`.
    const KIND: &'static str;

    /// Starts the server, ready.
    async fn start(start: &Start) -> Result<Self>;

    /// What the kind's page says, and what of it this adapter can show.
    fn facts(&self) -> Facts;

    /// What becomes of a record with this shape in it. A record has one shape; everything else about it is plain.
    fn carries(&self, shape: Shape) -> Carried;

    /// Makes the destination (table, topic, queue, path), empty, with the rights that the connector needs. One that is
    /// `guarded` refuses records whose payload [`Self::poison`] made, and no other.
    async fn make(&mut self, destination: &Destination) -> Result<()>;

    /// `config` of a connector into the destination, with the target's confirmations on unless `way` says otherwise,
    /// short timeouts (a connect of 2 s, an answer of 5 s), and a batch of at most [`Facts::batch_records`] records.
    fn config(&self, destination: &Destination, way: Way) -> Value;

    /// Everything that stands at the destination now, in the order in which the target has it, repeats included.
    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>>;

    /// Things at the server that neither the suite nor a connector was told to make: other tables, keys, files. The
    /// injection case wants none.
    async fn strangers(&self) -> Result<Vec<String>>;

    /// The payload of a message with this name that a guarded destination refuses; [`crate::shapes::message_of`] makes
    /// one that it takes. The name must be readable by [`Seen::name`] should it arrive all the same.
    fn poison(&self, name: &str) -> Vec<u8>;

    /// The target ends the connection over a record that it refuses, so that what is under way may come again.
    fn refusals_interrupt(&self) -> bool {
        false
    }

    /// Requests or statements that the target saw for this destination, where it can tell: bounds what a search for
    /// poisoned records may cost.
    async fn requests(&self, _: &Destination) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Why there is nothing in [`Facts::breakages`].
    fn unbroken(&self) -> Option<&'static str> {
        None
    }

    /// Breaks the destination, made before and not yet connected to, in a way of [`Facts::breakages`], at the server.
    async fn break_by(&mut self, _: &Breakage, _: &Destination) -> Result<()> {
        bail!("{} declares no breakage", Self::KIND)
    }

    /// Mends it at the server; the connector is not touched and must go on by itself.
    async fn mend(&mut self, _: &Breakage, _: &Destination) -> Result<()> {
        bail!("{} declares no breakage", Self::KIND)
    }

    /// SIGKILL; gone when this returns.
    async fn kill(&mut self) -> Result<()>;

    /// After [`Self::kill`], on the same ports, ready. Not called while it runs.
    async fn start_again(&mut self) -> Result<()>;

    /// Starts a set of servers of which another takes the place of one that is killed. These destinations are there from
    /// now on. `false`: this adapter has none.
    async fn replicate(&mut self, _: &[Destination]) -> Result<bool> {
        Ok(false)
    }

    /// Kills the one of [`Self::replicate`] that takes writes, and starts it again once another takes them.
    async fn fail_over(&mut self) -> Result<()> {
        bail!("{} declares no set of servers", Self::KIND)
    }

    /// How a record may end while the server is away, or not ready yet, where nothing waits for it.
    fn ends_while_down(&self) -> &'static [&'static str] {
        &["target_unreachable"]
    }

    /// The target's own client, logged in and writing to a destination of its own with the target's confirmation; where
    /// [`Facts::loses_when_killed`] or [`Self::replicate`] says that the target may lose what it confirmed.
    async fn bare(&self, _: &Destination) -> Result<Option<BareClient>> {
        Ok(None)
    }

    /// SIGSTOP of everything that answers: connections stay open and nobody speaks.
    fn pause(&self) -> Result<()>;

    /// Also called when it is not paused.
    fn resume(&self) -> Result<()>;

    /// The port that the fault proxy passes connections of [`Way::port`] on to; `None` where there is no server.
    fn upstream(&self) -> Option<u16>;

    /// Connections of connectors to the server, as the server counts them; `None` where it does not.
    async fn connections(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Offers TLS as `offer` says and gives the `config` of a connector into the destination over it,
    /// without the fields about certificates (`ca_cert_path`, `client_cert_path`, …), which the case adds. The address
    /// in it is `127.0.0.1`. Called for one offer after the other; may start a server for each, where `read` and `make`
    /// find the destination.
    async fn tls(&mut self, _: &TlsOffer, _: &Destination) -> Result<Value> {
        bail!("{} declares no TLS", Self::KIND)
    }

    /// `tls_server_name` says which name the certificate must carry.
    fn takes_server_name(&self) -> bool {
        true
    }

    /// Fields that must stand beside `field` = `value` so that no rule between fields refuses it.
    fn beside(&self, field: &str, value: u64) -> Value {
        match field {
            "min_pool_size" => serde_json::json!({ "pool_size": value.max(1) }),
            _ => Value::Null,
        }
    }

    /// Everything passed: folders may go.
    fn finish(self);
}

/// What an adapter gets at its start.
pub struct Start {
    /// A folder of its own, readable by everybody, which goes after the kind's last case. File connectors may write
    /// below it.
    pub folder: PathBuf,
    /// Where the fault proxy will listen, for servers that tell clients their own address.
    pub proxy_port: u16,
}

/// One destination. Its name is made of lower-case letters, digits and `_`, at most 24 of them, and unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub name: String,
    /// Refuses poisoned records.
    pub guarded: bool,
}

/// How a connector reaches its destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// On 127.0.0.1, instead of the server's own: the fault proxy's.
    pub port: Option<u16>,
    pub safety: Safety,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Safety {
    /// The target's confirmations on, and what makes it know a repeat (ids, tokens), where the kind has that.
    #[default]
    Confirmed,
    /// As little in `config` as works: the defaults of the seed.
    SeedDefaults,
}

/// A record as the target has it. `None` is a part that this kind does not carry, and [`Parts`] says the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub id: Option<String>,
    pub topic: Option<String>,
    pub client_id: Option<String>,
    /// Where the target holds fields instead of bytes: the JSON text that [`Carried::As`] expects.
    pub payload: Vec<u8>,
    /// Those of the publisher; without what Sluice adds (`mqtt.…`, `sluice.…`).
    pub user_properties: Option<Vec<(String, String)>>,
}

pub struct Facts {
    pub parts: Parts,
    /// `read` gives the order of arrival, per publisher and topic at least.
    pub shows_order: bool,
    /// Most records of a batch in [`Adapter::config`], and batches of a queue under way at once.
    pub batch_records: u64,
    pub batches_in_flight: u64,
    /// With [`Safety::Confirmed`].
    pub repeats: Repeats,
    /// What it confirmed survives SIGKILL of the server; else the reason why not, as on the kind's page.
    pub loses_when_killed: Option<&'static str>,
    /// How a poisoned record ends.
    pub poison: Refused,
    /// At least one with `TARGET_AUTH` where the kind has a login.
    pub breakages: &'static [Breakage],
    pub has_login: bool,
    pub has_tls: bool,
}

/// Which parts of a record arrive, beside the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub id: bool,
    pub topic: bool,
    pub client_id: bool,
    pub user_properties: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// The target knows a record that comes again: nothing stands there twice, whatever is killed.
    Never,
    /// One owner repeats nothing; what the last one had under way may come again from the next.
    AfterChangeOfOwner,
    /// The batches in flight may come again for each interruption.
    InFlight,
}

/// What becomes of a shape.
#[derive(Clone, Copy)]
pub enum Carried {
    /// Every part that arrives is equal, byte by byte.
    Equal,
    /// The parts are equal, and the payload arrives in the form that the page documents.
    As { documented: &'static str, payload: fn(&Message) -> Vec<u8> },
    /// The record ends by the failure strategy.
    Refused(Refused),
}

/// The end of a record that is refused for its own fault.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// `error_class` of its dead letter.
    pub class: &'static str,
    /// Part of `error_message`: the target's own words where it was asked.
    pub words: &'static str,
    /// Found without asking the target, and so never tried again.
    pub offline: bool,
}

/// A way in which a destination cannot be used until a person does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakage {
    /// `wrong password`, `missing table`, `no right to insert`.
    pub name: &'static str,
    /// `TARGET_AUTH`, `TARGET_MISSING`, `TARGET_PERMISSION`, …
    pub health_reason: &'static str,
    /// `error_class` of dead letters: `target_auth`, …
    pub class: &'static str,
    /// Part of `last_error`: the target's own words.
    pub words: &'static str,
}

/// What a server shows and asks for in one TLS case.
#[derive(Clone, Debug)]
pub struct TlsOffer {
    /// Its `server` is for `localhost` and `127.0.0.1`, or expired; all files are readable by everybody, but stay where
    /// they are: a server that wants to own its key takes [`Certificates::copied_to`].
    pub certificates: Certificates,
    /// The server refuses clients without a certificate of the same authority. Theirs has the common name `sluice`.
    pub client_required: bool,
}

impl Seen {
    /// The publisher's name of the message: from the payload (`{"message":"bulk-17"}`, also where it is no UTF-8 behind
    /// that), else the third level of the topic.
    pub fn name(&self) -> Option<String> {
        let payload: Option<Value> = serde_json::from_str(&String::from_utf8_lossy(&self.payload)).ok();
        let from_payload = payload.and_then(|payload| payload["message"].as_str().map(str::to_owned));
        from_payload.or_else(|| self.topic.as_ref()?.split('/').nth(2).map(str::to_owned))
    }
}
