//! Indexes documents in Elasticsearch.

pub mod config;
