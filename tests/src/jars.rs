//! Servers that run on Java: their jars lie where `scripts/setup` has put them, each server's in a folder of its own.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::cache;

/// Broker and tools.
pub const KAFKA: &str = "kafka-4.3.1";
/// The worker of Kafka Connect and its connector for files.
pub const KAFKA_CONNECT: &str = "kafka-connect-4.3.1";
/// RabbitMQ's own client.
pub const AMQP_CLIENT: &str = "amqp-client-5.37.1";

/// The folder of one server's jars, complete.
pub fn folder(name: &str) -> Result<PathBuf> {
    let folder = cache::folder()?.join("servers").join(name);
    ensure!(
        folder.join("complete").is_file(),
        "{name} is not in {}: `scripts/setup` fetches it with Maven (mvn)",
        folder.display()
    );
    Ok(folder)
}

pub fn class_path(folder: &Path) -> String {
    format!("{}/*", folder.display())
}
