//! The bytes of publishes that all connections together may hold.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    _permit: OwnedSemaphorePermit,
}

/// Two halves, so that large packets on slow links cannot keep the small ones of everybody else waiting: a batch is
/// held for as long as the disk takes, a packet for as long as its sender takes.
#[derive(Clone, Debug)]
pub struct Budget {
    batches: Half,
    packets: Half,
}

#[derive(Clone, Debug)]
struct Half {
    bytes: usize,
    left: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What one read brought, until it is on disk.
    Batch,
    /// One packet larger than a read, from its header on until it is on disk.
    Packet,
}

impl Budget {
    /// Each half holds at least `largest`, or a packet of that size could never be taken.
    pub fn new(bytes_max: usize, largest: usize) -> Self {
        let half = || {
            let bytes = (bytes_max / 2).max(largest).min(Semaphore::MAX_PERMITS);
            Half { bytes, left: Arc::new(Semaphore::new(bytes)) }
        };
        Self { batches: half(), packets: half() }
    }

    /// A share, if it is there.
    pub fn take(&self, purpose: Purpose, bytes: usize) -> Option<Share> {
        let half = self.half(purpose);
        half.left.clone().try_acquire_many_owned(half.permits(bytes)).ok().map(|_permit| Share { _permit })
    }

    /// A share, once it is there; first come, first served.
    pub fn wait(&self, purpose: Purpose, bytes: usize) -> BoxFuture<'static, Option<Share>> {
        let half = self.half(purpose);
        let acquire = half.left.clone().acquire_many_owned(half.permits(bytes));
        acquire.map(|permit| permit.ok().map(|_permit| Share { _permit })).boxed()
    }

    fn half(&self, purpose: Purpose) -> &Half {
        match purpose {
            Purpose::Batch => &self.batches,
            Purpose::Packet => &self.packets,
        }
    }
}

impl Half {
    /// One permit per byte; never more than there are.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_packet_that_waits_does_not_keep_a_batch_waiting() {
        let budget = Budget::new(200, 10);
        let first = budget.take(Purpose::Packet, 60).expect("room");
        let mut second = budget.wait(Purpose::Packet, 60);
        assert!((&mut second).now_or_never().is_none());
        assert!(budget.take(Purpose::Batch, 100).is_some());
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn what_is_larger_than_the_budget_takes_all_of_it() {
        let budget = Budget::new(0, 10);
        let all = budget.take(Purpose::Batch, 1000).expect("room");
        assert!(budget.take(Purpose::Batch, 1).is_none());
        drop(all);
        assert!(budget.take(Purpose::Batch, 1).is_some());
    }
}
