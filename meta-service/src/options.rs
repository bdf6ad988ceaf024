//! What a metadata service is started with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use api_types::NodeName;

use crate::clock::Clock;
use crate::rpc::Secrets;
use crate::timings::Timings;

/// A snapshot is made after so many entries: replaying them takes about a second.
pub const SNAPSHOT_EVERY_DEFAULT: u64 = 20_000;

const VOTERS_MAX: usize = 7;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("cluster.initial_voters: {0} voters, but a cluster has 1, 3, 5 or 7")]
    Voters(usize),
    #[error("cluster.initial_voters: {0} stands there twice")]
    VoterTwice(String),
    #[error("cluster.initial_voters is empty and so is cluster.join: there is no cluster to found or to ask for")]
    Nobody,
    #[error("{}", .0.join("; "))]
    Timings(Vec<String>),
}

#[derive(Clone)]
pub struct MetaOptions {
    /// Holds `identity.json`, `bootstrap.json` and `meta/`.
    pub data_dir: PathBuf,
    pub node_name: NodeName,
    /// Where other nodes reach this one's RPC port, `host:port`.
    pub rpc_address: String,
    /// The voters of a new cluster and their RPC addresses; the first one founds it. One, three, five or seven; empty
    /// on a node that only joins.
    pub initial_voters: Vec<(NodeName, String)>,
    /// RPC addresses of nodes to ask for a cluster.
    pub join: Vec<String>,
    pub secrets: Secrets,
    pub timings: Timings,
    pub snapshot_every: u64,
    pub clock: Arc<dyn Clock>,
}

impl MetaOptions {
    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let voters = self.initial_voters.len();
        if voters > VOTERS_MAX || (voters > 0 && voters.is_multiple_of(2)) {
            return Err(OptionsError::Voters(voters));
        }
        let mut seen = BTreeSet::new();
        for (name, address) in &self.initial_voters {
            for text in [name.as_str(), address.as_str()] {
                if !seen.insert(text) {
                    return Err(OptionsError::VoterTwice(text.to_owned()));
                }
            }
        }
        if voters == 0 && self.join.is_empty() {
            return Err(OptionsError::Nobody);
        }
        let problems = self.timings.problems();
        if problems.is_empty() { Ok(()) } else { Err(OptionsError::Timings(problems)) }
    }
}
