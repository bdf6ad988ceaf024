//! One server with its connections: each lane of records always uses the same of them, questions one of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::address::Address;
use super::connect::Dialer;
use super::fault::down;
use super::link::{Answers, Link};
use crate::sink::TargetFault;

pub(super) struct Server {
    pub(super) address: Address,
    dialer: Arc<Dialer>,
    /// Of the lanes.
    places: Vec<Mutex<Place>>,
    /// Of questions about the server itself: they do not wait behind records.
    own_place: Mutex<Place>,
    /// Connections of an earlier generation are not used again.
    generation: AtomicU64,
}

#[derive(Default)]
struct Place {
    link: Option<Arc<Link>>,
    generation: u64,
    /// When connecting last ended in vain: whoever waited for that does not try again by himself.
    failed: Option<(Instant, TargetFault)>,
}

impl Server {
    pub(super) fn new(address: Address, dialer: Arc<Dialer>, pool_size: usize) -> Self {
        let places = (0..pool_size.max(1)).map(|_| Mutex::default()).collect();
        Self { address, dialer, places, own_place: Mutex::default(), generation: AtomicU64::new(0) }
    }

    /// Sends these commands, which have so many replies, behind whatever else this lane has sent.
    pub(super) async fn ask(&self, lane: u64, bytes: Vec<u8>, replies: usize) -> Answers {
        answers(self.link(lane).await, bytes, replies).await
    }

    /// About the server itself, not about records: whoever asks is not kept waiting by a server that hangs.
    pub(super) async fn inquire(&self, bytes: Vec<u8>, replies: usize) -> Answers {
        let limit = self.dialer.connect_timeout;
        let late = |_| {
            let message = format!("{} does not answer within {} ms", self.address, limit.as_millis());
            Answers { replies: Vec::new(), lost: Some(down(message)) }
        };
        let asked = async { answers(self.link_of(&self.own_place).await, bytes, replies).await };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(late)
    }

    /// The connection of this lane, which is made when there is none.
    pub(super) async fn link(&self, lane: u64) -> Result<Arc<Link>, TargetFault> {
        let at = usize::try_from(lane).unwrap_or_default() % self.places.len();
        let Some(place) = self.places.get(at) else { return Err(down("there is no connection")) };
        self.link_of(place).await
    }

    async fn link_of(&self, place: &Mutex<Place>) -> Result<Arc<Link>, TargetFault> {
        let asked = Instant::now();
        let mut place = place.lock().await;
        let generation = self.generation.load(Ordering::Acquire);
        let fit = |link: &&Arc<Link>| link.is_open() && place.generation == generation;
        if let Some(link) = place.link.as_ref().filter(fit) {
            return Ok(Arc::clone(link));
        }
        place.link = None;
        if let Some((_, fault)) = place.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(fault.clone());
        }
        match self.dialer.connect(&self.address).await {
            Ok(link) => {
                let link = Arc::new(link);
                *place = Place { link: Some(Arc::clone(&link)), generation, failed: None };
                Ok(link)
            }
            Err(fault) => {
                place.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// It is not what it was: connections are made anew, and its name is looked up anew.
    pub(super) fn distrust(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

async fn answers(link: Result<Arc<Link>, TargetFault>, bytes: Vec<u8>, replies: usize) -> Answers {
    match link {
        Ok(link) => link.ask(bytes, replies).await,
        Err(fault) => Answers { replies: Vec::new(), lost: Some(fault) },
    }
}
