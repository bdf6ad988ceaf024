//! Uploads that nobody will finish: of a node that died, or whose end the store did not confirm. Their parts cost money and
//! are in no listing of objects.
//!
//! ```text
//! object complete ──► anything to look for? ──► a round, beside the next objects: list, remove what is the connector's own
//!   an earlier sink may have left something: the uploads below the prefixes, once
//!   an upload of this sink failed, or was given up: the same again
//!   a store of one's own, which may list no more than the uploads of one key: those of the keys that may have some
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_types::Record;
use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::keys::Keys;
use super::open_objects::{OpenObject, OpenObjects};
use super::store::Store;
use crate::sink::{TargetFault, TargetFaultKind};

/// What a bucket has beyond that is the next round's.
const BOUNDS: Bounds = Bounds { uploads: 1_000, pages: 50, removed: 1_000 };
/// Keys that are remembered; the uploads of others are left to the store.
const KEYS_MAX: usize = 1_000;
/// After a round that did not come to its end.
const PAUSE: Duration = Duration::from_mins(1);
/// How far the clocks of two nodes are believed.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    #[serde(rename = "Upload")]
    uploads: Vec<Unfinished>,
    is_truncated: bool,
    next_key_marker: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Unfinished {
    key: String,
    upload_id: String,
}

impl Page {
    fn has_more(&self) -> bool {
        self.is_truncated && !self.next_key_marker.is_empty()
    }
}

/// Removes what earlier sinks of the connector, and failed uploads of this one, have left.
pub(super) struct Cleanup {
    store: Arc<Store>,
    keys: Arc<Keys>,
    open: OpenObjects,
    /// AWS lists all uploads below a prefix; MinIO only those of the very key that is asked for.
    asks_for_keys: bool,
    /// A batch that came in later was never given to an earlier sink.
    opened_at_ms: u64,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Of a page; stores give no more than a thousand.
    pub(super) uploads: usize,
    /// Of a round.
    pub(super) pages: usize,
    /// In a round.
    pub(super) removed: usize,
}

#[derive(Default)]
struct State {
    /// How often something may have been left below the prefixes, and how many of those times were looked into.
    left: u64,
    looked_into: u64,
    /// A listing that has not come to its end.
    listing: Option<Listing>,
    /// Whose uploads are asked for one by one.
    keys: BTreeSet<String>,
    /// Between two rounds. An upload that was left since ends it.
    not_before: Option<Instant>,
    /// The store could not answer, or wants to be left alone: nothing ends this early.
    silent_until: Option<Instant>,
    /// The store does not let this sink look.
    is_refused: bool,
}

#[derive(Clone, Debug, Default)]
struct Listing {
    /// Its beginning: what was left later may stand before the marker.
    left: u64,
    /// Goes on behind this key. There is no marker inside a key: versitygw takes none.
    key_marker: String,
}

/// What is asked for next.
enum Question {
    Below(Listing),
    Key(String),
}

/// An object on its way.
pub(super) struct Attempt<'a> {
    cleanup: &'a Cleanup,
    object: OpenObject,
    /// There may be an upload at the store.
    in_parts: bool,
}

impl Cleanup {
    /// An earlier sink may have left something.
    pub(super) fn new(store: Arc<Store>, keys: Arc<Keys>, open: OpenObjects, asks_for_keys: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let opened_at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let state = Mutex::new(State { left: 1, ..State::default() });
        Self { store, keys, open, asks_for_keys, opened_at_ms, bounds: BOUNDS, state }
    }

    #[cfg(test)]
    pub(super) fn within(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Nothing of this key is removed meanwhile.
    pub(super) fn begin(&self, key: &str) -> Attempt<'_> {
        Attempt { cleanup: self, object: self.open.open(key), in_parts: false }
    }

    pub(super) fn is_due(&self) -> bool {
        let (state, now) = (self.lock(), Instant::now());
        let is_time = [state.not_before, state.silent_until].into_iter().flatten().all(|at| at <= now);
        is_time && !state.is_refused && self.next_of(&state).is_some()
    }

    /// Looks until there is nothing more to look for, or for as long as a round may take.
    pub(super) async fn round(&self) {
        let mut removed = Vec::new();
        match self.look(&mut removed).await {
            Ok(()) => {}
            Err(fault) => self.failed(&fault),
        }
        if !removed.is_empty() {
            debug!(removed = removed.len(), "unfinished uploads removed");
            self.removed(&removed);
        }
    }

