//! Writes objects to AWS S3 or a store that speaks its protocol.

pub mod config;
