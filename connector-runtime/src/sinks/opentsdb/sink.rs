//! `/api/put` of OpenTSDB.
//!
//! ```text
//! batch ──points──► requests of bounded size, some side by side ──► answers ──► one outcome per record
//!                              └─ none is sent after one that failed
//! ```

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Verdict};
use super::config::Config;
use super::point::PointFormat;
use super::request::{Request, requests};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::http::{self, HttpTarget};

pub(crate) const OFFERED: Offered =
    Offered { kind: "opentsdb", open: |resolved, context| Box::pin(open(resolved, context)) };

/// Requests of one batch that are under way side by side. With `sync` each waits for HBase's client, which gathers what
/// it has for a second before it writes.
const REQUESTS_AT_ONCE: usize = 16;
/// With `details` the server gives every refused point back.
const ANSWER_BYTES_MAX: usize = 8 << 20;

struct OpentsdbSink {
    target: HttpTarget,
    timeout: Duration,
    /// Requests after a lost connection, within one `deliver`.
    retries: u64,
    request_bytes_max: usize,
    format: PointFormat,
    aborted: CancellationToken,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let timeout = Duration::from_secs(config.timeout_secs);
    let url = endpoint(&config, timeout)?;
    let format = PointFormat::new(&config);
    let deny_networks = context.deny_networks.clone();
    let target = http::open(url, timeout, config.tls, deny_networks, HeaderMap::new()).await?;
    Ok(Box::new(OpentsdbSink {
        target,
        timeout,
        retries: config.max_retries,
        request_bytes_max: usize::try_from(config.request_bytes).unwrap_or(usize::MAX),
        format,
        aborted: CancellationToken::new(),
    }))
}

fn endpoint(config: &Config, timeout: Duration) -> Result<String, TargetFault> {
    // The server is to give up before we do, so that it says what it has and what not.
    let sync_timeout = (timeout.as_millis() * 9 / 10).to_string();
    let mut query: Vec<(&str, &str)> = Vec::new();
    if config.summary {
        query.push(("summary", "true"));
    }
    if config.details {
        query.push(("details", "true"));
    }
    if config.sync {
        query.extend([("sync", "true"), ("sync_timeout", sync_timeout.as_str())]);
    }
    http::endpoint(&config.server, &["api", "put"], &query)
}

#[async_trait]
impl Sink for OpentsdbSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut points = Vec::with_capacity(batch.records.len());
        // `Delivered` until one of its points is not.
        let mut outcomes = Vec::with_capacity(batch.records.len());
        for (place, record) in batch.records.iter().enumerate() {
            outcomes.push(match self.format.points(record) {
                Ok(found) => {
                    points.extend(found.into_iter().map(|point| (place, point)));
                    Outcome::Delivered
                }
                Err(fault) => Outcome::RecordFault(fault),
            });
        }
        let failed = AtomicBool::new(false);
        let sent = stream::iter(requests(points, self.request_bytes_max)).map(async |request| {
            if failed.load(Ordering::Relaxed) {
                return (request, held());
            }
            let verdict = self.ask(&request).await;
            if verdict != Verdict::Stored {
                failed.store(true, Ordering::Relaxed);
            }
            (request, verdict)
        });
        let mut sent = pin!(sent.buffered(REQUESTS_AT_ONCE));
        while let Some((request, verdict)) = sent.next().await {
            settle(&request, verdict, &mut outcomes);
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

impl OpentsdbSink {
    async fn ask(&self, request: &Request) -> Verdict {
        let body = request.body();
        let mut retries = self.retries;
        loop {
            let post = self.target.client.post(self.target.url.clone());
            let post = post.header(CONTENT_TYPE, "application/json").body(body.clone());
            match http::exchange(post, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await {
                Ok(answer) => match answer::verdict(&answer, &request.points) {
                    // To store a point again changes nothing.
                    None if retries > 0 => retries -= 1,
                    None => return Verdict::Target(broken_off()),
                    Some(verdict) => return verdict,
                },
                Err(unanswered) if unanswered.lost && retries > 0 => retries -= 1,
                Err(unanswered) => return Verdict::Target(unanswered.fault),
            }
        }
    }
}

/// A record is delivered when all of its points are, and what is worse of two of them is what became of it.
fn settle(request: &Request, verdict: Verdict, outcomes: &mut [Outcome]) {
    match verdict {
        Verdict::Stored => {}
        Verdict::Target(fault) => {
            for place in &request.places {
                let stays = match outcomes[*place] {
                    Outcome::Delivered => false,
                    // What a refused record has beside its refused point makes it no better.
                    Outcome::RecordFault(_) | Outcome::TargetFault(_) => true,
                    // What was held back is held back by its own refused points: it would be for ever.
                    Outcome::Unclear(_) => fault.kind == TargetFaultKind::Interrupted,
                };
                if !stays {
                    outcomes[*place] = Outcome::TargetFault(fault.clone());
                }
            }
        }
        Verdict::Refused(fault, known) => {
            for place in &request.places {
                if outcomes[*place] == Outcome::Delivered {
                    outcomes[*place] = Outcome::Unclear(fault.clone());
                }
            }
            for (at, fault) in known {
                outcomes[request.places[at]] = Outcome::RecordFault(fault);
            }
        }
    }
}

fn broken_off() -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, "the connection broke off in the middle of an answer")
}

/// Not sent, because a request before it failed.
fn held() -> Verdict {
    let mut fault = TargetFault::new(TargetFaultKind::Interrupted, "held back by the points before");
    fault.reopen = false;
    Verdict::Target(fault)
}

#[cfg(test)]
mod tests;
