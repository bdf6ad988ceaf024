//! Inserts rows into a ClickHouse table over its HTTP interface.
//!
//! ```text
//!             table ◄─ columns, settings ── server      read once, then every minute and after a refusal
//!               │
//! batch ──row──►│──body──► gzip ──► one INSERT, token of the sealed batch ──answer──► outcomes
//! ```
//!
//! What `table`, `row`, `body`, `answer`, `code`, `changes` and `hints` do is pure; `schema` and `sink` ask the server by `server`.

#[cfg(feature = "clickhouse")]
mod answer;
#[cfg(feature = "clickhouse")]
mod body;
#[cfg(feature = "clickhouse")]
mod changes;
#[cfg(feature = "clickhouse")]
mod code;
pub mod config;
#[cfg(feature = "clickhouse")]
mod hints;
#[cfg(feature = "clickhouse")]
mod row;
#[cfg(feature = "clickhouse")]
mod schema;
#[cfg(feature = "clickhouse")]
mod server;
#[cfg(feature = "clickhouse")]
pub(crate) mod sink;
#[cfg(feature = "clickhouse")]
mod table;
