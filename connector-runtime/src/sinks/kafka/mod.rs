//! Writes to a topic of Apache Kafka.

#[cfg(feature = "kafka")]
mod addresses;
#[cfg(feature = "kafka")]
mod call;
pub mod config;
#[cfg(feature = "kafka")]
mod fault;
#[cfg(feature = "kafka")]
mod message;
#[cfg(feature = "kafka")]
mod producer;
#[cfg(feature = "kafka")]
mod settings;
#[cfg(feature = "kafka")]
pub(crate) mod sink;
#[cfg(feature = "kafka")]
mod target;
