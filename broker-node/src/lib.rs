//! One node of Sluice: MQTT listener, connector queues, agent, HTTP API, metrics and command line around the
//! metadata service and the connector runtime.

pub mod api;
pub mod cli;
pub mod config;
pub mod health;
pub mod metrics;
pub mod telemetry;
