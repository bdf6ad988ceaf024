//! Sends records to an HTTP endpoint.

#[cfg(feature = "webhook")]
mod body;
pub mod config;
#[cfg(feature = "webhook")]
mod signature;
#[cfg(feature = "webhook")]
pub(crate) mod sink;
