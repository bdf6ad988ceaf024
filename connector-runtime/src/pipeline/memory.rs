//! The bytes that all tasks of a node may hold at once (`connectors.memory_bytes_max`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units of this size, so that any budget fits the semaphore's 32-bit requests.
const UNIT_BYTES: u64 = 1024;

/// What a queue without any batch may take beyond a budget that stays used up. Tasks whose target is down keep what
/// they hold for as long as it is down; they must not stop the others.
pub(crate) const SMALL_BATCH_BYTES: u64 = 64 << 10;
/// How long a queue waits for the budget before it looks again at what it holds. A fetch that lingers longer than this
/// keeps no more than [`SMALL_BATCH_BYTES`] meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// Bytes taken from the budget until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    permit: Option<OwnedSemaphorePermit>,
}

impl MemoryBudget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let units_max = u32::try_from((bytes_max / UNIT_BYTES).max(1)).unwrap_or(u32::MAX >> 3);
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max }
    }

    /// Waits until `bytes` are free. More than the whole budget is cut down to it: one batch can always go on.
    pub(crate) async fn reserve(&self, bytes: u64) -> Reserved {
        // The semaphore is never closed.
        Reserved { permit: Arc::clone(&self.units).acquire_many_owned(self.units_of(bytes)).await.ok() }
    }

    /// Like `reserve`, but gives up after a while: a queue without any batch may then take [`SMALL_BATCH_BYTES`]
    /// beyond the budget.
    pub(crate) async fn reserve_soon(&self, bytes: u64) -> Option<Reserved> {
        tokio::time::timeout(PATIENCE, self.reserve(bytes)).await.ok()
    }

    /// Takes what `held` lacks of `bytes`; `false` when that was not to be had for a while.
    pub(crate) async fn grow_soon(&self, held: &mut Reserved, bytes: u64) -> bool {
        let held_units = held.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let lacking = self.units_of(bytes).saturating_sub(u32::try_from(held_units).unwrap_or(u32::MAX));
        if lacking == 0 {
            return true;
        }
        let more = Arc::clone(&self.units).acquire_many_owned(lacking);
        let Ok(Ok(more)) = tokio::time::timeout(PATIENCE, more).await else { return false };
        match &mut held.permit {
            Some(permit) => permit.merge(more),
            None => held.permit = Some(more),
        }
        true
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.units_max)
    }

    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }
}

impl Reserved {
    /// Nothing of the budget.
    pub(crate) fn nothing() -> Self {
        Self { permit: None }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.permit.is_none()
    }

    /// Gives back what the batch does not need.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let Some(permit) = &mut self.permit else { return };
        let needed = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        drop(permit.split(permit.num_permits().saturating_sub(needed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_needed_is_given_back() {
        let budget = MemoryBudget::new(10 * 1024);
        let mut first = budget.reserve(8 * 1024).await;
        assert_eq!(budget.free_bytes(), 2 * 1024);
        first.shrink_to(1500);
        assert_eq!(budget.free_bytes(), 8 * 1024);
        drop(first);
        assert_eq!(budget.free_bytes(), 10 * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lacking_is_taken_when_it_is_free() {
        let budget = MemoryBudget::new(10 * 1024);
        let mut first = budget.reserve(2 * 1024).await;
        assert!(budget.grow_soon(&mut first, 8 * 1024).await);
        assert_eq!(budget.free_bytes(), 2 * 1024);
        assert!(budget.grow_soon(&mut first, 5 * 1024).await, "it has that already");
        let mut second = budget.reserve(1024).await;
        assert!(!budget.grow_soon(&mut second, 3 * 1024).await);
        assert_eq!(budget.free_bytes(), 1024);
        drop(second);
        assert!(budget.grow_soon(&mut first, u64::MAX).await, "never more than the whole budget");
        drop(first);
        assert_eq!(budget.free_bytes(), 10 * 1024);
    }

    #[tokio::test]
    async fn a_batch_above_the_budget_still_goes_alone() {
        let budget = MemoryBudget::new(10 * 1024);
        let all = budget.reserve(u64::MAX).await;
        assert_eq!(budget.free_bytes(), 0);
        let mut second = std::pin::pin!(budget.reserve(1));
        assert!(futures::poll!(&mut second).is_pending());
        drop(all);
        assert!(futures::poll!(&mut second).is_ready());
    }
}
