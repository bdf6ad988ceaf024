//! Why a connection was lost, and which message may be the cause: a suspect goes alone, so that it costs nobody else
//! anything, and so that it is known whose fault it is.

use std::collections::{HashMap, VecDeque};

use api_types::RecordId;

use super::message::Publish;
use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};

/// As many as can be on the wire when a connection is lost. Of more the oldest is forgotten, and suspected anew.
const SUSPECTS_MAX: usize = 1_000;

/// A connection that was lost.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) fault: TargetFault,
    pub(super) cause: Cause,
}

#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The target closed it, perhaps for a message.
    Closed,
    /// The target says what is wrong with a message. Which one it means is known only when there was one.
    Refused(Outcome),
    /// Nothing that a message could have caused.
    Unrelated,
}

/// Messages that were given up with a connection, over all attempts of the pipeline as long as this sink lives.
#[derive(Default)]
pub(super) struct Suspects {
    known: HashMap<RecordId, Suspicion>,
    oldest_first: VecDeque<RecordId>,
}

#[derive(Clone, Copy, Debug)]
enum Suspicion {
    /// Others were on the wire as well.
    InCompany,
    /// With how many messages of others answered it was first given up alone.
    Alone { answered: u64 },
}

impl Suspects {
    pub(super) fn contains(&self, id: RecordId) -> bool {
        self.known.contains_key(&id)
    }

    pub(super) fn given_up_in_company(&mut self, id: RecordId) {
        self.suspect(id, Suspicion::InCompany);
    }

    /// It was alone on the wire, and it had been time and again. Nobody else's attempts are a proof that the target
    /// works but those that it has answered since it closed the connection for this message for the first time.
    pub(super) fn given_up_alone(&mut self, publish: &Publish, loss: &Loss, answered: u64) -> Outcome {
        let refused = |why: &str| {
            let message = format!("{why}: {}", loss.fault.message);
            Outcome::RecordFault(RecordFault::refused("connection_closed", message))
        };
        match &loss.cause {
            Cause::Refused(outcome) => {
                self.suspect(publish.id, Suspicion::Alone { answered });
                return outcome.clone();
            }
            Cause::Closed => {
                let before = self.known.get(&publish.id).copied();
                if publish.is_disputed {
                    self.suspect(publish.id, Suspicion::Alone { answered });
                    return refused("control characters in a topic or property, and then");
                }
                match before {
                    Some(Suspicion::Alone { answered: first }) if answered > first => {
                        return refused("time and again with this message alone on the wire, while others were taken");
                    }
                    Some(Suspicion::Alone { .. }) => {}
                    Some(Suspicion::InCompany) | None => self.suspect(publish.id, Suspicion::Alone { answered }),
                }
            }
            Cause::Unrelated => {}
        }
        let message = format!("with this message alone on the wire: {}", loss.fault.message);
        Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, message))
    }

    pub(super) fn delivered(&mut self, id: RecordId) {
        if self.known.remove(&id).is_some() {
            self.oldest_first.retain(|known| *known != id);
        }
    }

    fn suspect(&mut self, id: RecordId, suspicion: Suspicion) {
        if self.known.insert(id, suspicion).is_some() {
            return;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > SUSPECTS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
