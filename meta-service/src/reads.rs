//! Linearizable reads on any node, many for one question to the leader.
//!
//! ```text
//! readers ─► queue ─► take all that wait ─► one read-index round ─► wait until applied here ─► answer them all
//! ```
//!
//! A reader is answered only by a round whose request was sent after the reader arrived: the round takes whom it finds
//! in the queue and sends afterwards; who comes later waits for the next round. Beside the leader this node's own vote
//! goes along, which spares the leader a round of heartbeats where the two are enough (`raft/witness.rs`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fatal::Fatal;
use crate::forward::{Forward, ForwardError, HOPS_MAX, LeaderAnswer, LeaderRequest};
use crate::leader::Reports;
use crate::raft::Witness;
use crate::retry::LeaderSeeker;
use crate::seat::Seat;
use crate::state::ClusterState;

/// Readers that wait at once; more than there are API connections.
const WAITING_MAX: usize = 65_536;
/// A round is tried for so long: longer than a change of the leader takes.
const ROUND_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// After a round for so many readers the next one waits a moment for the next requests of theirs: many answers at once
/// cost little more than one, and a round is over before half of the readers have read theirs.
const MANY: usize = 48;
const MANY_WAIT: Duration = Duration::from_millis(1);
/// A copy of the leader's soft state this young is good enough: nodes report twice a second.
const REPORTS_FRESH: Duration = Duration::from_millis(250);

/// The state as it was at some moment after the read began, and what the leader had heard from the nodes by then.
#[derive(Clone, Debug)]
pub struct ReadView {
    pub state: Arc<ClusterState>,
    pub reports: Arc<Reports>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader")]
    NoLeader,
    #[error("this node is not ready")]
    NotReady,
}

type Waiting = oneshot::Sender<Result<ReadView, ReadError>>;

#[derive(Clone)]
pub(crate) struct Reads {
    queue: mpsc::Sender<Waiting>,
}

impl Reads {
    pub(crate) fn start(seat: Arc<Seat>, forward: Arc<Forward>, fatal: Fatal, cancel: CancellationToken) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let rounds = Rounds { seat, forward, reports: Arc::default(), reports_of: None };
        tokio::spawn(fatal.guard("reads", async move {
            // Cancelled or finished: both are an end.
            let _finished = cancel.run_until_cancelled_owned(rounds.run(waiting)).await;
        }));
        Self { queue }
    }

    pub(crate) async fn read(&self) -> Result<ReadView, ReadError> {
        let (answer, view) = oneshot::channel();
        self.queue.send(answer).await.map_err(|_| ReadError::NotReady)?;
        view.await.map_err(|_| ReadError::NotReady)?
    }
}

struct Rounds {
    seat: Arc<Seat>,
    forward: Arc<Forward>,
    reports: Arc<Reports>,
    /// When the reports were fetched.
    reports_of: Option<Instant>,
}

impl Rounds {
    async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        while let Some(first) = queue.recv().await {
            let mut waiting = vec![first];
            while let Ok(next) = queue.try_recv() {
                waiting.push(next);
            }
            waiting.retain(|reader| !reader.is_closed());
            if waiting.is_empty() {
                continue;
            }
            let many = waiting.len() >= MANY;
            let view = self.round().await;
            for reader in waiting {
                // A reader that went away needs no answer.
                drop(reader.send(view.clone()));
            }
            if many {
                tokio::time::sleep(MANY_WAIT).await;
            }
        }
    }

    async fn round(&mut self) -> Result<ReadView, ReadError> {
        let mut seeker = LeaderSeeker::new(&self.seat, ROUND_TIMEOUT);
        let mut witness = self.witness().await;
        loop {
            let fresh = self.reports_of.is_some_and(|fetched| fetched.elapsed() < REPORTS_FRESH);
            let fresh_reports_of = fresh.then_some(self.reports.term);
            // Once: a leader of an earlier version does not know the question.
            let request = match witness.take() {
                Some(witness) => LeaderRequest::ReadWith { witness, fresh_reports_of },
                None => LeaderRequest::Read { fresh_reports_of },
            };
            let timeout = ATTEMPT_TIMEOUT.min(seeker.remaining());
            match self.forward.to_leader(request, HOPS_MAX, timeout).await {
                Ok(LeaderAnswer::Read { index, reports }) => {
                    if reports.is_some() || !fresh {
                        // None at all is better than old ones that pass for new.
                        self.reports_of = reports.is_some().then(Instant::now);
                        self.reports = Arc::new(reports.unwrap_or_default());
                    }
                    if !self.seat.replica.wait_applied(index, seeker.remaining()).await {
                        return Err(ReadError::NotReady);
                    }
                    return Ok(ReadView { state: self.seat.replica.state(), reports: Arc::clone(&self.reports) });
                }
                Err(ForwardError::NotReady) => return Err(ReadError::NotReady),
                Ok(_) | Err(ForwardError::NoLeader | ForwardError::OutcomeUnknown | ForwardError::Unreadable(_)) => {}
            }
            if !seeker.again().await {
                return Err(ReadError::NoLeader);
            }
        }
    }

    /// A leader is no witness of its own leadership.
    async fn witness(&self) -> Option<Witness> {
        let node = self.seat.node().filter(|node| !node.status().is_leader())?;
        node.witness().await
    }
}
