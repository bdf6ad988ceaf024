//! Inserts documents into a MongoDB collection.

pub mod config;
