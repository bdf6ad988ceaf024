//! Sends batches to an HTTP endpoint.
//!
//! ```text
//! batch ──items──► body ──► one request (array, ndjson)  ──► status ──► outcomes
//!                       └─► one request per record (single), in order, up to the first that fails
//! ```

use std::time::Duration;

use api_types::Record;
use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method as HttpMethod, StatusCode};
use tokio_util::sync::CancellationToken;

use super::body::BodyFormat;
use super::config::{AuthType, Config, Method, Mode};
use super::signature::Signer;
use crate::config::Resolved;
use crate::pipeline::stats::now_ms;
use crate::sink::{Batch, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::http::{self, HttpTarget, WORDS_BYTES_MAX};

pub(crate) const OFFERED: Offered =
    Offered { kind: "webhook", open: |resolved, context| Box::pin(open(resolved, context)) };

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Whose epoch it is: two connectors that write to one receiver have epochs of their own.
const SLUICE_CONNECTOR: HeaderName = HeaderName::from_static("sluice-connector");
/// Grows with every hand-over of the connector: a receiver that remembers its highest one knows a latecomer.
const SLUICE_EPOCH: HeaderName = HeaderName::from_static("sluice-epoch");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

struct WebhookSink {
    target: HttpTarget,
    method: HttpMethod,
    mode: Mode,
    timeout: Duration,
    format: BodyFormat,
    signer: Signer,
    /// The user's headers name the content type.
    names_content_type: bool,
    aborted: CancellationToken,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let headers = headers(&config, context)?;
    let names_content_type = headers.contains_key(CONTENT_TYPE);
    let format = BodyFormat::new(&config).map_err(|error| unusable(&error))?;
    let keys = [&config.hmac_secret, &config.hmac_secret_previous];
    let signer = Signer::new(keys.into_iter().flatten()).map_err(|error| unusable(&error))?;
    let method = match config.method {
        Method::Post => HttpMethod::POST,
        Method::Put => HttpMethod::PUT,
    };
    let (mode, timeout) = (config.mode, Duration::from_millis(config.timeout_ms));
    let deny_networks = context.deny_networks.clone();
    let target = http::open(config.url, timeout, config.tls, deny_networks, headers).await?;
    let aborted = CancellationToken::new();
    Ok(Box::new(WebhookSink { target, method, mode, timeout, format, signer, names_content_type, aborted }))
}

/// The headers that every request has.
fn headers(config: &Config, context: &SinkContext) -> Result<HeaderMap, TargetFault> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| unusable(&error))?;
        headers.insert(name, http::secret(value.reveal()).map_err(|error| unusable(&error))?);
    }
    let authorization = match config.auth_type {
        AuthType::None => None,
        AuthType::Basic => {
            let password = config.password.as_ref().map_or("", |password| password.reveal());
            Some(http::basic(config.username.as_deref().unwrap_or_default(), password))
        }
        AuthType::Bearer => {
            config.bearer_token.as_ref().map(|token| http::secret(&format!("Bearer {}", token.reveal())))
        }
    };
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.map_err(|error| unusable(&error))?);
    }
    let connector = format!("{}/{}", context.cluster, context.incarnation);
    headers.insert(SLUICE_CONNECTOR, HeaderValue::from_str(&connector).map_err(|error| unusable(&error))?);
    headers.insert(SLUICE_EPOCH, HeaderValue::from(context.epoch.0));
    Ok(headers)
}

#[async_trait]
impl Sink for WebhookSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.records.len());
        let mut items = Vec::with_capacity(batch.records.len());
        for record in batch.records {
            match self.format.item(record) {
                Ok(item) => {
                    outcomes.push(None);
                    items.push((*record, item));
                }
                Err(fault) => outcomes.push(Some(Outcome::RecordFault(fault))),
            }
        }
        let mut answers = match self.mode {
            Mode::Array | Mode::Ndjson => self.send_together(batch, items).await,
            Mode::Single => self.send_each(items).await,
        }
        .into_iter();
        let unanswered = || Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, "no answer"));
        outcomes.into_iter().map(|outcome| outcome.or_else(|| answers.next()).unwrap_or_else(unanswered)).collect()
    }

    fn abort(&self) {
        self.aborted.cancel();
    }

    async fn close(&self) {
        // Idle connections close with the client.
    }
}

impl WebhookSink {
    async fn send_together(&self, batch: &Batch<'_>, items: Vec<(&Record, Vec<u8>)>) -> Vec<Outcome> {
        let Some((first, _)) = items.first() else { return Vec::new() };
        let content_type = self.format.content_type(first);
        let bodies: Vec<Vec<u8>> = items.iter().map(|(_, item)| item.clone()).collect();
        let outcome = self.send(&batch.id.to_string(), content_type, self.format.join(&bodies)).await;
        vec![outcome; items.len()]
    }

    /// In order; what stands behind a failed record is not sent, so that it cannot overtake it.
    async fn send_each(&self, items: Vec<(&Record, Vec<u8>)>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut held = None;
        for (record, item) in items {
            if let Some(outcome) = &held {
                outcomes.push(Outcome::clone(outcome));
                continue;
            }
            let id = record.id.to_string();
            let outcome = match self.send(&id, self.format.content_type(record), item).await {
                // The request was this record alone.
                Outcome::Unclear(fault) => {
                    held = Some(Outcome::Unclear(RecordFault::refused("held", "held back by the record before")));
                    Outcome::RecordFault(fault)
                }
                Outcome::TargetFault(fault) => {
                    held = Some(Outcome::TargetFault(fault.clone()));
                    Outcome::TargetFault(fault)
                }
                outcome @ (Outcome::Delivered | Outcome::RecordFault(_)) => outcome,
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn send(&self, id: &str, content_type: &str, body: Vec<u8>) -> Outcome {
        let timestamp_s = now_ms() / 1000;
        let signature = self.signer.sign(id, timestamp_s, &body);
        let mut request =
            self.target.client.request(self.method.clone(), self.target.url.clone()).header(IDEMPOTENCY_KEY, id);
        if !self.names_content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(signature) = signature {
            request = request
                .header(WEBHOOK_ID, id)
                .header(WEBHOOK_TIMESTAMP, timestamp_s)
                .header(WEBHOOK_SIGNATURE, signature);
        }
        match http::exchange(request.body(body), self.timeout, WORDS_BYTES_MAX, &self.aborted).await {
            Ok(answer) => outcome(answer.status, &answer.headers, &answer.words()),
            Err(unanswered) => Outcome::TargetFault(unanswered.fault),
        }
    }
}

fn outcome(status: StatusCode, headers: &HeaderMap, words: &str) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Delivered,
        400 | 413 | 422 => Outcome::Unclear(RecordFault::refused(
            format!("http_{}", status.as_u16()),
            http::status_message(status, words),
        )),
        _ => Outcome::TargetFault(http::status_fault(status, headers, words)),
    }
}

#[cfg(test)]
mod tests;
