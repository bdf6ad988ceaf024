//! Writes to a topic of Apache Pulsar.

#[cfg(feature = "pulsar")]
mod auth;
#[cfg(feature = "pulsar")]
mod cluster;
pub mod config;
#[cfg(feature = "pulsar")]
mod connect;
#[cfg(feature = "pulsar")]
mod connection;
#[cfg(feature = "pulsar")]
mod entry;
#[cfg(feature = "pulsar")]
mod fault;
#[cfg(feature = "pulsar")]
mod joint;
#[cfg(feature = "pulsar")]
mod message;
#[cfg(feature = "pulsar")]
mod oauth;
#[cfg(feature = "pulsar")]
mod partition;
#[cfg(feature = "pulsar")]
mod producer;
#[cfg(feature = "pulsar")]
mod proto;
#[cfg(feature = "pulsar")]
mod protobuf;
#[cfg(feature = "pulsar")]
mod seat;
#[cfg(feature = "pulsar")]
pub(crate) mod sink;
#[cfg(feature = "pulsar")]
mod wire;
