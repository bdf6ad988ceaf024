//! Live sessions of this node: who is connected under which client id, and what waits for them.
//!
//! A session lives as long as its connection. A second connection with the same client id takes over: the first is
//! told to close, and nothing more is put into its mailbox.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::publication::Publication;
use super::wire::Reason;

/// Messages that may wait for one subscriber. Sized for a burst of a few seconds at a subscriber's pace.
pub const MAILBOX_MESSAGES_MAX: usize = 10_000;
/// Bytes that may wait for one subscriber.
pub const MAILBOX_BYTES_MAX: usize = 16 << 20;
/// Bytes that may wait for all subscribers of this node.
pub const MAILBOXES_BYTES_MAX: usize = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub client_id: String,
    mailbox: Mutex<Mailbox>,
    /// Wakes the session's connection; only that one waits on it.
    wake: Notify,
    /// Bytes in all mailboxes of the node.
    waiting_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Mailbox {
    waiting: VecDeque<Letter>,
    bytes: usize,
    close: Option<Reason>,
}

/// A publication as one subscriber gets it.
#[derive(Clone, Debug)]
pub struct Letter {
    pub publication: Arc<Publication>,
    pub qos: u8,
    pub retain: bool,
    pub subscription_ids: Vec<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    Accepted,
    /// The mailbox is full. A session that was promised QoS 1 is closed by it.
    Full,
    /// The session is about to end.
    Closed,
}

impl Session {
    fn mailbox(&self) -> std::sync::MutexGuard<'_, Mailbox> {
        // Every change of a mailbox is complete before its guard goes, so a panic elsewhere leaves it whole.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn post(&self, letter: Letter) -> Posted {
        let bytes = letter.publication.size_bytes();
        let mut mailbox = self.mailbox();
        if mailbox.close.is_some() {
            return Posted::Closed;
        }
        let full = mailbox.waiting.len() >= MAILBOX_MESSAGES_MAX
            || mailbox.bytes + bytes > MAILBOX_BYTES_MAX
            || self.waiting_bytes.load(Ordering::Relaxed) + bytes > MAILBOXES_BYTES_MAX;
        if full {
            if letter.qos > 0 {
                mailbox.close = Some(Reason::QuotaExceeded);
                self.wake.notify_one();
            }
            return Posted::Full;
        }
        mailbox.bytes += bytes;
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        mailbox.waiting.push_back(letter);
        self.wake.notify_one();
        Posted::Accepted
    }

    /// Takes the first letter if `fits` says so.
    pub fn take(&self, fits: impl FnOnce(&Letter) -> bool) -> Option<Letter> {
        let mut mailbox = self.mailbox();
        let letter = mailbox.waiting.pop_front_if(|letter| fits(letter))?;
        let bytes = letter.publication.size_bytes();
        mailbox.bytes -= bytes;
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(letter)
    }

    /// Tells the connection to end. The first reason stays.
    pub fn close(&self, reason: Reason) {
        self.mailbox().close.get_or_insert(reason);
        self.wake.notify_one();
    }

    pub fn close_reason(&self) -> Option<Reason> {
        self.mailbox().close
    }

    /// Completes when a letter was posted or the session was told to close since the last call.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mailbox = self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.waiting_bytes.fetch_sub(mailbox.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub struct Registry {
    by_client_id: Mutex<HashMap<String, Arc<Session>>>,
    next_id: AtomicU64,
    waiting_bytes: Arc<AtomicUsize>,
    closing: OnceLock<Reason>,
}

impl Registry {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.by_client_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session; one with the same client id is taken over.
    pub fn open(&self, client_id: &str) -> Arc<Session> {
        let session = Arc::new(Session {
            id: SessionId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            client_id: client_id.to_owned(),
            mailbox: Mutex::default(),
            wake: Notify::new(),
            waiting_bytes: self.waiting_bytes.clone(),
        });
        let mut sessions = self.sessions();
        if let Some(old) = sessions.insert(client_id.to_owned(), session.clone()) {
            old.close(Reason::SessionTakenOver);
        }
        if let Some(reason) = self.closing.get() {
            session.close(*reason);
        }
        drop(sessions);
        session
    }

    /// Forgets the session, unless its client id belongs to another by now.
    pub fn forget(&self, session: &Session) {
        let mut sessions = self.sessions();
        if sessions.get(&session.client_id).is_some_and(|current| current.id == session.id) {
            sessions.remove(&session.client_id);
        }
    }

    pub fn contains(&self, client_id: &str) -> bool {
        self.sessions().contains_key(client_id)
    }

    /// Ends all sessions, and those that would still open.
    pub fn close_all(&self, reason: Reason) {
        let sessions = self.sessions();
        // Set under the lock that `open` takes, so no session slips between the two.
        let _ = self.closing.set(reason);
        sessions.values().for_each(|session| session.close(reason));
    }
}

#[cfg(test)]
mod tests {
    use api_types::Message;

    use super::*;

    fn letter(qos: u8, payload_bytes: usize) -> Letter {
        let message = Message { topic: "t".into(), payload: vec![0; payload_bytes].into(), qos, ..Message::default() };
        let publication = Arc::new(Publication::internal(&message));
        Letter { publication, qos, retain: false, subscription_ids: Vec::new() }
    }

    #[test]
    fn a_new_session_takes_the_client_id_over() {
        let registry = Registry::default();
        let first = registry.open("c");
        let second = registry.open("c");
        assert_eq!(first.close_reason(), Some(Reason::SessionTakenOver));
        assert_eq!(first.post(letter(0, 1)), Posted::Closed);
        registry.forget(&first);
        assert!(registry.contains("c"), "the end of the first must not remove the second");
        assert_eq!(second.close_reason(), None);
        registry.forget(&second);
        assert!(!registry.contains("c"));
    }

    #[test]
    fn a_full_mailbox_drops_qos_0_and_closes_qos_1() {
        let registry = Registry::default();
        let session = registry.open("c");
        let half = MAILBOX_BYTES_MAX / 2;
        assert_eq!(session.post(letter(0, half)), Posted::Accepted);
        assert_eq!(session.post(letter(0, half)), Posted::Full);
        assert_eq!(session.close_reason(), None);
        assert_eq!(session.post(letter(1, half)), Posted::Full);
        assert_eq!(session.close_reason(), Some(Reason::QuotaExceeded));
    }

    #[test]
    fn what_leaves_a_mailbox_makes_room_for_all() {
        let registry = Registry::default();
        let session = registry.open("c");
        assert_eq!(session.post(letter(1, 100)), Posted::Accepted);
        assert!(session.take(|letter| letter.qos == 0).is_none());
        assert!(session.take(|letter| letter.qos == 1).is_some());
        assert_eq!(registry.waiting_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(session.post(letter(1, 100)), Posted::Accepted);
        registry.forget(&session);
        drop(session);
        assert_eq!(registry.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
