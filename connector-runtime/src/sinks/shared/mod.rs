//! What families of sinks share: TLS towards targets, HTTP, and the networks that no sink may reach.

pub(crate) mod http;
pub mod network;
pub(crate) mod retry_after;
pub(crate) mod tls;
