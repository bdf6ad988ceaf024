//! What the driver's heartbeats say of the servers.
//!
//! The driver itself waits for a server as long as it is told to, also where the last host has just refused the
//! connection. Who knows that none of them answers need not wait: only the pipeline does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mongodb::ServerType;
use mongodb::bson::{Bson, Document};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::ServerAddress;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::sinks::offered::chain;

/// Of a server that does not say how large a document may be.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Servers {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    by_address: BTreeMap<String, State>,
    /// There was a server before.
    begun: bool,
    /// Of the largest document that every server took when there was one that said so.
    document_bytes_max: Option<usize>,
}

#[derive(Clone, Debug)]
enum State {
    Unasked,
    Answers(Said),
    Silent { since: Instant, words: String },
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    document_bytes_max: usize,
    is_router: bool,
}

/// Why waiting is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// No server has answered since; the words of one of them.
    Nobody(String),
    /// The driver has turned away from all of them: none is what it was told to look for.
    NoneLeft,
}

impl Servers {
    pub(super) fn handler(self: &Arc<Self>) -> EventHandler<SdamEvent> {
        let servers = Arc::clone(self);
        EventHandler::callback(move |event| servers.take_in(event))
    }

    /// Ends only when it is so; never while a server answers.
    pub(super) async fn hopeless(&self, since: Instant) -> Hopeless {
        self.until(|known| known.hopeless(since)).await
    }

    /// Bytes of the largest document that every server takes.
    pub(super) fn document_bytes_max(&self) -> usize {
        self.known().document_bytes_max.unwrap_or(DOCUMENT_BYTES_MAX)
    }

    /// All that the driver looks to.
    pub(super) fn addresses(&self) -> BTreeSet<String> {
        self.known().by_address.keys().cloned().collect()
    }

    /// A server that is no router of a sharded cluster, among those that answer.
    pub(super) fn no_router(&self) -> Option<String> {
        self.known().said().find(|(_, said)| !said.is_router).map(|(address, _)| address.to_owned())
    }

    /// One of them has answered. The driver may know of it before it is told here.
    pub(super) async fn heard(&self) {
        self.until(|known| known.said().next().map(drop)).await;
    }

    async fn until<T>(&self, look: impl Fn(&Known) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look, so that no change is missed between both.
            changed.as_mut().enable();
            if let Some(seen) = look(&self.known()) {
                return seen;
            }
            changed.await;
        }
    }

    fn take_in(&self, event: SdamEvent) {
        let mut known = self.known();
        match event {
            // All of them at once. One by one, as other events have it, those that are left are told before those that
            // take their place, and there would be none in between.
            SdamEvent::TopologyDescriptionChanged(event) => {
                known.are(event.new_description.servers().into_keys());
            }
            SdamEvent::ServerHeartbeatSucceeded(event) => {
                known.set(&event.server_address.to_string(), State::Answers(said(&event.reply)));
            }
            SdamEvent::ServerHeartbeatFailed(event) => {
                let silent = State::Silent { since: Instant::now(), words: chain(&event.failure) };
                known.set(&event.server_address.to_string(), silent);
            }
            // A request has found out that it is not what it was.
            SdamEvent::ServerDescriptionChanged(event)
                if event.new_description.server_type() == ServerType::Unknown =>
            {
                known.doubt(&event.address.to_string());
            }
            _ => {}
        }
        drop(known);
        self.changed.notify_waiters();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The servers that the driver looks to from now on.
    fn are<'a>(&mut self, addresses: impl IntoIterator<Item = &'a ServerAddress>) {
        let names: BTreeSet<String> = addresses.into_iter().map(ToString::to_string).collect();
        self.begun |= !names.is_empty();
        self.by_address.retain(|address, _| names.contains(address));
        for name in names {
            self.by_address.entry(name).or_insert(State::Unasked);
        }
    }

    /// Of one that the driver has not turned away from.
    fn set(&mut self, address: &str, state: State) {
        if let Some(known) = self.by_address.get_mut(address) {
            *known = state;
        }
        let bytes_max = self.said().map(|(_, said)| said.document_bytes_max).min();
        self.document_bytes_max = bytes_max.or(self.document_bytes_max);
    }

    fn doubt(&mut self, address: &str) {
        if let Some(known @ State::Answers(_)) = self.by_address.get_mut(address) {
            *known = State::Unasked;
        }
    }

    fn said(&self) -> impl Iterator<Item = (&str, &Said)> {
        self.by_address.iter().filter_map(|(address, state)| match state {
            State::Answers(said) => Some((address.as_str(), said)),
            State::Unasked | State::Silent { .. } => None,
        })
    }

    fn hopeless(&self, since: Instant) -> Option<Hopeless> {
        if self.by_address.is_empty() {
            return self.begun.then_some(Hopeless::NoneLeft);
        }
        let mut last = None;
        for state in self.by_address.values() {
            match state {
                State::Silent { since: silent, words } if *silent >= since => last = Some(words),
                State::Unasked | State::Answers(_) | State::Silent { .. } => return None,
            }
        }
        last.map(|words| Hopeless::Nobody(words.clone()))
    }
}

