//! One target of each kind that a test can fill at once, with the connector into it, a way to read it back, and a way to
//! take it away for a while.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::cluster::{Cluster, webhook_connector};
use tests::mosquitto::{Broker, BrokerOptions};
use tests::nginx::Nginx;
use tests::postgres::{self, Postgres, postgres_connector};
use tests::reader::Reader;
use tests::records::{self, Arrived};

pub enum Store {
    /// The folder of its own that the file lies in.
    File(PathBuf),
    Webhook(Nginx),
    Postgres(Box<Postgres>),
    Mqtt(Broker, Reader),
}

pub struct Target {
    pub connector: Value,
    pub store: Store,
}

impl Target {
    /// All of them, for one filter.
    pub async fn all(cluster: &Cluster, prefix: &str, topic: &str) -> Result<Vec<Self>> {
        let (mut connector, _) = cluster.file_connector(&format!("{prefix}_file"), topic);
        let folder = cluster.files().join(format!("{prefix}_files"));
        connector["config"] = json!({ "local_file_path": folder.join("out.log") }).to_string().into();
        let file = Self { connector, store: Store::File(folder) };
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
        Ok(Self { connector, store: Store::Postgres(Box::new(server)) })
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

    /// One more connector into the same target.
    pub fn another(&self, name: &str) -> Value {
        let mut connector = self.connector.clone();
        connector["connector_name"] = name.into();
        if let Store::File(folder) = &self.store {
            // A file has one writer.
            connector["config"] = json!({ "local_file_path": folder.join(format!("{name}.log")) }).to_string().into();
        }
        connector
    }

    /// Nobody reaches it any more.
    pub async fn take_away(&mut self) -> Result<()> {
        match &mut self.store {
            Store::File(folder) => {
                // The path leads to no folder.
                std::fs::rename(&*folder, folder.with_extension("aside"))?;
                std::fs::write(folder, "in the way")?;
                Ok(())
            }
            Store::Webhook(nginx) => nginx.kill(),
            Store::Postgres(server) => server.kill(),
            Store::Mqtt(broker, _) => broker.terminate().await,
        }
    }

    pub async fn bring_back(&mut self) -> Result<()> {
        match &mut self.store {
            Store::File(folder) => {
                std::fs::remove_file(&*folder)?;
                std::fs::rename(folder.with_extension("aside"), folder)?;
                Ok(())
            }
            Store::Webhook(nginx) => nginx.restart().await,
            Store::Postgres(server) => server.start_again().await,
            Store::Mqtt(broker, _) => broker.start_again().await,
        }
    }

    pub async fn arrived(&self) -> Result<Arrived> {
        match &self.store {
            Store::File(folder) => of_folder(folder),
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

/// What lies in all files of a folder, which may not be there yet.
fn of_folder(folder: &Path) -> Result<Arrived> {
    let mut all = Arrived::default();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    for entry in entries {
        records::of_file(&entry?.path())?.envelopes.into_iter().try_for_each(|envelope| all.add(envelope))?;
    }
    Ok(all)
}
