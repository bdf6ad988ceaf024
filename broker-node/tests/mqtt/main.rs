//! The MQTT listener from outside: real clients, raw bytes, and queues that can be slow, full or broken.

mod clients;
mod cluster;
mod ingest;
mod memory;
mod protocol;
mod raw;
mod server;
mod subscribers;
mod wills;
