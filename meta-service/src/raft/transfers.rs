//! Transfers of leadership that this node heard of. Openraft lets a node that hears of one forget its leader lease, so
//! that the heir is elected at once. Here nobody else profits from that: for as long as the lease would have lasted,
//! only the heir gets this node's vote. So a leader that was *not* elected by a transfer knows that no quorum had
//! heard another leader within the last lease.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api_types::RaftId;
use tokio::time::Instant;

pub(crate) struct Transfers {
    here: RaftId,
    lease: Duration,
    last: Mutex<Option<Transfer>>,
}

#[derive(Clone, Copy)]
struct Transfer {
    heir: RaftId,
    term: u64,
    heard: Instant,
}

impl Transfers {
    pub(super) fn new(here: RaftId, lease: Duration) -> Self {
        Self { here, lease, last: Mutex::new(None) }
    }

    pub(super) fn announced(&self, heir: RaftId, term: u64) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Transfer { heir, term, heard: Instant::now() });
    }

    /// Whether the candidate may be voted for; `Err` names the heir.
    pub(super) fn admit(&self, candidate: u64) -> Result<(), RaftId> {
        match self.last() {
            Some(transfer) if transfer.heard.elapsed() < self.lease && transfer.heir.0 != candidate => {
                Err(transfer.heir)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this node's election in `term` may be owed to a transfer.
    pub(crate) fn made_leader(&self, term: u64) -> bool {
        // The heir stands at once, or again after a lost round or two.
        let recent = self.lease * 4;
        self.last().is_some_and(|transfer| {
            transfer.heir == self.here && transfer.term < term && transfer.heard.elapsed() < recent
        })
    }

    fn last(&self) -> Option<Transfer> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(600);

    #[tokio::test(start_paused = true)]
    async fn only_the_heir_is_voted_for_while_the_lease_would_last() {
        let transfers = Transfers::new(RaftId(3), LEASE);
        assert_eq!(transfers.admit(1), Ok(()));
        transfers.announced(RaftId(2), 5);
        assert_eq!(transfers.admit(1), Err(RaftId(2)));
        assert_eq!(transfers.admit(2), Ok(()));
        tokio::time::advance(LEASE).await;
        assert_eq!(transfers.admit(1), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_heir_knows_how_it_was_elected() {
        let transfers = Transfers::new(RaftId(3), LEASE);
        transfers.announced(RaftId(3), 5);
        assert!(transfers.made_leader(6));
        assert!(!transfers.made_leader(5));
        transfers.announced(RaftId(2), 5);
        assert!(!transfers.made_leader(6));
    }
}
