//! What several want at a time, and one of them gets for all.

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::sink::TargetFault;

/// Held while somebody gets it. Whoever waited meanwhile shares what came of it, a failure too: so nobody waits for the
/// attempts of all who stand before him.
pub(super) struct Joint<T>(Mutex<Known<T>>);

struct Known<T> {
    value: Option<T>,
    failed: Option<(Instant, TargetFault)>,
}

impl<T> Default for Joint<T> {
    fn default() -> Self {
        Self(Mutex::new(Known { value: None, failed: None }))
    }
}

impl<T: Clone> Joint<T> {
    /// What is known, where it is good; else what `fetch` brings, which is told what was known.
    pub(super) async fn get<F>(
        &self,
        is_good: impl Fn(&T) -> bool,
        fetch: impl FnOnce(Option<T>) -> F,
    ) -> Result<T, TargetFault>
    where
        F: Future<Output = Result<T, TargetFault>>,
    {
        let asked = Instant::now();
        let mut known = self.0.lock().await;
        if let Some(value) = known.value.as_ref().filter(|value| is_good(value)) {
            return Ok(value.clone());
        }
        if let Some((_, fault)) = known.failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(fault.clone());
        }
        match fetch(known.value.clone()).await {
            Ok(value) => {
                *known = Known { value: Some(value.clone()), failed: None };
                Ok(value)
            }
            Err(fault) => {
                known.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// What is known, where nobody gets it just now.
    pub(super) fn peek(&self) -> Option<T> {
        self.0.try_lock().ok()?.value.clone()
    }

    pub(super) async fn forget(&self) {
        self.0.lock().await.value = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::join_all;

    use super::super::fault::down;
    use super::*;

    const TAKES: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_everybodys_who_waited_for_it_and_nobody_elses() {
        let (joint, calls) = (Joint::<u8>::default(), AtomicUsize::new(0));
        let fails = async || {
            calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(TAKES).await;
            Err(down("nobody"))
        };
        let started = Instant::now();
        let all = join_all((0..20).map(|_| joint.get(|_| true, |_| fails()))).await;
        assert!(all.iter().all(|one| one.as_ref().is_err_and(|fault| *fault.message == *"nobody")), "{all:?}");
        assert_eq!((calls.load(Ordering::Relaxed), started.elapsed()), (1, TAKES));
        tokio::time::advance(Duration::from_millis(1)).await;
        let later = joint.get(|_| true, async |_| Ok(7)).await;
        assert_eq!((later, joint.peek()), (Ok(7), Some(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_it_to_the_next() {
        let joint = Joint::<u8>::default();
        let slow = joint.get(|_| true, async |_| std::future::pending().await);
        assert!(tokio::time::timeout(TAKES, slow).await.is_err());
        assert_eq!(joint.get(|_| true, async |_| Ok(1)).await, Ok(1));
        // What is not good any more is told to whoever gets it anew.
        let anew = joint.get(|known| *known > 1, async |known| Ok(known.unwrap_or_default() + 1)).await;
        assert_eq!(anew, Ok(2));
        joint.forget().await;
        assert_eq!(joint.peek(), None);
    }
}
