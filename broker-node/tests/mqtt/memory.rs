//! Queues in memory that do what a test tells them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use api_types::Message;
use api_types::topic::{FilterMap, TopicFilter};
use broker_node::mqtt::{Ingest, SubmitRefusal, Ticket, TicketError};
use futures::FutureExt;
use tokio::sync::{oneshot, watch};

pub struct MemoryQueues {
    filters: FilterMap<()>,
    state: Mutex<State>,
    submits: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// What matched a filter, in the order of submission.
    stored: Vec<Message>,
    refusal: Option<SubmitRefusal>,
    held: bool,
    tickets: VecDeque<oneshot::Sender<Result<(), TicketError>>>,
}

impl MemoryQueues {
    pub fn new(filters: &[&str]) -> Arc<Self> {
        let mut map = FilterMap::default();
        for filter in filters {
            map.insert(&TopicFilter::parse(filter).expect("valid"), ());
        }
        Arc::new(Self { filters: map, state: Mutex::default(), submits: watch::Sender::new(0) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    pub fn refuse(&self, refusal: Option<SubmitRefusal>) {
        self.state().refusal = refusal;
    }

    /// Tickets stay open until they are settled.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Settles the open ticket with this index among the open ones.
    pub fn settle(&self, index: usize, outcome: Result<(), TicketError>) {
        let ticket = self.state().tickets.remove(index).expect("an open ticket");
        // The connection may be gone.
        let _ = ticket.send(outcome);
    }

    pub fn release_all(&self) {
        let mut state = self.state();
        state.held = false;
        state.tickets.drain(..).for_each(|ticket| {
            let _ = ticket.send(Ok(()));
        });
    }

    pub fn stored(&self) -> Vec<Message> {
        self.state().stored.clone()
    }

    pub fn topics(&self) -> Vec<String> {
        self.state().stored.iter().map(|message| message.topic.clone()).collect()
    }

    pub fn submits(&self) -> usize {
        *self.submits.borrow()
    }

    /// Waits until so many messages are stored.
    pub async fn until_stored(&self, count: usize) -> Vec<Message> {
        let mut submits = self.submits.subscribe();
        let wait = async { while self.state().stored.len() < count && submits.changed().await.is_ok() {} };
        tokio::time::timeout(crate::raw::PATIENCE, wait).await.expect("stored in time");
        self.stored()
    }

    /// Waits until so many calls of `submit` were made.
    pub async fn until_submits(&self, count: usize) {
        let mut submits = self.submits.subscribe();
        let wait = submits.wait_for(|submits| *submits >= count);
        tokio::time::timeout(crate::raw::PATIENCE, wait).await.expect("submitted in time").expect("open");
    }
}

impl Ingest for MemoryQueues {
    fn submit(&self, messages: Vec<Message>) -> Result<Ticket, SubmitRefusal> {
        let mut state = self.state();
        let outcome = match state.refusal {
            Some(refusal) => Err(refusal),
            None => {
                let wanted = messages.into_iter().filter(|message| self.wanted(&message.topic));
                state.stored.extend(wanted);
                Ok(if state.held {
                    let (sender, receiver) = oneshot::channel();
                    state.tickets.push_back(sender);
                    receiver.map(|outcome| outcome.unwrap_or(Err(TicketError::Closed))).boxed()
                } else {
                    futures::future::ready(Ok(())).boxed()
                })
            }
        };
        drop(state);
        self.submits.send_modify(|submits| *submits += 1);
        outcome
    }

    fn wanted(&self, topic: &str) -> bool {
        let mut found = false;
        self.filters.matches(topic, |()| found = true);
        found
    }
}
