//! Runs one Redis command for each record.

pub mod config;
