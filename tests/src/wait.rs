//! Waiting for conditions. A probe answers `Ok` when the condition holds and `Err` with what is still missing; the
//! last such answer stands in the failure.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Often enough that measured times are right to a fiftieth of a second, rare enough for two cores.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// A test on a slow, shared machine gets ten times the time that is promised; what it really took is printed.
const SLACK: u32 = 10;

/// Probes until the condition holds, for at most `limit`.
pub async fn until<T, F>(limit: Duration, what: &str, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let began = Instant::now();
    let mut ticks = interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = anyhow!("never asked");
    while began.elapsed() < limit {
        ticks.tick().await;
        match timeout(limit.saturating_sub(began.elapsed()), probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => missing = reason,
            Err(_) => break,
        }
    }
    Err(missing.context(format!("{what}: not within {limit:?}")))
}

/// As [`until`] with ten times the `promised` time as the limit; prints and returns how long it took.
pub async fn measured<T, F>(promised: Duration, what: &str, probe: F) -> Result<(T, Duration)>
where
    F: AsyncFnMut() -> Result<T>,
{
    let began = Instant::now();
    let value = until(promised * SLACK, what, probe).await?;
    let took = began.elapsed();
    report(what, took, promised);
    Ok((value, took))
}

/// Checks one duration that was measured by other means against ten times the promise.
pub fn within(promised: Duration, what: &str, took: Duration) -> Result<()> {
    report(what, took, promised);
    anyhow::ensure!(took <= promised * SLACK, "{what}: took {took:?}, limit {:?}", promised * SLACK);
    Ok(())
}

fn report(what: &str, took: Duration, promised: Duration) {
    println!("measured: {what}: {:.3} s (promised {promised:?})", took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_never_holds_names_what_is_missing() {
        let error = until(Duration::from_millis(60), "the moon", || async { Err::<(), _>(anyhow!("still cheese")) })
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the moon: not within") && text.contains("still cheese"), "{text}");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_cut_at_the_limit() {
        let began = Instant::now();
        let hang = until(Duration::from_millis(80), "nothing", std::future::pending::<Result<()>>);
        assert!(hang.await.is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn the_value_comes_as_soon_as_the_condition_holds() {
        let mut asked = 0;
        let value = until(Duration::from_secs(30), "third time", || {
            asked += 1;
            let now = asked;
            async move { if now == 3 { Ok(now) } else { Err(anyhow!("{now}")) } }
        });
        assert_eq!(value.await.unwrap(), 3);
    }
}
