//! What librdkafka tells besides delivery reports: why connections fail, where it connects to, and that there is room.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace, warn};

use super::addresses;
use super::call::Ticket;
use super::fault::{interrupted, target_fault};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::network::Network;

/// Shared by everything that one sink has of librdkafka.
pub(super) struct Target {
    connector: String,
    deny_networks: Arc<[Network]>,
    /// How many of `bootstrap_servers` there are.
    servers: usize,
    reason: watch::Sender<Option<Reason>>,
    /// Who of them does not want us, by the names that librdkafka gives them.
    refusing: Mutex<BTreeSet<String>>,
    room: Notify,
    waiting_for_room: AtomicUsize,
    /// Nothing may leave any more.
    pub(super) aborted: CancellationToken,
    /// Nothing new is taken.
    pub(super) closing: CancellationToken,
}

/// Why the target cannot be used, from its connections.
#[derive(Clone)]
struct Reason {
    fault: TargetFault,
    /// Waiting does not help: all refuse us, none can be reached, or one may not be connected to.
    is_conclusive: bool,
}

impl Target {
    pub(super) fn new(connector: String, servers: usize, deny_networks: Arc<[Network]>) -> Arc<Self> {
        Arc::new(Self {
            connector,
            deny_networks,
            servers,
            reason: watch::Sender::new(None),
            refusing: Mutex::default(),
            room: Notify::new(),
            waiting_for_room: AtomicUsize::new(0),
            aborted: CancellationToken::new(),
            closing: CancellationToken::new(),
        })
    }

    pub(super) fn denies_networks(&self) -> bool {
        !self.deny_networks.is_empty()
    }

    /// Resolves as soon as it is clear that the target cannot be opened.
    pub(super) async fn refusal(&self) -> TargetFault {
        let mut reason = self.reason.subscribe();
        let conclusive = |reason: &Option<Reason>| reason.as_ref().is_some_and(|reason| reason.is_conclusive);
        let found = reason.wait_for(conclusive).await.map(|reason| reason.clone());
        match found {
            Ok(Some(reason)) => reason.fault,
            // The sender is here, and the condition has looked at the value.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn reason(&self) -> Option<TargetFault> {
        self.reason.borrow().as_ref().map(|reason| reason.fault.clone())
    }

    /// Why this sink takes nothing any more.
    pub(super) fn end(&self) -> TargetFault {
        match self.reason() {
            Some(reason) if reason.kind == DENIED => reason,
            Some(_) | None => interrupted(),
        }
    }

    pub(super) fn takes_nothing(&self) -> bool {
        self.aborted.is_cancelled() || self.closing.is_cancelled()
    }

    /// From now on every report that makes room is told to [`Waiting::room`].
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting_for_room.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    fn reported(&self) {
        if self.waiting_for_room.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }

    /// One that refuses us does not speak for the others.
    fn refused_by_all(&self, words: &str) -> bool {
        // `sasl_ssl://kafka-0:9093/bootstrap: SASL authentication error: …`
        let name = words.split_once(": ").map_or(words, |(name, _)| name);
        let server = name.rsplit_once('/').map_or(name, |(server, _)| server);
        let mut refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        refusing.insert(server.to_owned());
        refusing.len() >= self.servers
    }

    fn failed(&self, fault: TargetFault, all_brokers: bool) {
        let is_conclusive = match fault.kind {
            TargetFaultKind::Down => all_brokers,
            DENIED => true,
            _ => all_brokers || self.refused_by_all(&fault.message),
        };
        self.reason.send_modify(|reason| match reason {
            // That a connection broke off says less than why it was refused before.
            Some(known) if known.fault.kind != TargetFaultKind::Down && fault.kind == TargetFaultKind::Down => {}
            // "All brokers are down" says less than what was last said of one of them.
            Some(known) if all_brokers => known.is_conclusive = true,
            Some(_) | None => *reason = Some(Reason { fault, is_conclusive }),
        });
    }

    fn works(&self) {
        if self.reason.borrow().is_some() {
            self.reason.send_if_modified(|reason| reason.take().is_some());
        }
    }
}

/// Somebody who waits for room in librdkafka's queue.
pub(super) struct Waiting<'t>(&'t Target);

impl Waiting<'_> {
    /// Take it before looking for room, so that none that is made meanwhile is missed.
    pub(super) fn room(&self) -> Notified<'_> {
        self.0.room.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting_for_room.fetch_sub(1, Ordering::SeqCst);
    }
}

const DENIED: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_DENIED");

/// What librdkafka calls back, on the thread that polls it.
pub(super) struct Events(pub(super) Arc<Target>);

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let connector = &self.0.connector;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => warn!(%connector, facility, line, "librdkafka"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => debug!(%connector, facility, line, "librdkafka"),
            RDKafkaLogLevel::Debug => trace!(%connector, facility, line, "librdkafka"),
        }
        let denied = |address| addresses::denied(address, &self.0.deny_networks);
        if let Some(fault) = addresses::connecting_to(line).and_then(denied) {
            self.0.failed(fault, false);
            self.0.aborted.cancel();
        }
    }

    fn error(&self, error: KafkaError, words: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let connector = &self.0.connector;
        debug!(%connector, ?code, words, "librdkafka has trouble");
        self.0.failed(target_fault(code, words), code == RDKafkaErrorCode::AllBrokersDown);
    }
}

impl ProducerContext for Events {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        match result {
            Ok(_) => {
                self.0.works();
                ticket.report(Ok(()));
            }
            Err((error, _)) => {
                ticket.report(Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)));
            }
        }
        self.0.reported();
    }
}
