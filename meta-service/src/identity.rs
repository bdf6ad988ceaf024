//! `identity.json`: which disk this is and, once it belongs to a cluster, under which Raft id. A Raft id belongs to
//! one disk, never to a name, and is never used again.

use std::io;
use std::path::{Path, PathBuf};

use api_types::{ClusterId, DiskId, LogIndex, RaftId};
use serde::{Deserialize, Serialize};

use crate::durable_file;

/// The identity of a disk that belongs to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub raft_id: RaftId,
    pub disk_id: DiskId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub cluster_id: ClusterId,
    pub raft_id: RaftId,
}

/// The cluster has refused this disk: it holds less than what is known to have been synced on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WentBack {
    pub expected: LogIndex,
    pub found: LogIndex,
}

/// What the file says: a disk has its id from the first start, its membership from the adoption or the join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskIdentity {
    pub disk_id: DiskId,
    pub membership: Option<Membership>,
    /// The verdict stays, whatever a leader has written into the log since.
    pub went_back: Option<WentBack>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    disk_id: DiskId,
    cluster_id: Option<ClusterId>,
    raft_id: Option<RaftId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    went_back: Option<WentBack>,
}

impl DiskIdentity {
    pub(crate) fn load_or_create(data_dir: &Path) -> io::Result<Self> {
        let Some(bytes) = durable_file::read(&path(data_dir))? else {
            let fresh = Self { disk_id: DiskId(rand::random()), membership: None, went_back: None };
            fresh.store(data_dir)?;
            return Ok(fresh);
        };
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let file: File = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let membership = match (file.cluster_id, file.raft_id) {
            (Some(cluster_id), Some(raft_id)) => Some(Membership { cluster_id, raft_id }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(invalid("identity.json has a cluster id or a raft id, but not both".to_owned()));
            }
        };
        Ok(Self { disk_id: file.disk_id, membership, went_back: file.went_back })
    }

    pub(crate) fn store(&self, data_dir: &Path) -> io::Result<()> {
        let file = File {
            disk_id: self.disk_id,
            cluster_id: self.membership.map(|membership| membership.cluster_id),
            raft_id: self.membership.map(|membership| membership.raft_id),
            went_back: self.went_back,
        };
        let bytes = serde_json::to_vec_pretty(&file).map_err(io::Error::other)?;
        durable_file::replace(&path(data_dir), &bytes)
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        let Membership { cluster_id, raft_id } = self.membership?;
        Some(Identity { cluster_id, raft_id, disk_id: self.disk_id })
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("identity.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_keeps_its_identity() {
        let directory = tempfile::tempdir().expect("temporary folder");
        let fresh = DiskIdentity::load_or_create(directory.path()).expect("creates");
        assert_eq!(fresh.identity(), None);
        let membership = Some(Membership { cluster_id: ClusterId(5), raft_id: RaftId(1042) });
        DiskIdentity { membership, ..fresh }.store(directory.path()).expect("stores");
        let found = DiskIdentity::load_or_create(directory.path()).expect("loads");
        assert_eq!(found, DiskIdentity { disk_id: fresh.disk_id, membership, went_back: None });
        let went_back = Some(WentBack { expected: LogIndex(9), found: LogIndex(7) });
        DiskIdentity { went_back, ..found }.store(directory.path()).expect("stores");
        let refused = DiskIdentity::load_or_create(directory.path()).expect("loads");
        assert_eq!(refused, DiskIdentity { went_back, ..found });
    }

    #[test]
    fn half_an_identity_is_refused() {
        let directory = tempfile::tempdir().expect("temporary folder");
        let half = format!(r#"{{"disk_id":"{}","cluster_id":null,"raft_id":3}}"#, DiskId(1));
        std::fs::write(directory.path().join("identity.json"), half).expect("writes");
        assert!(DiskIdentity::load_or_create(directory.path()).is_err());
    }
}
