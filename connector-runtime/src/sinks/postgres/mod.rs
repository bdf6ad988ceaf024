//! Inserts rows into a PostgreSQL table.

pub mod config;
