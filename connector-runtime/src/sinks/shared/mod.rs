//! What families of sinks share: where they may connect to, connections that are kept open, TLS towards targets, HTTP.

pub(crate) mod cause;
pub(crate) mod dial;
#[cfg(any(feature = "mqtt", feature = "rabbitmq"))]
pub(crate) mod driven;
pub(crate) mod http;
pub mod network;
#[cfg(any(feature = "mqtt", feature = "rabbitmq"))]
pub(crate) mod outbox;
#[cfg(any(feature = "mqtt", feature = "postgres", feature = "rabbitmq"))]
pub(crate) mod outgoing;
#[cfg(feature = "postgres")]
pub(crate) mod pool;
pub(crate) mod retry_after;
#[cfg(any(feature = "mqtt", feature = "rabbitmq"))]
pub(crate) mod runs;
#[cfg(any(feature = "mqtt", feature = "rabbitmq"))]
pub(crate) mod stream;
pub(crate) mod tls;