    async fn look(&self, removed: &mut Vec<String>) -> Result<(), TargetFault> {
        for _ in 0..self.bounds.pages {
            let Some(question) = self.next() else { return Ok(()) };
            let page = self.ask(&question).await?;
            let before = removed.len();
            for upload in &page.uploads {
                if removed.len() == self.bounds.removed {
                    // The same page comes again, without those.
                    self.pause(PAUSE);
                    return Ok(());
                }
                if self.is_left(&question, &upload.key) {
                    self.store.ask(Method::DELETE, &upload.key, &[("uploadId", &upload.upload_id)]).await?;
                    removed.push(upload.key.clone());
                }
            }
            // What was removed makes room on the same page: nothing between the two is missed.
            if removed.len() == before || !page.has_more() {
                self.looked(question, page);
            }
        }
        self.pause(PAUSE);
        Ok(())
    }

    async fn ask(&self, question: &Question) -> Result<Page, TargetFault> {
        let uploads = self.bounds.uploads.to_string();
        let mut query = vec![("uploads", ""), ("max-uploads", &*uploads)];
        match question {
            Question::Below(listing) => {
                query.push(("prefix", self.keys.folder()));
                if !listing.key_marker.is_empty() {
                    query.push(("key-marker", &listing.key_marker));
                }
            }
            Question::Key(key) => query.push(("prefix", key)),
        }
        read(&self.store.ask(Method::GET, "", &query).await?)
    }

    fn is_left(&self, question: &Question, key: &str) -> bool {
        let asked_for = match question {
            Question::Below(_) => self.keys.is_own(key),
            Question::Key(asked_for) => key == asked_for,
        };
        asked_for && !self.open.contain(key)
    }

    fn next(&self) -> Option<Question> {
        self.next_of(&self.lock())
    }

    fn next_of(&self, state: &State) -> Option<Question> {
        if let Some(listing) = &state.listing {
            return Some(Question::Below(listing.clone()));
        }
        if state.left > state.looked_into {
            return Some(Question::Below(Listing { left: state.left, ..Listing::default() }));
        }
        // Those that are open are asked for when they are complete.
        state.keys.iter().find(|key| !self.open.contain(key)).cloned().map(Question::Key)
    }

    fn looked(&self, question: Question, page: Page) {
        let has_more = page.has_more();
        let mut state = self.lock();
        match question {
            Question::Below(listing) if has_more => {
                state.listing = Some(Listing { key_marker: page.next_key_marker, ..listing });
            }
            Question::Below(listing) => {
                state.listing = None;
                state.looked_into = listing.left;
            }
            Question::Key(key) => {
                state.keys.remove(&key);
            }
        }
    }

    /// What was not looked into stays to be done.
    fn failed(&self, fault: &TargetFault) {
        match fault.kind {
            TargetFaultKind::Interrupted => {}
            TargetFaultKind::Down
            | TargetFaultKind::Throttled { .. }
            | TargetFaultKind::Full
            | TargetFaultKind::Missing => {
                let asked = fault.retry_after().unwrap_or_default();
                self.lock().silent_until = Some(Instant::now() + asked.max(PAUSE));
            }
            TargetFaultKind::Auth | TargetFaultKind::Permission | TargetFaultKind::Misconfigured(_) => {
                self.lock().is_refused = true;
                warn!(error = %fault.message, "unfinished uploads cannot be removed");
            }
        }
    }

    /// A part that was on its way to the store may have come back after its upload: these are looked for once more, later.
    fn removed(&self, keys: &[String]) {
        self.pause(PAUSE);
        let mut state = self.lock();
        state.left += 1;
        for key in keys {
            self.remember(&mut state, key);
        }
    }

    fn pause(&self, pause: Duration) {
        self.lock().not_before = Some(Instant::now() + pause);
    }

    /// An upload of this sink may be left.
    fn left(&self, key: &str) {
        let mut state = self.lock();
        state.left += 1;
        state.not_before = None;
        self.remember(&mut state, key);
    }

