//! Writes data points to OpenTSDB.

pub mod config;
