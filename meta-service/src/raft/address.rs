//! Who a Raft RPC is from and for. It stands in HTTP headers and is checked before a body is decoded, so that a
//! recycled address, a restored volume or another cluster is harmless.

use std::fmt;
use std::str::FromStr;

use api_types::{ClusterId, DiskId, RaftId};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::identity::Membership;
use crate::rpc::TO;
use crate::standing::Standing;
use crate::state::ClusterState;

const CLUSTER: HeaderName = HeaderName::from_static("sluice-cluster");
const FROM: HeaderName = HeaderName::from_static("sluice-from");
const TO_DISK: HeaderName = HeaderName::from_static("sluice-to-disk");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RpcAddress {
    pub cluster_id: ClusterId,
    pub from: RaftId,
    pub to: RaftId,
    pub to_disk: DiskId,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misdirected {
    #[error("header {0} is missing or unreadable")]
    Header(HeaderName),
    /// An empty disk answers no Raft RPC.
    #[error("NOT_A_MEMBER: this disk belongs to no cluster yet")]
    NotAMember,
    #[error("WRONG_CLUSTER: this is cluster {0}")]
    Cluster(ClusterId),
    #[error("WRONG_NODE: this is raft id {raft_id} on disk {disk_id}")]
    Node { raft_id: RaftId, disk_id: DiskId },
    #[error("REMOVED: raft id {0} was removed from the cluster")]
    Removed(RaftId),
}

impl RpcAddress {
    pub(super) fn headers(&self) -> HeaderMap {
        let number = |id: RaftId| HeaderValue::from(id.0);
        // Hexadecimal digits are always a valid value.
        let hexadecimal = |id: &dyn fmt::Display| {
            HeaderValue::from_str(&id.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        HeaderMap::from_iter([
            (CLUSTER, hexadecimal(&self.cluster_id)),
            (FROM, number(self.from)),
            (TO, number(self.to)),
            (TO_DISK, hexadecimal(&self.to_disk)),
        ])
    }

    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, Misdirected> {
        Ok(Self {
            cluster_id: header(headers, CLUSTER)?,
            from: RaftId(header(headers, FROM)?),
            to: RaftId(header(headers, TO)?),
            to_disk: header(headers, TO_DISK)?,
        })
    }

    /// Whether this node is the one that is meant, and the sender not known to be removed.
    pub(super) fn check(
        &self,
        here: Option<Membership>,
        disk_id: DiskId,
        state: &ClusterState,
    ) -> Result<(), Misdirected> {
        let Some(Membership { cluster_id, raft_id }) = here else { return Err(Misdirected::NotAMember) };
        if self.cluster_id != cluster_id {
            return Err(Misdirected::Cluster(cluster_id));
        }
        if (self.to, self.to_disk) != (raft_id, disk_id) {
            return Err(Misdirected::Node { raft_id, disk_id });
        }
        match Standing::of(self.from, state) {
            Standing::Removed => Err(Misdirected::Removed(self.from)),
            // Raft itself judges whom it does not know yet.
            Standing::Member | Standing::NotYetKnown | Standing::WentBack { .. } => Ok(()),
        }
    }
}

fn header<T: FromStr>(headers: &HeaderMap, name: HeaderName) -> Result<T, Misdirected> {
    let text = headers.get(&name).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or(Misdirected::Header(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Membership = Membership { cluster_id: ClusterId(7), raft_id: RaftId(2) };

    fn address() -> RpcAddress {
        RpcAddress { cluster_id: ClusterId(7), from: RaftId(1), to: RaftId(2), to_disk: DiskId(22) }
    }

    #[test]
    fn headers_carry_the_whole_address() {
        assert_eq!(RpcAddress::parse(&address().headers()), Ok(address()));
        assert_eq!(RpcAddress::parse(&HeaderMap::new()), Err(Misdirected::Header(CLUSTER)));
    }

    #[test]
    fn only_the_node_that_is_meant_takes_a_call() {
        let state = ClusterState::default();
        let check = |address: RpcAddress, here, expect: Result<(), Misdirected>| {
            assert_eq!(address.check(here, DiskId(22), &state), expect);
        };
        check(address(), Some(HERE), Ok(()));
        check(address(), None, Err(Misdirected::NotAMember));
        check(
            RpcAddress { cluster_id: ClusterId(8), ..address() },
            Some(HERE),
            Err(Misdirected::Cluster(ClusterId(7))),
        );
        let wrong = || Err(Misdirected::Node { raft_id: RaftId(2), disk_id: DiskId(22) });
        check(RpcAddress { to: RaftId(3), ..address() }, Some(HERE), wrong());
        check(RpcAddress { to_disk: DiskId(23), ..address() }, Some(HERE), wrong());
    }
}
