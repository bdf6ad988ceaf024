//! Raft. Nothing outside this folder names openraft or bincode: if either changes, only this folder does.
//!
//! ```text
//! node (our facade) ─► openraft ─► store (log, state machine, snapshots)
//!                         │ ▲
//!                 network │ │ server          address: who, for whom; wire: the bodies; append_stream: the log
//!                         ▼ │
//!                    other members
//! ```

mod address;
mod append_stream;
mod frames;
#[cfg(test)]
mod golden;
mod network;
mod node;
mod server;
mod store;
mod transfers;
mod types;
pub(crate) mod wire;
mod witness;

pub(crate) use node::{NodeSettings, OpenedNode, ProposalError, RaftNode, ReadIndex, meta_dir};
pub(crate) use server::routes;
pub(crate) use witness::Witness;

const APPEND_PATH: &str = "/raft/append";
const STREAM_PATH: &str = "/raft/stream";
const VOTE_PATH: &str = "/raft/vote";
const PRE_VOTE_PATH: &str = "/raft/pre-vote";
const TRANSFER_PATH: &str = "/raft/transfer";
const SNAPSHOT_PATH: &str = "/raft/snapshot";
