//! Tells one peer which filters this node has subscribers for.

use std::sync::Arc;
use std::time::Duration;

use api_types::topic::TopicFilter;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{ANNOUNCE_PATH, Cluster, Origin, Peer, decode, encode};
use crate::mqtt::subscriptions::{Change, Update, Version};

/// An announcement without news is sent after this time, so that a peer that lost the set asks for it.
const SILENCE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
pub struct Announcement {
    pub origin: Origin,
    /// Version of the set after this announcement.
    pub to: Version,
    pub content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Content {
    All {
        filters: Vec<TopicFilter>,
    },
    /// Each filter is in at most one of the two.
    Changes {
        from: Version,
        added: Vec<TopicFilter>,
        removed: Vec<TopicFilter>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announced {
    Known,
    /// The peer does not have the set that the changes belong to.
    TellAll,
}

pub async fn run(cluster: Arc<Cluster>, peer: Peer, cancel: CancellationToken) {
    let mut versions = cluster.subscriptions.versions();
    let mut known = None;
    let mut retry = RETRY_FIRST;
    let mut failing = false;
    while !cancel.is_cancelled() {
        versions.mark_unchanged();
        let told = tokio::select! {
            told = announce(&cluster, &peer, known) => told,
            () = cancel.cancelled() => break,
        };
        let pause = match told {
            Ok(version) => {
                if std::mem::take(&mut failing) {
                    info!(peer = %peer.name, "subscriptions are announced again");
                }
                retry = RETRY_FIRST;
                known = version;
                confirm(&cluster, &peer, known);
                if known.is_none() { Duration::ZERO } else { SILENCE }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(peer = %peer.name, error = %error, "subscriptions cannot be announced");
                } else {
                    debug!(peer = %peer.name, error = %error, "subscriptions cannot be announced");
                }
                confirm(&cluster, &peer, None);
                retry = (retry * 2).min(RETRY_LAST);
                retry
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // News do not shorten the pause after a failure.
            changed = versions.changed(), if !failing => if changed.is_err() { break },
            () = cancel.cancelled() => break,
        }
    }
    confirm(&cluster, &peer, None);
}

#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    #[error("{0}")]
    Rpc(#[from] meta_service::rpc::RpcError),
    #[error("the announcement or its answer could not be read: status {0}")]
    Format(axum::http::StatusCode),
}

/// The version that the peer knows afterwards.
async fn announce(cluster: &Cluster, peer: &Peer, known: Option<Version>) -> Result<Option<Version>, AnnounceError> {
    let (to, content) = match (cluster.subscriptions.update_since(known), known) {
        (Update::All { to, filters }, _) => (to, Content::All { filters }),
        (Update::Changes { to, changes }, Some(from)) => (to, net(from, changes)),
        (Update::Changes { to, .. }, None) => {
            (to, Content::Changes { from: 0, added: Vec::new(), removed: Vec::new() })
        }
    };
    let body = encode(&Announcement { origin: cluster.origin.clone(), to, content }).map_err(AnnounceError::Format)?;
    let answer = cluster.rpc.post_to(peer.raft_id, &peer.address, ANNOUNCE_PATH, Bytes::from(body), TIMEOUT).await?;
    match decode(&answer).map_err(AnnounceError::Format)? {
        Announced::Known => Ok(Some(to)),
        Announced::TellAll => Ok(None),
    }
}

/// Leaves of each filter the last change only.
fn net(from: Version, changes: Vec<Change>) -> Content {
    let mut last = std::collections::BTreeMap::new();
    for change in changes {
        match change {
            Change::Added(filter) => last.insert(filter, true),
            Change::Removed(filter) => last.insert(filter, false),
        };
    }
    let (added, removed): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, added)| *added);
    let filters = |pairs: Vec<(TopicFilter, bool)>| pairs.into_iter().map(|(filter, _)| filter).collect();
    Content::Changes { from, added: filters(added), removed: filters(removed) }
}

fn confirm(cluster: &Cluster, peer: &Peer, known: Option<Version>) {
    cluster.confirmed.send_if_modified(|nodes| match known {
        Some(version) => nodes.insert(peer.name.clone(), version) != Some(version),
        None => nodes.remove(&peer.name).is_some(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_filter_counts() {
        let filter = |text| TopicFilter::parse(text).expect("valid");
        let changes = vec![
            Change::Added(filter("a")),
            Change::Removed(filter("b")),
            Change::Removed(filter("a")),
            Change::Added(filter("b")),
            Change::Added(filter("c")),
        ];
        let Content::Changes { from: 3, added, removed } = net(3, changes) else { panic!("not a change") };
        assert_eq!((added, removed), (vec![filter("b"), filter("c")], vec![filter("a")]));
    }
}
