//! The two targets: a file, read back, and a small HTTP receiver inside the demo's own process.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::DemoError;

/// A batch of the webhook connector is far smaller.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a target received.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// Publisher's name of the message → times.
    pub messages: BTreeMap<String, u64>,
    /// Sluice's record id → times.
    pub records: BTreeMap<String, u64>,
}

impl Received {
    fn add(&mut self, envelope: &Value) {
        if let (Some(id), Some(message)) = (envelope["id"].as_str(), envelope["payload"]["message"].as_str()) {
            *self.records.entry(id.to_owned()).or_default() += 1;
            *self.messages.entry(message.to_owned()).or_default() += 1;
        }
    }

    /// Deliveries of a record beyond its first.
    pub fn duplicates(&self) -> u64 {
        self.records.values().map(|times| times - 1).sum()
    }
}

/// The file that the file connector appends to.
pub(super) struct FileTarget {
    path: PathBuf,
}

impl FileTarget {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Reads every complete line; the last one may be under way.
    pub fn received(&self) -> Result<Received, DemoError> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(DemoError::io("read the target file")(error)),
        };
        let complete = text.rfind('\n').map_or(0, |at| at + 1);
        let mut received = Received::default();
        for line in text[..complete].lines() {
            let envelope = serde_json::from_str(line)
                .map_err(|error| DemoError::io("read the target file")(std::io::Error::other(error)))?;
            received.add(&envelope);
        }
        Ok(received)
    }
}

/// The HTTP receiver.
pub(super) struct WebhookTarget {
    url: String,
    received: Arc<Mutex<Received>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl WebhookTarget {
    pub async fn start() -> Result<Self, DemoError> {
        let listener =
            tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(DemoError::io("open the HTTP receiver"))?;
        let address = listener.local_addr().map_err(DemoError::io("open the HTTP receiver"))?;
        let received = Arc::<Mutex<Received>>::default();
        let routes = Router::new()
            .route("/", post(receive))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::clone(&received));
        let server = tokio::spawn(axum::serve(listener, routes).into_future());
        Ok(Self { url: format!("http://{address}/"), received, server })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn received(&self) -> Received {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for WebhookTarget {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(received): State<Arc<Mutex<Received>>>, Json(body): Json<Value>) -> StatusCode {
    let Some(envelopes) = body.as_array() else { return StatusCode::BAD_REQUEST };
    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
    envelopes.iter().for_each(|envelope| received.add(envelope));
    StatusCode::OK
}
