//! nginx that reads requests and answers 200, beside a bare HTTP client.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use tests::front::{Front, FrontOptions};
use tests::scratch::Scratch;

use super::Target;
use crate::bare::{http, records};

/// As by default.
const RECORDS_PER_REQUEST: u64 = 100;

pub struct Webhook {
    /// Reads bodies to their end before it asks the one behind it.
    front: Front,
    back: Front,
    /// A file for each place that is there.
    places: Scratch,
}

impl Webhook {
    fn file(&self, place: &str) -> PathBuf {
        self.places.path().join(place)
    }

    fn url(&self, place: &str) -> String {
        format!("{}/{place}", self.front.url())
    }
}

impl Target for Webhook {
    const KIND: &'static str = "webhook";
    const WRITES: &'static str = "arrays of 100 envelopes";
    const TOOLS: &'static [&'static str] = &["a bare HTTP client in a loop"];
    const NOTE: &'static str = "The default `batch_records`; one connection and one request at a time for both. The \
        client has its bodies made before. The receiver is nginx, which reads each request to its end and answers 200.";
    const RECORDS: u64 = 200_000;

    async fn start() -> Result<Self> {
        let mut places = Scratch::new("places")?;
        places.passed();
        let options = |lines: String| FrontOptions { lines, ..FrontOptions::default() };
        let back = Front::start(options("client_max_body_size 64m; location / { return 200; }".to_owned())).await?;
        let lines = format!(
            "client_max_body_size 64m; client_body_buffer_size 64m;\n    \
             location / {{ if (!-e {}$uri) {{ return 404; }} proxy_pass {}; }}",
            places.path().display(),
            back.url()
        );
        Ok(Self { front: Front::start(options(lines)).await?, back, places })
    }

    fn config(&self, place: &str) -> Value {
        json!({ "url": self.url(place) })
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        Ok(std::fs::write(self.file(place), "")?)
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        let uri = format!("/{place}");
        let taken = self.front.passed()?.into_iter().filter(|request| request.uri == uri && request.status == 200);
        // The log has requests, not records: as many as full batches would be, and more where a batch was not full.
        let requests = taken.count() as u64;
        Ok(Some(requests * RECORDS_PER_REQUEST).filter(|records| *records < Self::RECORDS))
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let array = |records: &mut dyn Iterator<Item = records::Record>| {
            let envelopes: Vec<String> = records.map(|record| record.envelope()).collect();
            format!("[{}]", envelopes.join(","))
        };
        http::send(http::Requests {
            url: &self.url(place),
            content_type: "application/json",
            login: None,
            bodies: records::bodies(Self::RECORDS, RECORDS_PER_REQUEST, array),
            connections: 1,
        })
        .await
    }

    fn finish(self) {
        self.front.finish();
        self.back.finish();
    }
}
