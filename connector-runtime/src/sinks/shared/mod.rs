//! What families of sinks share: where they may connect to, connections that are kept open, TLS towards targets, tables,
//! HTTP.

pub(crate) mod cause;
pub(crate) mod dial;
#[cfg(any(feature = "mqtt", feature = "rabbitmq"))]
pub(crate) mod driven;
#[cfg(any(feature = "cassandra", feature = "elasticsearch", feature = "mysql", feature = "postgres"))]
pub(crate) mod global_id;
#[cfg(any(feature = "elasticsearch", feature = "greptime", feature = "influxdb"))]
pub(crate) mod gzip;
pub(crate) mod http;
#[cfg(any(feature = "s3", feature = "webhook"))]
pub(crate) mod json;
#[cfg(any(feature = "greptime", feature = "influxdb"))]
pub(crate) mod line_protocol;
pub mod network;
#[cfg(any(feature = "mqtt", feature = "pulsar", feature = "rabbitmq"))]
pub(crate) mod outbox;
#[cfg(any(
    feature = "cassandra",
    feature = "mongodb",
    feature = "mqtt",
    feature = "mysql",
    feature = "postgres",
    feature = "pulsar",
    feature = "rabbitmq",
    feature = "redis"
))]
pub(crate) mod outgoing;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) mod pool;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) mod relational;
#[cfg(any(feature = "cassandra", feature = "mongodb"))]
pub(crate) mod relay;
pub(crate) mod retry_after;
#[cfg(any(feature = "mqtt", feature = "rabbitmq"))]
pub(crate) mod runs;
#[cfg(any(
    feature = "cassandra",
    feature = "mongodb",
    feature = "mqtt",
    feature = "mysql",
    feature = "postgres",
    feature = "pulsar",
    feature = "rabbitmq",
    feature = "redis"
))]
pub(crate) mod stream;
pub(crate) mod tls;
