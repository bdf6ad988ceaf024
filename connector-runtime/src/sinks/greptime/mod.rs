//! Writes points to GreptimeDB.

pub mod config;
