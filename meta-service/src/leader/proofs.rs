//! One proof of leadership for all that wait: whoever asks is answered by a round that is sent after it asked.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::{LeaderPort, NotLeader};

type Proof = Result<u64, NotLeader>;

/// Many more than there are nodes, each with one heartbeat in flight; more wait in line.
const WAITING_MAX: usize = 4096;

pub(super) struct Proofs {
    ask: mpsc::Sender<oneshot::Sender<Proof>>,
    /// Taken by `serve`, and dropped with it: then nobody waits in vain.
    asked: Mutex<Option<mpsc::Receiver<oneshot::Sender<Proof>>>>,
}

impl Default for Proofs {
    fn default() -> Self {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        Self { ask, asked: Mutex::new(Some(asked)) }
    }
}

impl Proofs {
    pub async fn prove(&self) -> Proof {
        let (answer, proof) = oneshot::channel();
        self.ask.send(answer).await.map_err(|_| NotLeader)?;
        proof.await.map_err(|_| NotLeader)?
    }

    /// Never returns. Called once; when it is dropped, every `prove` is refused.
    pub async fn serve(&self, port: &dyn LeaderPort) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut asked) = asked else { return std::future::pending().await };
        let mut waiting = Vec::new();
        while asked.recv_many(&mut waiting, WAITING_MAX).await > 0 {
            let proof = port.prove().await;
            for answer in waiting.drain(..) {
                // Who no longer waits needs no answer.
                let _ = answer.send(proof);
            }
        }
    }
}
