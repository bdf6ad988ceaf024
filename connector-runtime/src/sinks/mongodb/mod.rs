//! Inserts documents into a MongoDB collection.

pub mod config;
#[cfg(feature = "mongodb")]
mod connect;
#[cfg(feature = "mongodb")]
mod document;
#[cfg(feature = "mongodb")]
mod fault;
#[cfg(feature = "mongodb")]
mod insert;
#[cfg(feature = "mongodb")]
mod relay;
#[cfg(feature = "mongodb")]
mod servers;
#[cfg(feature = "mongodb")]
pub(crate) mod sink;
#[cfg(feature = "mongodb")]
mod socks;