    fn remember(&self, state: &mut State, key: &str) {
        if self.asks_for_keys && state.keys.len() < KEYS_MAX {
            state.keys.insert(key.to_owned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    pub(super) fn is_in_parts(&mut self) {
        self.in_parts = true;
    }

    /// The store has the object. Was the batch there before this sink, an earlier one may have begun it.
    pub(super) fn complete(mut self, last: &Record) {
        let cleanup = self.cleanup;
        let earlier = Duration::from_millis(last.message.timestamp_ms).saturating_sub(CLOCKS_DIFFER);
        if self.in_parts && earlier < Duration::from_millis(cleanup.opened_at_ms) {
            cleanup.remember(&mut cleanup.lock(), self.object.key());
        }
        self.in_parts = false;
    }
}

/// It failed, or was given up in the middle.
impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.in_parts {
            self.cleanup.left(self.object.key());
        }
    }
}

fn read(answer: &[u8]) -> Result<Page, TargetFault> {
    quick_xml::de::from_reader(answer).map_err(|error| {
        let says = format!("a list of uploads that cannot be read: {error}");
        // One answer, perhaps of somebody on the way: the next one may be a list.
        TargetFault::new(TargetFaultKind::Down, says)
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::sinks::opened::TestNode;
    use crate::sinks::s3::config::Config;

    /// Asks nobody, until there is a round.
    async fn cleanup() -> Cleanup {
        let node = TestNode::new(&[], PathBuf::from("/nowhere"), &[]);
        let config = Config::with(&json!({
            "endpoint": "http://127.0.0.1:1", "access_key_id": "sluice", "secret_access_key": "secret",
        }));
        let keys = Keys::new(&config, node.context().cluster, node.context().incarnation).expect("can be made");
        let store = Store::open(&config, node.context()).await.expect("opens");
        Cleanup::new(Arc::new(store), Arc::new(keys), OpenObjects::default(), false)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_wants_to_be_left_alone_is_left_alone_whatever_happens_meanwhile() {
        let cleanup = cleanup().await;
        let asked = Duration::from_mins(10);
        let busy = TargetFault::new(TargetFaultKind::Throttled { retry_after: Some(asked) }, "busy");
        assert!(cleanup.is_due());
        // As a round does that had removed some before.
        cleanup.failed(&busy);
        cleanup.removed(&["mqtt/one".to_owned()]);
        cleanup.left("mqtt/two");
        tokio::time::advance(asked - Duration::from_millis(1)).await;
        assert!(!cleanup.is_due());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(cleanup.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_ends_a_pause_that_nobody_asked_for() {
        let cleanup = cleanup().await;
        cleanup.removed(&["mqtt/one".to_owned()]);
        assert!(!cleanup.is_due());
        cleanup.left("mqtt/two");
        assert!(cleanup.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_cannot_be_read_is_a_pause_and_a_refusal_is_for_good() {
        let cleanup = cleanup().await;
        cleanup.failed(&read(b"<html>").expect_err("is no list"));
        assert!(!cleanup.is_due());
        tokio::time::advance(PAUSE).await;
        assert!(cleanup.is_due());
        cleanup.failed(&TargetFault::new(TargetFaultKind::Permission, "no"));
        tokio::time::advance(PAUSE * 2).await;
        assert!(!cleanup.is_due());
    }

    #[test]
    fn a_page_is_read_whether_it_has_uploads_or_not() {
        let none =
            b"<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                     <Bucket>b</Bucket><KeyMarker/><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        let page = read(none).expect("is read");
        assert!(page.uploads.is_empty() && !page.is_truncated && page.next_key_marker.is_empty());
        let two = b"<ListMultipartUploadsResult><Bucket>b</Bucket><NextKeyMarker>k2</NextKeyMarker>\
                    <NextUploadIdMarker>2</NextUploadIdMarker><IsTruncated>true</IsTruncated>\
                    <Upload><Key>a/k&amp;1</Key><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator></Upload>\
                    <Upload><Key>k2</Key><UploadId>2</UploadId><StorageClass>STANDARD</StorageClass></Upload>\
                    </ListMultipartUploadsResult>";
        let page = read(two).expect("is read");
        let found: Vec<(&str, &str)> = page.uploads.iter().map(|upload| (&*upload.key, &*upload.upload_id)).collect();
        assert_eq!(found, [("a/k&1", "1"), ("k2", "2")]);
        assert_eq!((page.has_more(), &*page.next_key_marker), (true, "k2"));
        assert!(read(b"<html>").is_err());
    }
}
