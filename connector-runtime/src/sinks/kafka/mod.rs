//! Writes to a topic of Apache Kafka.

pub mod config;
