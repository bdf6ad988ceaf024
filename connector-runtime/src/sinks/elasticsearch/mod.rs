//! Indexes documents in Elasticsearch.

#[cfg(feature = "elasticsearch")]
mod answer;
pub mod config;
#[cfg(feature = "elasticsearch")]
mod document;
#[cfg(feature = "elasticsearch")]
mod name;
#[cfg(feature = "elasticsearch")]
pub(crate) mod sink;
