//! Inserts rows into a ClickHouse table.

pub mod config;
