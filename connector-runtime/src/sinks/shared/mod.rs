//! What families of sinks share: where they may connect to, connections that are kept open, TLS towards targets, HTTP.

pub(crate) mod cause;
pub(crate) mod dial;
pub(crate) mod http;
#[cfg(any(feature = "greptime", feature = "influxdb"))]
pub(crate) mod line_protocol;
pub mod network;
#[cfg(any(feature = "mqtt", feature = "postgres"))]
pub(crate) mod outgoing;
#[cfg(feature = "postgres")]
pub(crate) mod pool;
pub(crate) mod retry_after;
pub(crate) mod tls;
