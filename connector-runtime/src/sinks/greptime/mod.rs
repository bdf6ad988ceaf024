//! Writes points to GreptimeDB.

pub mod config;
#[cfg(feature = "greptime")]
pub(crate) mod sink;
