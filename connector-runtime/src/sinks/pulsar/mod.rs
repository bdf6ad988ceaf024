//! Writes to a topic of Apache Pulsar.

pub mod config;
