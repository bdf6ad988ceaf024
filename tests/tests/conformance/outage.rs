//! What one fault cost a connector that waits: a row of docs/outages.md.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tests::api::ApiClient;
use tokio::task::JoinHandle;
use tokio::time::interval;

/// Counters are told once a second; more often is no finer.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Outage {
    pub fault: String,
    pub records: u64,
    /// Confirmed by the target and not there afterwards.
    pub lost: u64,
    pub repeated: u64,
    /// The longest time in which nothing was delivered, from the first delivery to the last.
    pub gap: Duration,
}

/// Looks at a connector's counters until it is asked for the longest gap.
pub struct Gaps {
    looking: JoinHandle<()>,
    longest: Arc<Mutex<Duration>>,
}

impl Gaps {
    /// Asks a node that lives.
    pub fn of(api: &ApiClient, connector: &str) -> Self {
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let looking = tokio::spawn(look(api.clone(), connector.to_owned(), Arc::clone(&longest)));
        Self { looking, longest }
    }

    pub fn longest(self) -> Duration {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(api: ApiClient, connector: String, longest: Arc<Mutex<Duration>>) {
    let mut looks = interval(LOOK_EVERY);
    let mut seen = 0;
    let mut last = None;
    loop {
        looks.tick().await;
        let Ok(detail) = api.detail(&connector).await else { continue };
        let Some(sent) = detail["lifetime"]["sent"].as_u64() else { continue };
        // Less than before: a node is gone, and with it what it had counted.
        if sent > seen {
            let now = Instant::now();
            let gap = last.map_or(Duration::ZERO, |last| now - last);
            let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
            *longest = gap.max(*longest);
            last = Some(now);
        }
        seen = sent;
    }
}
