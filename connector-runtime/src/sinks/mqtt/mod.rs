//! Publishes to another MQTT broker.

pub mod config;
