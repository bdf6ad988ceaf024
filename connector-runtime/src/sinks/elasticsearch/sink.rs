//! `_bulk` of Elasticsearch.
//!
//! ```text
//! batch ──lines──► one request, gzip ──► one answer for each document ──► outcomes
//!                     ▲                              │
//!                     └── those without room, alone ◄┘  up to `max_retries`; all of them after a lost connection
//! ```

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, InvalidHeaderValue};
use tokio_util::sync::CancellationToken;

use super::answer::{self, ANSWER_BYTES_MAX};
use super::config::{AuthType, Config};
use super::document::DocumentFormat;
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::gzip::compressed;
use crate::sinks::shared::http::{self, HttpTarget};

pub(crate) const OFFERED: Offered =
    Offered { kind: "elasticsearch", open: |resolved, context| Box::pin(open(resolved, context)) };

/// How long a server without room is left alone at first, and at most; each time twice as long as before. The pauses of
/// all retries together stay below half a minute, and what is longer is the pipeline's to wait for.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

struct ElasticsearchSink {
    target: HttpTarget,
    timeout: Duration,
    /// Requests after the first one, within one `deliver`.
    retries: u64,
    format: DocumentFormat,
    aborted: CancellationToken,
}

/// A record on its way.
struct Document {
    /// In the batch.
    place: usize,
    lines: Vec<u8>,
}

struct Asked {
    /// One for each document.
    outcomes: Vec<Outcome>,
    /// The connection could not be made or broke off.
    lost: bool,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let format = DocumentFormat::new(&config, context.cluster).map_err(|error| unusable(&error))?;
    let timeout = Duration::from_secs(config.timeout_secs);
    let url = endpoint(&config, &format, timeout)?;
    let headers = headers(&config)?;
    let target = http::open(url, timeout, config.tls, context.deny_networks.clone(), headers).await?;
    let aborted = CancellationToken::new();
    Ok(Box::new(ElasticsearchSink { target, timeout, retries: config.max_retries, format, aborted }))
}

fn endpoint(config: &Config, format: &DocumentFormat, timeout: Duration) -> Result<String, TargetFault> {
    let server = http::server(http::without_login(&config.url)?, config.enable_tls);
    // The server is to give up before we do, so that it says what it has and what not.
    let server_timeout = format!("{}ms", timeout.as_millis() * 9 / 10);
    let query = [("filter_path", answer::FILTER), ("timeout", &server_timeout)];
    match format.index_of_all() {
        Some(index) => http::endpoint(&server, &[&index, "_bulk"], &query),
        None => http::endpoint(&server, &["_bulk"], &query),
    }
}

fn headers(config: &Config) -> Result<HeaderMap, TargetFault> {
    let mut headers = HeaderMap::new();
    if let Some(authorization) = authorization(config).transpose().map_err(|error| unusable(&error))? {
        headers.insert(AUTHORIZATION, authorization);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(headers)
}

fn authorization(config: &Config) -> Option<Result<HeaderValue, InvalidHeaderValue>> {
    match config.auth_type {
        AuthType::None => None,
        AuthType::Basic => {
            let password = config.password.as_ref().map_or("", |password| password.reveal());
            Some(http::basic(config.username.as_deref().unwrap_or_default(), password))
        }
        AuthType::Apikey => config.api_key.as_ref().map(|key| http::secret(&format!("ApiKey {}", key.reveal().trim()))),
    }
}

#[async_trait]
impl Sink for ElasticsearchSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut documents = Vec::with_capacity(batch.records.len());
        // What is still `Delivered` below was part of the request.
        let mut outcomes = Vec::with_capacity(batch.records.len());
        for (place, record) in batch.records.iter().enumerate() {
            outcomes.push(match self.format.lines(record) {
                Ok(lines) => {
                    documents.push(Document { place, lines });
                    Outcome::Delivered
                }
                Err(fault) => Outcome::RecordFault(fault),
            });
        }
        let mut pause = PAUSE_FIRST;
        for retries_left in (0..=self.retries).rev() {
            if documents.is_empty() {
                break;
            }
            let asked = self.ask(&documents).await;
            let mut again = Vec::new();
            for (document, outcome) in documents.into_iter().zip(asked.outcomes) {
                let place = document.place;
                if asked.lost || has_no_room(&outcome) {
                    again.push(document);
                }
                outcomes[place] = outcome;
            }
            documents = again;
            if retries_left > 0 && !documents.is_empty() && !asked.lost {
                self.pause(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        outcomes
    }

    fn abort(&self) {
        self.aborted.cancel();
    }

    async fn close(&self) {
        // Idle connections close with the client.
    }
}

impl ElasticsearchSink {
    /// To create a document again that is there changes nothing.
    async fn ask(&self, documents: &[Document]) -> Asked {
        let body: Vec<&[u8]> = documents.iter().map(|document| document.lines.as_slice()).collect();
        let all = |fault| vec![Outcome::TargetFault(fault); documents.len()];
        let body = match compressed(body.concat()).await {
            Ok(body) => body,
            Err(fault) => return Asked { outcomes: all(fault), lost: false },
        };
        let request = self.target.client.post(self.target.url.clone()).body(body);
        match http::exchange(request, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await {
            Ok(answer) => Asked { outcomes: answer::outcomes(&answer, documents.len()), lost: false },
            Err(unanswered) => Asked { outcomes: all(unanswered.fault), lost: unanswered.lost },
        }
    }

    /// An aborted sink does not wait: its next request ends at once.
    async fn pause(&self, longest: Duration) {
        let drawn = longest.mul_f64(rand::random_range(0.5..=1.0));
        tokio::select! {
            () = tokio::time::sleep(drawn) => {}
            () = self.aborted.cancelled() => {}
        }
    }
}

/// And did not say when it will have some.
fn has_no_room(outcome: &Outcome) -> bool {
    let throttled = TargetFaultKind::Throttled { retry_after: None };
    matches!(outcome, Outcome::TargetFault(fault) if fault.kind == throttled)
}

#[cfg(test)]
mod tests;
