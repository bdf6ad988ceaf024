//! Uploads that nobody will finish: of a node that died, or whose end the store did not confirm. Their parts cost money and
//! are in no listing of objects.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::Method;
use serde::Deserialize;
use tracing::{debug, warn};

use super::keys::Keys;
use super::store::Store;
use crate::sink::{TargetFault, TargetFaultKind};

/// Of a thousand uploads each: what a bucket has beyond that is somebody else's, or the next round's.
const PAGES_MAX: usize = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    #[serde(rename = "Upload")]
    uploads: Vec<Unfinished>,
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Unfinished {
    key: String,
    upload_id: String,
}

/// Removes what earlier sinks of the connector, and failed uploads of this one, have left.
pub(super) struct Cleanup {
    state: Mutex<State>,
    /// One round at a time.
    round: tokio::sync::Mutex<()>,
}

struct State {
    /// There may be something.
    due: bool,
    /// Keys that this sink writes at the moment.
    open: HashSet<String>,
}

/// A key that is being written.
pub(super) struct Open<'a> {
    cleanup: &'a Cleanup,
    key: String,
}

impl Cleanup {
    /// An earlier sink may have left something.
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { due: true, open: HashSet::new() }), round: tokio::sync::Mutex::default() }
    }

    /// Nothing of this key is removed meanwhile.
    pub(super) fn open(&self, key: &str) -> Open<'_> {
        self.lock().open.insert(key.to_owned());
        Open { cleanup: self, key: key.to_owned() }
    }

    /// An upload ended in a way that may have left parts.
    pub(super) fn is_due(&self) {
        self.lock().due = true;
    }

    /// Asked after an object was written: then the store is there, and nothing waits for it. A store that refuses to tell is
    /// not asked again by this sink.
    pub(super) async fn run_if_due(&self, store: &Store, keys: &Keys) {
        let Ok(_round) = self.round.try_lock() else { return };
        if !std::mem::replace(&mut self.lock().due, false) {
            return;
        }
        match self.run(store, keys).await {
            Ok(0) => {}
            Ok(removed) => debug!(removed, "unfinished uploads removed"),
            Err(fault) => {
                let again = matches!(
                    fault.kind,
                    TargetFaultKind::Interrupted | TargetFaultKind::Down | TargetFaultKind::Throttled { .. }
                );
                self.lock().due |= again;
                if !again {
                    warn!(error = %fault.message, "unfinished uploads cannot be removed");
                }
            }
        }
    }

    async fn run(&self, store: &Store, keys: &Keys) -> Result<usize, TargetFault> {
        let (mut key_marker, mut id_marker) = (String::new(), String::new());
        let mut removed = 0;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("uploads", ""), ("prefix", keys.folder())];
            if !key_marker.is_empty() {
                query.extend([("key-marker", &*key_marker), ("upload-id-marker", &*id_marker)]);
            }
            let page = read(&store.ask(Method::GET, "", &query).await?)?;
            for upload in page.uploads.iter().filter(|upload| keys.is_own(&upload.key)) {
                if self.lock().open.contains(&upload.key) {
                    continue;
                }
                store.ask(Method::DELETE, &upload.key, &[("uploadId", &upload.upload_id)]).await?;
                removed += 1;
            }
            if !page.is_truncated || page.next_key_marker.is_empty() {
                break;
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
        Ok(removed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.cleanup.lock().open.remove(&self.key);
    }
}

fn read(answer: &[u8]) -> Result<Page, TargetFault> {
    quick_xml::de::from_reader(answer).map_err(|error| {
        let says = format!("a list of uploads that cannot be read: {error}");
        TargetFault::new(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"), says)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((page.is_truncated, &*page.next_key_marker, &*page.next_upload_id_marker), (true, "k2", "2"));
        assert!(read(b"<html>").is_err());
    }
}
