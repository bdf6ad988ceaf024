//! One target of each kind that a test can fill at once, with the connector into it and a way to read it back.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use tests::cluster::{Cluster, webhook_connector};
use tests::mosquitto::{Broker, BrokerOptions};
use tests::nginx::Nginx;
use tests::postgres::{self, Postgres, postgres_connector};
use tests::reader::Reader;
use tests::records::{self, Arrived};

pub enum Store {
    File(PathBuf),
    Webhook(Nginx),
    Postgres(Postgres),
    Mqtt(Broker, Reader),
}

pub struct Target {
    pub connector: Value,
    pub store: Store,
}

impl Target {
    /// All of them, for one filter.
    pub async fn all(cluster: &Cluster, prefix: &str, topic: &str) -> Result<Vec<Self>> {
        let (connector, path) = cluster.file_connector(&format!("{prefix}_file"), topic);
        let file = Self { connector, store: Store::File(path) };
        let nginx = Nginx::start().await?;
        let connector = webhook_connector(&format!("{prefix}_webhook"), topic, &nginx.url());
        let webhook = Self { connector, store: Store::Webhook(nginx) };
        Ok(vec![file, webhook, Self::postgres(prefix, topic).await?, Self::mqtt(prefix, topic).await?])
    }

    /// A record that comes twice stands in the table once.
    async fn postgres(prefix: &str, topic: &str) -> Result<Self> {
        let server = Postgres::start().await?;
        server.sql_of_role(postgres::TABLE).await?;
        server.sql_of_role(postgres::ID_COLUMN).await?;
        let config = server.config(&json!({ "enable_batch_insert": true, "batch_size": 1000, "id_column": "id" }));
        let connector = postgres_connector(&format!("{prefix}_postgres"), topic, &config);
        Ok(Self { connector, store: Store::Postgres(server) })
    }

    /// Envelopes, so that each record says who it is.
    async fn mqtt(prefix: &str, topic: &str) -> Result<Self> {
        let broker = Broker::with(BrokerOptions { persistence: true, ..BrokerOptions::default() }).await?;
        let reader = Reader::start("reader", broker.port(), None, "#").await?;
        let config = json!({
            "server": format!("mqtt://127.0.0.1:{}", broker.port()), "payload_format": "envelope",
        });
        let connector = json!({
            "connector_name": format!("{prefix}_mqtt"), "connector_type": "mqtt", "config": config.to_string(),
            "topic_name": topic,
        });
        Ok(Self { connector, store: Store::Mqtt(broker, reader) })
    }

    pub fn name(&self) -> &str {
        self.connector["connector_name"].as_str().unwrap_or_default()
    }

    pub async fn arrived(&self) -> Result<Arrived> {
        match &self.store {
            Store::File(path) => records::of_file(path),
            Store::Webhook(nginx) => nginx.arrived(),
            Store::Postgres(server) => {
                let mut arrived = Arrived::default();
                for row in server.rows("SELECT id, payload::json AS payload FROM mqtt_messages").await? {
                    arrived.add(row)?;
                }
                Ok(arrived)
            }
            Store::Mqtt(_, reader) => Ok(reader.arrived()),
        }
    }

    /// The target itself knows a record that comes again.
    pub fn keeps_each_once(&self) -> bool {
        match &self.store {
            Store::Postgres(_) => true,
            Store::File(_) | Store::Webhook(_) | Store::Mqtt(..) => false,
        }
    }

    pub fn finish(self) {
        match self.store {
            Store::File(_) => {}
            Store::Webhook(nginx) => nginx.finish(),
            Store::Postgres(server) => server.finish(),
            Store::Mqtt(broker, _) => broker.finish(),
        }
    }
}
