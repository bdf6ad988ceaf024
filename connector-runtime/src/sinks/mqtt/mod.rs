//! Publishes to another MQTT broker.

#[cfg(feature = "mqtt")]
mod answers;
pub mod config;
#[cfg(feature = "mqtt")]
mod connect;
#[cfg(feature = "mqtt")]
mod driver;
#[cfg(feature = "mqtt")]
mod message;
#[cfg(feature = "mqtt")]
pub(crate) mod sink;
#[cfg(feature = "mqtt")]
mod suspects;
#[cfg(feature = "mqtt")]
mod window;
#[cfg(feature = "mqtt")]
mod wire;
