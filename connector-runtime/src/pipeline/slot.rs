//! The one sink of a task: opened on demand, replaced after a fault that asks for it, aborted from outside.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::sink::{OpenSink, Sink, TargetFault};

pub(crate) struct SinkSlot {
    opener: Arc<dyn OpenSink>,
    /// Held across `open`, so that the queues of a task never open two sinks at once.
    opening: tokio::sync::Mutex<Option<Failure>>,
    /// Never locked across an await: `abort` must get through while `open` hangs.
    current: Mutex<Option<Arc<dyn Sink>>>,
}

struct Failure {
    at: Instant,
    fault: TargetFault,
}

impl SinkSlot {
    pub(crate) fn new(opener: Arc<dyn OpenSink>) -> Self {
        Self { opener, opening: tokio::sync::Mutex::new(None), current: Mutex::new(None) }
    }

    /// The open sink, or a new one. Whoever waited while somebody else failed to open shares that failure.
    pub(crate) async fn get(&self) -> Result<Arc<dyn Sink>, TargetFault> {
        if let Some(sink) = self.current() {
            return Ok(sink);
        }
        let asked = Instant::now();
        let mut last_failure = self.opening.lock().await;
        if let Some(sink) = self.current() {
            return Ok(sink);
        }
        if let Some(failure) = last_failure.as_ref().filter(|failure| failure.at > asked) {
            return Err(failure.fault.clone());
        }
        match self.opener.open().await {
            Ok(sink) => {
                *last_failure = None;
                let sink: Arc<dyn Sink> = Arc::from(sink);
                *self.lock() = Some(Arc::clone(&sink));
                Ok(sink)
            }
            Err(fault) => {
                *last_failure = Some(Failure { at: Instant::now(), fault: fault.clone() });
                Err(fault)
            }
        }
    }

    /// The next `get` opens a new sink, unless `used` was replaced already.
    pub(crate) async fn replace(&self, used: &Arc<dyn Sink>) {
        let taken = {
            let mut current = self.lock();
            current.take_if(|sink| Arc::ptr_eq(sink, used))
        };
        if let Some(sink) = taken {
            sink.close().await;
        }
    }

    /// Without I/O and without waiting; from any thread.
    pub(crate) fn abort(&self) {
        if let Some(sink) = self.lock().take() {
            sink.abort();
        }
    }

    pub(crate) async fn close(&self) {
        let taken = self.lock().take();
        if let Some(sink) = taken {
            sink.close().await;
        }
    }

    fn current(&self) -> Option<Arc<dyn Sink>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Sink>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
