//! Writes points to InfluxDB.

pub mod config;
