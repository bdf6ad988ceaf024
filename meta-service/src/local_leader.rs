//! The leader's part proposes and proves itself through this node's own Raft, never through another's.

use std::sync::Arc;
use std::time::Duration;

use api_types::{LogIndex, RequestId};
use async_trait::async_trait;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::leader::{LeaderPort, NotLeader};
use crate::seat::Seat;
use crate::state::{ClusterState, Command, CommandBody, Reply};

/// A leader that cannot apply what it committed within this is of no use to anybody's lease.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct LocalLeader {
    seat: Arc<Seat>,
    clock: Arc<dyn Clock>,
}

impl LocalLeader {
    pub(crate) fn new(seat: Arc<Seat>, clock: Arc<dyn Clock>) -> Self {
        Self { seat, clock }
    }
}

#[async_trait]
impl LeaderPort for LocalLeader {
    fn state(&self) -> Arc<ClusterState> {
        self.seat.replica.state()
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.seat.replica.applied()
    }

    async fn propose(&self, body: CommandBody) -> Result<Reply, NotLeader> {
        let node = self.seat.node().ok_or(NotLeader)?;
        let command = Command { request_id: RequestId(rand::random()), time_ms: self.clock.wall_ms(), body };
        node.propose(command).await.map_err(|_| NotLeader)
    }

    async fn prove(&self) -> Result<u64, NotLeader> {
        let node = self.seat.node().ok_or(NotLeader)?;
        let read = node.read_index().await.map_err(|_| NotLeader)?;
        let caught_up = self.seat.replica.wait_applied(read.index, APPLY_TIMEOUT).await;
        if caught_up { Ok(read.term) } else { Err(NotLeader) }
    }
}