fn said(hello: &Document) -> Said {
    let bytes = hello.get_i32("maxBsonObjectSize").ok().and_then(|bytes| usize::try_from(bytes).ok());
    Said {
        document_bytes_max: bytes.unwrap_or(DOCUMENT_BYTES_MAX),
        is_router: hello.get("msg") == Some(&Bson::from("isdbgrid")),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn silent(since: Instant) -> State {
        State::Silent { since, words: "refused".to_owned() }
    }

    fn answers() -> State {
        State::Answers(said(&doc! {}))
    }

    #[test]
    fn there_is_hope_while_one_server_may_answer() {
        let before = Instant::now();
        let since = before + std::time::Duration::from_secs(1);
        let nobody = Some(Hopeless::Nobody("refused".to_owned()));
        for (begun, states, expect) in [
            (false, vec![], None),
            (true, vec![], Some(Hopeless::NoneLeft)),
            (true, vec![State::Unasked], None),
            (true, vec![silent(since)], nobody.clone()),
            (true, vec![silent(before)], None),
            (true, vec![silent(since), silent(since)], nobody),
            (true, vec![silent(since), State::Unasked], None),
            (true, vec![answers(), silent(since)], None),
        ] {
            let by_address = states.iter().enumerate().map(|(at, state)| (at.to_string(), state.clone())).collect();
            let known = Known { by_address, begun, ..Known::default() };
            assert_eq!(known.hopeless(since), expect, "{states:?}");
        }
    }

    #[test]
    fn a_seed_that_makes_way_for_the_members_leaves_hope() {
        let now = Instant::now();
        let servers = Servers::default();
        let are = |addresses: &[&str]| {
            let addresses: Vec<ServerAddress> =
                addresses.iter().map(|address| address.parse().expect("is an address")).collect();
            servers.known().are(&addresses);
        };
        are(&["localhost:1"]);
        servers.known().set("localhost:1", answers());
        // The driver tells of it in this order, and of all servers together in between.
        let event = |address: &str| serde_json::json!({ "address": address });
        let closed = serde_json::from_value(event("localhost:1")).expect("is an event");
        servers.take_in(SdamEvent::ServerClosed(closed));
        assert_eq!(servers.known().hopeless(now), None);
        are(&["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(servers.known().hopeless(now), None);
        servers.known().set("127.0.0.1:1", answers());
        let opening = serde_json::from_value(event("127.0.0.1:1")).expect("is an event");
        servers.take_in(SdamEvent::ServerOpening(opening));
        assert!(servers.known().said().map(|(address, _)| address).eq(["127.0.0.1:1"]), "what it said is known still");
        are(&[]);
        assert_eq!(servers.known().hopeless(now), Some(Hopeless::NoneLeft));
    }

    #[test]
    fn a_server_says_what_it_is_and_takes() {
        let small = said(&doc! { "maxBsonObjectSize": 1_000, "msg": "isdbgrid" });
        assert_eq!(small, Said { document_bytes_max: 1_000, is_router: true });
        assert_eq!(said(&doc! { "setName": "rs" }), Said { document_bytes_max: 16 << 20, is_router: false });
    }

    #[test]
    fn what_every_server_takes_is_known_also_while_none_answers() {
        let servers = Servers::default();
        assert_eq!(servers.document_bytes_max(), DOCUMENT_BYTES_MAX);
        let [one, other]: [ServerAddress; 2] = ["a:1", "b:1"].map(|address| address.parse().expect("is an address"));
        servers.known().are([&one, &other]);
        for (address, bytes) in [("a:1", 2_000), ("b:1", 1_000)] {
            servers.known().set(address, State::Answers(said(&doc! { "maxBsonObjectSize": bytes })));
        }
        assert_eq!(servers.document_bytes_max(), 1_000);
        for address in ["a:1", "b:1"] {
            servers.known().set(address, silent(Instant::now()));
        }
        assert_eq!(servers.document_bytes_max(), 1_000);
    }

    #[test]
    fn doubt_does_not_turn_silence_into_a_question() {
        let now = Instant::now();
        let by_address = BTreeMap::from([("a".to_owned(), silent(now))]);
        let mut known = Known { by_address, begun: true, ..Known::default() };
        known.doubt("a");
        assert!(known.hopeless(now).is_some());
        known.set("a", answers());
        known.doubt("a");
        assert!(matches!(known.by_address["a"], State::Unasked));
        known.set("gone", answers());
        assert_eq!(known.by_address.len(), 1);
    }
}
