//! The server's administration, by curl.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Pulsar, USER};
use crate::process;

const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Where topics without a namespace of their own are.
const NAMESPACE: &str = "public/default";

/// As it lies in a topic: what the broker takes or refuses as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `NONE`, `LZ4`, …
    pub compression: String,
    /// `None`: one message that is no batch.
    pub batched: Option<u64>,
    pub producer: String,
    pub sequence_id: u64,
    pub key: Option<String>,
    /// On disk, with its metadata.
    pub uncompressed_bytes: u64,
}

impl Pulsar {
    /// Topics are called `name`, or `tenant/namespace/name`.
    pub async fn create_topic(&self, topic: &str) -> Result<()> {
        self.admin("PUT", &path(topic, ""), None).await
    }

    pub async fn create_partitioned(&self, topic: &str, partitions: u32) -> Result<()> {
        self.admin("PUT", &path(topic, "/partitions"), Some(json!(partitions))).await
    }

    pub async fn grow_partitions(&self, topic: &str, partitions: u32) -> Result<()> {
        self.admin("POST", &path(topic, "/partitions"), Some(json!(partitions))).await
    }

    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        self.admin("DELETE", &path(topic, "?force=true"), None).await
    }

    pub async fn delete_partitioned(&self, topic: &str) -> Result<()> {
        self.admin("DELETE", &path(topic, "/partitions?force=true"), None).await
    }

    /// Its broker gives it up; whoever wants it next opens it again.
    pub async fn unload(&self, topic: &str) -> Result<()> {
        self.admin("PUT", &path(topic, "/unload"), None).await
    }

    /// Takes nothing more, for ever.
    pub async fn terminate(&self, topic: &str) -> Result<()> {
        self.admin("POST", &path(topic, "/terminate"), None).await
    }

    /// The broker refuses entries of this topic that are larger.
    pub async fn limit_entries(&self, topic: &str, bytes: usize) -> Result<()> {
        self.admin("POST", &path(topic, "/maxMessageSize"), Some(json!(bytes))).await
    }

    pub async fn unlimit_entries(&self, topic: &str) -> Result<()> {
        self.admin("DELETE", &path(topic, "/maxMessageSize"), None).await
    }

    /// Who publishes to it, how much it has, …
    pub async fn stats(&self, topic: &str) -> Result<Value> {
        self.admin_json("GET", &path(topic, "/stats")).await
    }

    /// Names of a namespace's topics without it, and without those of the server; a partition is one.
    pub async fn topics(&self, namespace: &str) -> Result<Vec<String>> {
        let topics = self.admin_json("GET", &format!("persistent/{namespace}")).await?;
        let topics = topics.as_array().context("no list of topics")?;
        let names = topics.iter().filter_map(|topic| topic.as_str()?.rsplit('/').next());
        Ok(names.filter(|name| !name.starts_with("__")).map(str::to_owned).collect())
    }

    /// One whose broker drops what comes twice.
    pub async fn create_deduplicating(&self, namespace: &str) -> Result<()> {
        self.admin("PUT", &format!("namespaces/{namespace}"), None).await?;
        self.admin("POST", &format!("namespaces/{namespace}/deduplication"), Some(json!(true))).await?;
        if self.accounts.is_some() {
            self.allow(namespace, USER, true).await?;
        }
        Ok(())
    }

    /// What messages of a topic have to look like.
    pub async fn add_schema(&self, topic: &str, schema: Value) -> Result<()> {
        self.admin("POST", &format!("schemas/{topic}/schema"), Some(schema)).await
    }

    /// From now on messages of a topic stay until this subscription has them.
    pub async fn subscribe(&self, topic: &str, name: &str) -> Result<()> {
        self.admin("PUT", &path(topic, &format!("/subscription/{name}")), None).await
    }

    /// A property of a namespace.
    pub async fn set(&self, path: &str, value: Value) -> Result<()> {
        self.admin("POST", &format!("namespaces/{path}"), Some(value)).await
    }

    pub async fn unset(&self, path: &str) -> Result<()> {
        self.admin("DELETE", &format!("namespaces/{path}"), None).await
    }

    /// Whether this account may publish to the topics of a namespace.
    pub async fn allow(&self, namespace: &str, account: &str, may_publish: bool) -> Result<()> {
        let path = format!("namespaces/{namespace}/permissions/{account}");
        if may_publish {
            self.admin("POST", &path, Some(json!(["produce"]))).await
        } else {
            self.admin("DELETE", &path, None).await
        }
    }

    /// All of a topic that is not partitioned, or of one partition, in their order.
    pub async fn entries(&self, topic: &str) -> Result<Vec<Entry>> {
        let stats = self.admin_json("GET", &path(topic, "/internalStats")).await?;
        let (current, of_current) = match stats["lastConfirmedEntry"].as_str().and_then(|last| last.split_once(':')) {
            Some((ledger, entry)) => (ledger.parse::<u64>()?, entry.parse::<i64>()? + 1),
            None => bail!("no last entry in {stats}"),
        };
        let mut entries = Vec::new();
        for ledger in stats["ledgers"].as_array().context("no ledgers")? {
            let id = ledger["ledgerId"].as_u64().context("a ledger without an id")?;
            let count = if id == current { of_current } else { ledger["entries"].as_i64().unwrap_or(0) };
            for at in 0..count {
                entries.push(self.entry(topic, id, at).await?);
            }
        }
        Ok(entries)
    }

    async fn entry(&self, topic: &str, ledger: u64, at: i64) -> Result<Entry> {
        let mut curl = self.curl("GET", &path(topic, &format!("/ledger/{ledger}/entry/{at}")));
        curl.args(["-D", "-", "-o", "/dev/null"]);
        let head = process::run(&mut curl, CALL_LIMIT).await?.success()?.stdout;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let required = |name: &str| header(name).with_context(|| format!("no {name} in {head}"));
        Ok(Entry {
            compression: header("X-Pulsar-compression").unwrap_or_else(|| "NONE".to_owned()),
            batched: header("X-Pulsar-num-batch-message").map(|count| count.parse()).transpose()?,
            producer: required("X-Pulsar-producer-name")?,
            sequence_id: required("X-Pulsar-sequence-id")?.parse()?,
            key: header("X-Pulsar-partition-key"),
            uncompressed_bytes: header("X-Pulsar-uncompressed-size").map_or(Ok(0), |bytes| bytes.parse())?,
        })
    }

    async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Result<()> {
        self.admin_text(method, path, body).await.map(drop)
    }

    async fn admin_json(&self, method: &str, path: &str) -> Result<Value> {
        let text = self.admin_text(method, path, None).await?;
        serde_json::from_str(&text).with_context(|| text)
    }

    pub(super) async fn admin_text(&self, method: &str, path: &str, body: Option<Value>) -> Result<String> {
        let mut curl = self.curl(method, path);
        curl.args(["-w", "\n%{http_code}"]);
        if let Some(body) = body {
            curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        }
        let answer = process::run(&mut curl, CALL_LIMIT).await?.success()?.stdout;
        let (text, status) = answer.rsplit_once('\n').context("no status")?;
        if !status.starts_with('2') {
            bail!("{method} {path}: {status} {text}");
        }
        Ok(text.to_owned())
    }

    fn curl(&self, method: &str, path: &str) -> tokio::process::Command {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-g", "-L", "-X", method]);
        if let Some(accounts) = &self.accounts {
            curl.arg("-H").arg(format!("Authorization: Bearer {}", accounts.admin()));
        }
        curl.arg(format!("http://127.0.0.1:{}/admin/v2/{path}", self.ports.admin));
        curl
    }
}

fn path(topic: &str, rest: &str) -> String {
    let slashes = topic.matches('/').count();
    let full = if slashes == 2 { topic.to_owned() } else { format!("{NAMESPACE}/{topic}") };
    format!("persistent/{full}{rest}")
}
