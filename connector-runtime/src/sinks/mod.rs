//! The kinds of connectors, each a folder of the same shape: `config.rs` is always compiled, so that every node accepts
//! every kind; `sink.rs` only with the kind's Cargo feature.
//!
//! Adding a sink is a folder, a line in `KINDS`, a feature, and an adapter in `tests/tests/conformance/kinds`.

pub mod cassandra;
pub mod clickhouse;
pub mod elasticsearch;
pub mod file;
pub mod greptime;
pub mod influxdb;
pub mod kafka;
pub mod mongodb;
pub mod mqtt;
pub mod mysql;
pub(crate) mod offered;
#[cfg(test)]
pub(crate) mod opened;
pub mod opentsdb;
pub mod postgres;
pub mod pulsar;
pub mod rabbitmq;
pub mod redis;
pub mod s3;
pub mod shared;
pub mod webhook;

use crate::config::Schema;
use crate::registry::{KindEntry, OrderClass};

#[rustfmt::skip]
pub(crate) const KINDS: &[KindEntry] = &[
    entry("kafka",         "Apache Kafka",   "Message queue",        OrderClass::Lanes, &kafka::config::SCHEMA)
        .offered(cfg!(feature = "kafka")),
    entry("pulsar",        "Apache Pulsar",  "Message queue",        OrderClass::Queue, &pulsar::config::SCHEMA)
        .offered(cfg!(feature = "pulsar")),
    entry("rabbitmq",      "RabbitMQ",       "Message queue",        OrderClass::Lanes, &rabbitmq::config::SCHEMA)
        .offered(cfg!(feature = "rabbitmq")),
    entry("mqtt",          "MQTT Bridge",    "Message queue",        OrderClass::Lanes, &mqtt::config::SCHEMA)
        .offered(cfg!(feature = "mqtt")),
    entry("redis",         "Redis",          "Cache / database",     OrderClass::Lanes, &redis::config::SCHEMA)
        .offered(cfg!(feature = "redis")),
    entry("mysql",         "MySQL",          "Relational database",  OrderClass::Queue, &mysql::config::SCHEMA)
        .with_ddl(mysql::config::DDL)
        .offered(cfg!(feature = "mysql")),
    entry("postgres",      "PostgreSQL",     "Relational database",  OrderClass::Queue, &postgres::config::SCHEMA)
        .with_ddl(postgres::config::DDL)
        .offered(cfg!(feature = "postgres")),
    entry("mongodb",       "MongoDB",        "NoSQL database",       OrderClass::None,  &mongodb::config::SCHEMA)
        .offered(cfg!(feature = "mongodb")),
    entry("clickhouse",    "ClickHouse",     "Analytical database",  OrderClass::None,  &clickhouse::config::SCHEMA)
        .with_ddl(clickhouse::config::DDL)
        .offered(cfg!(feature = "clickhouse")),
    entry("cassandra",     "Cassandra",      "Distributed database", OrderClass::None,  &cassandra::config::SCHEMA)
        .with_ddl(cassandra::config::DDL)
        .offered(cfg!(feature = "cassandra")),
    entry("elasticsearch", "Elasticsearch",  "Search engine",        OrderClass::None,  &elasticsearch::config::SCHEMA)
        .offered(cfg!(feature = "elasticsearch")),
    entry("greptime",      "GreptimeDB",     "Time-series database", OrderClass::Queue, &greptime::config::SCHEMA)
        .offered(cfg!(feature = "greptime")),
    entry("influxdb",      "InfluxDB",       "Time-series database", OrderClass::Queue, &influxdb::config::SCHEMA)
        .offered(cfg!(feature = "influxdb")),
    entry("opentsdb",      "OpenTSDB",       "Time-series database", OrderClass::Queue, &opentsdb::config::SCHEMA)
        .offered(cfg!(feature = "opentsdb")),
    entry("webhook",       "Webhook (HTTP)", "HTTP push",            OrderClass::Queue, &webhook::config::SCHEMA)
        .offered(cfg!(feature = "webhook")),
    entry("s3",            "AWS S3",         "Object storage",       OrderClass::None,  &s3::config::SCHEMA)
        .offered(cfg!(feature = "s3")),
    entry("file",          "Local file",     "File storage",         OrderClass::Queue, &file::config::SCHEMA)
        .offered(cfg!(feature = "file")),
];

/// The kinds whose sink was compiled in: what a node may announce.
pub fn offered_kinds() -> Vec<&'static str> {
    KINDS.iter().filter(|entry| entry.offered).map(|entry| entry.name).collect()
}

const fn entry(
    name: &'static str,
    title: &'static str,
    category: &'static str,
    order: OrderClass,
    schema: &'static Schema,
) -> KindEntry {
    KindEntry { name, title, category, order, schema, ddl: None, offered: false }
}

impl KindEntry {
    const fn with_ddl(mut self, ddl: &'static str) -> Self {
        self.ddl = Some(ddl);
        self
    }

    const fn offered(mut self, compiled_in: bool) -> Self {
        self.offered = compiled_in;
        self
    }
}
