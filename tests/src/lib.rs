//! The harness: real `sluice` processes, publishers that remember what was acknowledged, and targets that somebody
//! else wrote.
//!
//! ```text
//!   Publisher (rumqttc, mosquitto_pub) ──MQTT──▶ Cluster of Node (child processes) ──▶ file      ─▶ records
//!   ApiClient, curl, sluice (command line) ─HTTP─▶        │                         ──▶ Nginx     ─▶ records
//!                                                           │                         ──▶ Postgres, MariaDb ─▶ rows
//!                                                           │                         ──▶ Redis     ─▶ lists
//!                                                           │                         ──▶ MongoDb, FerretDb ─▶ documents
//!                                                           │                         ──▶ Rabbitmq  ─▶ messages
//!                                                           │                         ──▶ Kafka     ─▶ messages
//!                                                           │                         ──▶ ClickHouse ─▶ rows
//!                                                           │                         ──▶ Cassandra ─▶ rows
//!   curl ───────(line protocol by nginx or not)───────────▶│                         ──▶ InfluxDb  ─▶ points
//!                                                           │                         ──▶ OpenTsdb, VictoriaMetrics ─▶ points
//!                                                           │                         ──▶ Elasticsearch ─▶ documents
//!                                                           │                         ──▶ S3, Minio ─▶ objects
//!   Prometheus ────────────────────────────/metrics──────▶│                         ──▶ mosquitto_sub
//! ```
//!
//! Rules: free loopback ports, data in a scratch folder, ready by condition (never by sleeping), every child ended
//! by its own pid, and the logs stay when a test fails.

pub mod api;
pub mod binary;
pub mod cache;
pub mod cassandra;
pub mod certificates;
pub mod clickhouse;
pub mod cluster;
pub mod elasticsearch;
pub mod ferretdb;
pub mod flood;
pub mod front;
pub mod influxdb;
pub mod jars;
pub mod kafka;
pub mod kept;
pub mod mariadb;
pub mod minio;
pub mod mongodb;
pub mod mosquitto;
pub mod mqtt_session;
pub mod nats;
pub mod nginx;
pub mod node;
pub mod opentsdb;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod publisher;
pub mod pulsar;
pub mod rabbitmq;
pub mod reader;
pub mod records;
pub mod redis;
pub mod s3;
pub mod scratch;
pub mod small_disk;
pub mod toxiproxy;
pub mod victoria;
pub mod wait;
