//! Openraft's types as this cluster uses them, and their places in envelopes.

use std::fmt;

use api_types::{DiskId, NodeName};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::raft as message;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wire::{Kind, Wire};
use crate::state::{Command, Reply};

openraft::declare_raft_types!(
    /// A term has one leader (`leader_id_std`), as in the paper.
    pub Types:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type Entry = EntryOf<Types>;
pub(crate) type StoredMembership = StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<Types>;

/// A member as the membership entries remember it. Its address may have changed since: the replicated state knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: NodeName,
    pub disk_id: DiskId,
    pub rpc_address: String,
}

/// A command inside a log entry, with the version that tells its layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal(pub Command);

const COMMAND_VERSION: u16 = 1;

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {}", self.0.request_id)
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&COMMAND_VERSION)?;
        tuple.serialize_element(&self.0)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(2, VersionedCommand)
    }
}

struct VersionedCommand;

impl<'de> Visitor<'de> for VersionedCommand {
    type Value = Proposal;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a command and its version")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Proposal, A::Error> {
        let version: u16 = parts.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        // A node that meets a committed command it does not know must stop, not skip it.
        if version != COMMAND_VERSION {
            return Err(A::Error::custom(format_args!("command version {version} is not known here")));
        }
        parts.next_element()?.map(Proposal).ok_or_else(|| A::Error::invalid_length(1, &self))
    }
}

macro_rules! in_envelope {
    ($($type:ty => $kind:ident),* $(,)?) => {
        $(impl Wire for $type {
            const KIND: Kind = Kind::$kind;
        })*
    };
}

in_envelope! {
    Vote => Vote,
    Option<LogId> => LogId,
    Entry => Entry,
    StoredMembership => Membership,
    Proposal => Command,
    message::AppendEntriesRequest<Types> => AppendRequest,
    message::AppendEntriesResponse<Types> => AppendResponse,
    message::VoteRequest<Types> => VoteRequest,
    message::VoteResponse<Types> => VoteResponse,
    message::TransferLeaderRequest<Types> => TransferRequest,
    message::TransferLeaderResponse<Types> => TransferResponse,
    message::SnapshotResponse<Types> => SnapshotResponse,
}
