//! What families of sinks share: where they may connect to, connections that are kept open, TLS towards targets, tables,
//! HTTP.

pub(crate) mod cause;
pub(crate) mod dial;
pub(crate) mod http;
pub mod network;
#[cfg(any(feature = "mqtt", feature = "mysql", feature = "postgres", feature = "redis"))]
pub(crate) mod outgoing;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) mod pool;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) mod relational;
pub(crate) mod retry_after;
pub(crate) mod tls;
