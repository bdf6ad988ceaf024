//! Time as the metadata service sees it; passed in, so that a simulation can replace it.

use std::time::Duration;

pub trait Clock: Send + Sync {
    /// Time since boot, counting suspend. Never goes back.
    fn boottime(&self) -> Duration;

    /// Wall clock in milliseconds since the Unix epoch. Only for showing.
    fn wall_ms(&self) -> u64;
}
