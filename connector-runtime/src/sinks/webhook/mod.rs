//! Sends records to an HTTP endpoint.

pub mod config;
