//! Writes records into a table of PostgreSQL.

pub mod config;
#[cfg(feature = "postgres")]
mod connect;
#[cfg(feature = "postgres")]
mod fault;
#[cfg(feature = "postgres")]
mod plan;
#[cfg(feature = "postgres")]
pub(crate) mod sink;
#[cfg(feature = "postgres")]
mod statement;
#[cfg(feature = "postgres")]
mod value;
#[cfg(feature = "postgres")]
mod write;
