//! Inserts rows into a MySQL table.

pub mod config;
