//! Sends records to an HTTP endpoint.

pub mod config;
#[cfg(feature = "webhook")]
mod body;
#[cfg(feature = "webhook")]
mod signature;
#[cfg(feature = "webhook")]
pub(crate) mod sink;
