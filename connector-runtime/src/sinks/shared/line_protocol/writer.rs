//! Batches as requests: one for each, compressed.

use std::time::Duration;

use api_types::Record;
use async_trait::async_trait;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio_util::sync::CancellationToken;

use super::answer::{self, Culprits, Verdict};
use super::point::PointFormat;
use crate::sink::{Batch, Outcome, RecordFault, Sink};
use crate::sinks::shared::gzip::compressed;
use crate::sinks::shared::http::{self, HttpTarget};

/// InfluxDB names each line that it could not read, with all of its text.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Writes points to one endpoint.
pub(crate) struct LineWriter {
    target: HttpTarget,
    timeout: Duration,
    format: PointFormat,
    aborted: CancellationToken,
}

/// A line under way, and the record's place in the batch.
struct Line {
    place: usize,
    text: String,
}

impl LineWriter {
    pub(crate) fn new(target: HttpTarget, timeout: Duration, format: PointFormat) -> Self {
        Self { target, timeout, format, aborted: CancellationToken::new() }
    }

    async fn write(&self, lines: &[Line]) -> Verdict {
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        let mut body = texts.join("\n");
        body.push('\n');
        let body = match compressed(body.into_bytes()).await {
            Ok(body) => body,
            Err(fault) => return Verdict::Target(fault),
        };
        let request = self.target.client.post(self.target.url.clone());
        let request =
            request.header(CONTENT_TYPE, "text/plain; charset=utf-8").header(CONTENT_ENCODING, "gzip").body(body);
        match http::exchange(request, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await {
            Ok(answer) => answer::verdict(answer.status, &answer.headers, &answer.text(), &texts),
            Err(unanswered) => Verdict::Target(unanswered.fault),
        }
    }

    /// Whose fault a refusal is. Those who are not told from the rest are asked again in smaller requests, and so are the
    /// neighbours of the culprits: what is stored already stays as it is.
    fn blame(&self, records: &[&Record], lines: &[Line], fault: &RecordFault, culprits: Culprits) -> Vec<Outcome> {
        let culprits: Vec<usize> = match culprits {
            Culprits::All => (0..lines.len()).collect(),
            Culprits::Lines(places) => places,
            Culprits::Unknown => Vec::new(),
            Culprits::Conflicting { measurement, field, type_name } => {
                let conflicts =
                    |line: &Line| self.format.has_field(records[line.place], &measurement, &field, &type_name);
                let suspects: Vec<usize> = (0..lines.len()).filter(|at| conflicts(&lines[*at])).collect();
                // Types belong to a stretch of time: of several only the server knows which it took.
                if suspects.len() == 1 { suspects } else { Vec::new() }
            }
        };
        let mut outcomes = vec![Outcome::Unclear(fault.clone()); lines.len()];
        for at in culprits {
            outcomes[at] = Outcome::RecordFault(fault.clone());
        }
        outcomes
    }
}

#[async_trait]
impl Sink for LineWriter {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.records.len());
        let mut lines = Vec::with_capacity(batch.records.len());
        for (place, record) in batch.records.iter().enumerate() {
            // What is still `Delivered` below was part of the request.
            outcomes.push(match self.format.line(record) {
                Ok(text) => {
                    lines.push(Line { place, text });
                    Outcome::Delivered
                }
                Err(fault) => Outcome::RecordFault(fault),
            });
        }
        if lines.is_empty() {
            return outcomes;
        }
        let answers = match self.write(&lines).await {
            Verdict::Stored => return outcomes,
            Verdict::Target(fault) => vec![Outcome::TargetFault(fault); lines.len()],
            Verdict::Refused(fault, culprits) => self.blame(batch.records, &lines, &fault, culprits),
        };
        for (line, answer) in lines.iter().zip(answers) {
            outcomes[line.place] = answer;
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
