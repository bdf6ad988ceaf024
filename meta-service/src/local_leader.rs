//! The leader's part proposes and proves itself through this node's own Raft, never through another's.

use std::sync::Arc;

use api_types::RequestId;
use async_trait::async_trait;

use crate::clock::Clock;
use crate::leader::{LeaderPort, NotLeader};
use crate::seat::Seat;
use crate::state::{ClusterState, Command, CommandBody, Reply};

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

    async fn propose(&self, body: CommandBody) -> Result<Reply, NotLeader> {
        let node = self.seat.node().ok_or(NotLeader)?;
        let command = Command { request_id: RequestId(rand::random()), time_ms: self.clock.wall_ms(), body };
        node.propose(command).await.map_err(|_| NotLeader)
    }

    async fn prove(&self) -> Result<u64, NotLeader> {
        let node = self.seat.node().ok_or(NotLeader)?;
        node.read_index().await.map(|read| read.term).map_err(|_| NotLeader)
    }
}
