//! What an answer to `_bulk` means for each document.
//!
//! ```text
//! 200 ──► items, one for each document ──► created | there already | whose fault
//! 413 ──► too large together             other ──► about the whole request: the target's
//! ```
//!
//! An error is told by its type. Its reason may hold a publisher's own words and is looked at where it begins only.

use reqwest::StatusCode;
use serde::Deserialize;

use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::shared::http::{Answer, BodyEnd, shortened, status_fault, status_message};

/// What the server is to say of each document, and no more.
pub(super) const FILTER: &str = "items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason";
/// A refused document is shown with all of the value that was refused.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 20;

/// A person has to change something, here or at the server.
const REFUSES: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");

/// Errors that are about a document, in Elasticsearch 8 (the first two), in older ones and OpenSearch, and of ingest
/// pipelines.
const OF_DOCUMENTS: [&str; 9] = [
    "document_parsing_exception",
    "strict_dynamic_mapping_exception",
    "mapper_parsing_exception",
    "mapper_exception",
    "illegal_argument_exception",
    "parse_exception",
    "x_content_parse_exception",
    "script_exception",
    "fail_processor_exception",
];

/// How a reason begins that is about what the documents go to, though its type says otherwise.
const OF_THE_INDEX: [(&str, TargetFaultKind); 6] = [
    ("no write index is defined for alias [", TargetFaultKind::Missing),
    ("pipeline with id [", TargetFaultKind::Missing),
    ("Number of documents in shard [", TargetFaultKind::Full),
    ("Number of documents in the index can't exceed [", TargetFaultKind::Full),
    // Of a time series, which names its documents itself.
    ("_id must be unset or set to [", REFUSES),
    ("Validation Failed: 1: this action would add [", TargetFaultKind::Full),
];

#[derive(Deserialize)]
struct Said {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    create: Created,
}

#[derive(Deserialize)]
struct Created {
    status: u16,
    error: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type")]
    class: String,
    reason: Option<String>,
    caused_by: Option<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    reason: Option<String>,
}

/// An answer about the whole request.
#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

/// One outcome for each of so many documents, in their order.
pub(super) fn outcomes(answer: &Answer, count: usize) -> Vec<Outcome> {
    let all = |outcome: Outcome| vec![outcome; count];
    let target = |kind, says: String| Outcome::TargetFault(TargetFault::new(kind, says));
    match (answer.status, answer.end) {
        // What was stored of them is known when it comes again.
        (StatusCode::OK, BodyEnd::Cut) => {
            let says = format!("the answer has more than {} MiB", ANSWER_BYTES_MAX >> 20);
            all(Outcome::Unclear(RecordFault::refused("answer_too_large", says)))
        }
        (StatusCode::OK, BodyEnd::Broken) => all(target(TargetFaultKind::Down, "the answer broke off".to_owned())),
        (StatusCode::OK, BodyEnd::Whole) => match serde_json::from_slice::<Said>(answer.body()) {
            Ok(said) if said.items.len() == count => said.items.into_iter().map(|item| item.create.outcome()).collect(),
            Ok(said) => all(target(REFUSES, format!("an answer about {} of {count} documents", said.items.len()))),
            Err(_) => all(target(REFUSES, status_message(answer.status, &answer.words()))),
        },
        (StatusCode::PAYLOAD_TOO_LARGE, _) => {
            let says = status_message(answer.status, &answer.words());
            all(Outcome::Unclear(RecordFault::refused("too_large", says)))
        }
        (status, _) => {
            let words = match serde_json::from_slice::<Refusal>(answer.body()) {
                Ok(refusal) => refusal.error.words(),
                Err(_) => answer.words(),
            };
            all(Outcome::TargetFault(status_fault(status, &answer.headers, &words)))
        }
    }
}

impl Created {
    fn outcome(self) -> Outcome {
        let Some(error) = self.error else {
            return match self.status {
                200..=299 => Outcome::Delivered,
                status => Outcome::TargetFault(TargetFault::new(kind_of_status(status), format!("status {status}"))),
            };
        };
        if self.status == 409 && error.class == "version_conflict_engine_exception" {
            // Nobody else writes under this id.
            return Outcome::Delivered;
        }
        match error.kind(self.status) {
            Some(kind) => Outcome::TargetFault(TargetFault::new(kind, error.words())),
            None => Outcome::RecordFault(RecordFault::refused(error.class.as_str(), error.words())),
        }
    }
}

impl Reason {
    /// `None`: it is about the document.
    fn kind(&self, status: u16) -> Option<TargetFaultKind> {
        let begins = |begin: &&str| self.reasons().any(|reason| reason.starts_with(*begin));
        if let Some((_, kind)) = OF_THE_INDEX.iter().find(|(begin, _)| begins(begin)) {
            return Some(*kind);
        }
        match self.class.as_str() {
            class if OF_DOCUMENTS.contains(&class) => None,
            "es_rejected_execution_exception" | "circuit_breaking_exception" => {
                Some(TargetFaultKind::Throttled { retry_after: None })
            }
            // The disk is almost full; the block goes by itself once there is room.
            "cluster_block_exception" if status == 429 => Some(TargetFaultKind::Full),
            "index_closed_exception" => Some(TargetFaultKind::Missing),
            _ => Some(kind_of_status(status)),
        }
    }

    /// Its own, then that of its cause.
    fn reasons(&self) -> impl Iterator<Item = &str> {
        let cause = self.caused_by.as_ref().and_then(|cause| cause.reason.as_deref());
        self.reason.as_deref().into_iter().chain(cause)
    }

    fn words(&self) -> String {
        let mut words = self.class.clone();
        for reason in self.reasons() {
            if !words.contains(reason) {
                words.push_str(": ");
                words.push_str(reason);
            }
        }
        shortened(&words)
    }
}

fn kind_of_status(status: u16) -> TargetFaultKind {
    match status {
        401 => TargetFaultKind::Auth,
        403 => TargetFaultKind::Permission,
        404 => TargetFaultKind::Missing,
        429 => TargetFaultKind::Throttled { retry_after: None },
        500..=599 => TargetFaultKind::Down,
        _ => REFUSES,
    }
}

#[cfg(test)]
mod tests;
