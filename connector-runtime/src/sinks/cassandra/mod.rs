//! Inserts rows into a Cassandra table.

pub mod config;
#[cfg(feature = "cassandra")]
mod connect;
#[cfg(feature = "cassandra")]
mod cql;
#[cfg(feature = "cassandra")]
mod fault;
#[cfg(feature = "cassandra")]
mod layout;
#[cfg(feature = "cassandra")]
mod plan;
#[cfg(feature = "cassandra")]
mod relay;
#[cfg(feature = "cassandra")]
pub(crate) mod sink;
#[cfg(feature = "cassandra")]
mod value;
#[cfg(feature = "cassandra")]
mod verdict;
