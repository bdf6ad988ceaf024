//! Inserts rows into a Cassandra table.

pub mod config;
