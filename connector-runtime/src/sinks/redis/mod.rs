//! Runs one Redis command for each record.

#[cfg(feature = "redis")]
mod address;
#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "redis")]
mod command;
pub mod config;
#[cfg(feature = "redis")]
mod connect;
#[cfg(feature = "redis")]
mod fault;
mod forbidden;
#[cfg(feature = "redis")]
mod lines;
#[cfg(feature = "redis")]
mod link;
#[cfg(feature = "redis")]
mod run;
#[cfg(feature = "redis")]
mod sentinel;
#[cfg(feature = "redis")]
mod server;
#[cfg(feature = "redis")]
pub(crate) mod sink;
#[cfg(feature = "redis")]
mod slots;
#[cfg(feature = "redis")]
mod target;
