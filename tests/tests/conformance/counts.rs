//! How much is published, and for how long something is broken: small for `make test`, full for `make conformance`.

use std::time::Duration;

use anyhow::{Result, bail};

const CHOICE: &str = "SLUICE_CONFORMANCE";

#[derive(Clone, Debug)]
pub struct Counts {
    pub name: &'static str,
    /// Of all shapes together.
    pub round_trip: usize,
    /// Of each shape.
    pub per_shape: usize,
    /// Records with one poisoned among them, and with half of them poisoned.
    pub poison: usize,
    pub half_poison: usize,
    pub breakage: usize,
    /// While the server, or a node, is killed.
    pub killed: u64,
    pub per_second: u64,
    pub pause: Duration,
    pub fault: Duration,
    pub removal: u64,
    /// Waiting for a target that stands still.
    pub waiting: u64,
    pub waiting_bytes: usize,
    /// What the node may grow by beside `connectors.memory_bytes_max`.
    pub memory_bytes: u64,
    /// For whatever a case waits for.
    pub limit: Duration,
}

impl Counts {
    /// By the environment.
    pub fn chosen() -> Result<Self> {
        match std::env::var(CHOICE).as_deref() {
            Err(_) | Ok("quick") => Ok(Self::quick()),
            Ok("full") => Ok(Self::full()),
            Ok(other) => bail!("{CHOICE} is {other}; it may be quick or full"),
        }
    }

    fn quick() -> Self {
        Self {
            name: "quick",
            round_trip: 1_000,
            per_shape: 2,
            poison: 1_000,
            half_poison: 100,
            breakage: 50,
            killed: 3_000,
            // Slow enough that a busy machine still finds something under way when it breaks something.
            per_second: 1_000,
            pause: Duration::from_secs(2),
            fault: Duration::from_secs(1),
            removal: 2_000,
            waiting: 12_000,
            waiting_bytes: 10_000,
            // Two kinds at a time, just started: the store of the queues and the allocator have not settled.
            memory_bytes: 96 << 20,
            limit: Duration::from_secs(60),
        }
    }

    fn full() -> Self {
        Self {
            name: "full",
            round_trip: 10_000,
            per_shape: 20,
            poison: 1_000,
            half_poison: 1_000,
            breakage: 500,
            killed: 20_000,
            per_second: 2_000,
            pause: Duration::from_secs(15),
            fault: Duration::from_secs(10),
            removal: 10_000,
            waiting: 100_000,
            waiting_bytes: 4_000,
            memory_bytes: 64 << 20,
            limit: Duration::from_secs(300),
        }
    }
}
