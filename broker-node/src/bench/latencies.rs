//! Durations by the million, in bounded memory: buckets that grow with the value, each at most 1/32 wide.

use std::time::Duration;

use serde_json::{Value, json};

/// Buckets per power of two.
const STEPS: u64 = 32;
/// Powers of two above the first; a microsecond times 2^40 is two weeks.
const POWERS: u64 = 40;

#[derive(Clone)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    largest_us: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; ((POWERS + 1) * STEPS) as usize], count: 0, largest_us: 0 }
    }
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(us)) {
            *bucket += 1;
        }
        self.count += 1;
        self.largest_us = self.largest_us.max(us);
    }

    pub fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.largest_us = self.largest_us.max(other.largest_us);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Microseconds that this share of the durations does not exceed.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return upper_edge_us(bucket).min(self.largest_us);
            }
        }
        self.largest_us
    }

    /// In milliseconds.
    pub fn summary(&self) -> Value {
        let ms = |us: u64| us as f64 / 1e3;
        json!({
            "p50": ms(self.quantile_us(0.5)),
            "p99": ms(self.quantile_us(0.99)),
            "max": ms(self.largest_us),
        })
    }
}

/// Values below `STEPS` have a bucket each; above, the five bits behind the first choose within their power of two.
fn bucket_of(us: u64) -> usize {
    let power = u64::from(us.max(STEPS).ilog2() - STEPS.ilog2());
    let step = us >> power;
    let bucket = power * STEPS + step;
    (bucket.min((POWERS + 1) * STEPS - 1)) as usize
}

fn upper_edge_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let power = bucket / STEPS - 1;
    let step = bucket % STEPS + STEPS;
    ((step + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_is_close_to_it() {
        for us in (0..5_000).chain([65_535, 65_536, 1_000_000, 987_654_321]) {
            let edge = upper_edge_us(bucket_of(us));
            assert!(edge >= us && edge <= us + us / STEPS, "{us} is counted as {edge}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|ms| latencies.add(Duration::from_millis(ms)));
        for (share, expected_ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = latencies.quantile_us(share) as f64 / 1e3;
            assert!(found >= expected_ms && found <= expected_ms * 1.04, "{share}: {found} ms");
        }
        let mut twice = latencies.clone();
        twice.merge(&latencies);
        assert_eq!((twice.count(), twice.quantile_us(0.5)), (2000, latencies.quantile_us(0.5)));
    }
}
