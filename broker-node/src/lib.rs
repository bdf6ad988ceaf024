//! One node of Sluice: MQTT listener, connector queues, agent, HTTP API, metrics and command line around the
//! metadata service and the connector runtime.

pub mod agent;
pub mod api;
pub mod bench;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod demo;
mod error_chain;
pub mod health;
pub mod metrics;
pub mod mqtt;
pub mod node;
pub mod queue;
pub mod telemetry;
