//! What families of sinks share: where they may connect to, TLS towards targets, HTTP.

pub(crate) mod cause;
pub(crate) mod dial;
pub(crate) mod http;
pub mod network;
pub(crate) mod retry_after;
pub(crate) mod tls;
