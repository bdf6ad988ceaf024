//! What a server's answer to a request of many lines means.
//!
//! InfluxDB stores the good lines of a request and answers 400 with the reason for the first bad one, or with all lines
//! that it could not read. To store a line again changes nothing, so only the culprits have to be told from the rest.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::shared::http;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Stored,
    Refused(RecordFault, Culprits),
    Target(TargetFault),
}

/// Which lines of the request the refusal is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Culprits {
    All,
    /// Their places in the request, ascending.
    Lines(Vec<usize>),
    /// Lines with this field of this type, which the measurement has as another one: at least one of them.
    Conflicting {
        measurement: String,
        field: String,
        type_name: String,
    },
    Unknown,
}

/// `lines` as they were sent, without the line breaks at their ends.
pub(super) fn verdict(status: StatusCode, headers: &HeaderMap, body: &str, lines: &[&str]) -> Verdict {
    if status == StatusCode::NO_CONTENT {
        return Verdict::Stored;
    }
    let said = Said::read(body);
    let fault = |kind| Verdict::Target(TargetFault::new(kind, http::status_message(status, &said.words())));
    if let Some(kind) = said.code.and_then(greptime_kind) {
        return fault(kind);
    }
    match status.as_u16() {
        413 => refused("too_large", status, &said, Culprits::Unknown),
        code if matches!(code, 400 | 422) || (code == 500 && said.is_unexpected_partial()) => {
            match (said.bound(), said.refusal(lines)) {
                (Some(kind), _) => fault(kind),
                (None, Some((class, culprits))) => refused(class, status, &said, culprits),
                (None, None) => fault(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
            }
        }
        200..=299 => fault(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
        _ => match said.failure().filter(|_| status.is_server_error()) {
            Some(kind) => fault(kind),
            None => Verdict::Target(http::status_fault(status, headers, &said.words())),
        },
    }
}

fn refused(class: &str, status: StatusCode, said: &Said, culprits: Culprits) -> Verdict {
    Verdict::Refused(RecordFault::refused(class, http::status_message(status, &said.words())), culprits)
}

/// An error as InfluxDB 1 (`error`), InfluxDB 2 (`code`, `message`) or GreptimeDB (a number as `code`, `error`) has it,
/// or the text of somebody in between.
struct Said {
    message: String,
    code: Option<u64>,
}

/// How a reason begins that is about lines, and the class of the fault. What follows may be a publisher's own words.
const ABOUT_LINES: [(&str, &str); 5] = [
    (UNPARSABLE, "unparsable"),
    ("field type conflict", "field_type_conflict"),
    ("points beyond retention policy", "beyond_retention"),
    // InfluxDB 2.7: `dropped 4 points outside retention policy of duration …`.
    ("dropped ", "beyond_retention"),
    ("partial write", "partial_write"),
];
/// Before the text of a line that could not be read.
const UNPARSABLE: &str = "unable to parse '";
/// What InfluxDB 2 puts before everything else; older ones answer 500 with it, whatever it was.
const UNEXPECTED: &str = "unexpected error writing points to database: ";
const FAILURE: &str = "failure writing points to database: ";
/// What stands before a reason when other lines were stored.
const PARTIAL: &str = "partial write: ";

/// GreptimeDB's numbers for what is wrong with what was sent.
const GREPTIME_REFUSALS: [u64; 6] = [1001, 1004, 2000, 3000, 4002, 4003];

/// How a reason begins that is about the server's bounds, which a person has to raise, or about what passes by itself.
const ABOUT_SERVER: [(&str, TargetFaultKind); 3] = [
    ("max-series-per-database limit exceeded", TargetFaultKind::Full),
    ("max-values-per-tag limit exceeded", TargetFaultKind::Full),
    ("shard ", TargetFaultKind::Down),
];
/// In what a server says of its own failure.
const FAILURES: [(&str, TargetFaultKind); 4] = [
    ("no space left on device", TargetFaultKind::Full),
    ("cache-max-memory-size exceeded", TargetFaultKind::Full),
    ("queue is full", TargetFaultKind::Full),
    ("retention policy not found", TargetFaultKind::Missing),
];

impl Said {
    fn read(body: &str) -> Self {
        match serde_json::from_str::<Value>(body) {
            Ok(Value::Object(fields)) => {
                let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
                let message = text("error").or_else(|| text("message")).unwrap_or_else(|| body.to_owned());
                Self { message, code: fields.get("code").and_then(Value::as_u64) }
            }
            Ok(_) | Err(_) => Self { message: body.to_owned(), code: None },
        }
    }

    fn words(&self) -> String {
        http::shortened(&self.message)
    }

    /// Without what InfluxDB 2 puts before it.
    fn inner(&self) -> &str {
        let message = self.message.as_str();
        [FAILURE, UNEXPECTED].iter().find_map(|before| message.strip_prefix(before)).unwrap_or(message)
    }

    /// Without all that stands before it.
    fn reason(&self) -> &str {
        let inner = self.inner();
        inner.strip_prefix(PARTIAL).unwrap_or(inner)
    }

    fn is_unexpected_partial(&self) -> bool {
        self.message.strip_prefix(UNEXPECTED).is_some_and(|inner| inner.starts_with(PARTIAL))
    }

    /// What a refused request says of the server itself.
    fn bound(&self) -> Option<TargetFaultKind> {
        let reason = self.reason();
        ABOUT_SERVER.iter().find(|(begin, _)| reason.starts_with(begin)).map(|(_, kind)| *kind)
    }

    fn failure(&self) -> Option<TargetFaultKind> {
        FAILURES.iter().find(|(phrase, _)| self.message.contains(phrase)).map(|(_, kind)| *kind)
    }

    /// The class of the fault and whose it is, when it is about lines.
    fn refusal(&self, lines: &[&str]) -> Option<(&'static str, Culprits)> {
        if self.is_field_too_long() {
            return Some(("field_too_long", self.culprits(lines)));
        }
        let about = [self.reason(), self.inner()];
        let begins = |(begin, _): &&(&str, &str)| about.iter().any(|text| text.starts_with(begin));
        if let Some((_, class)) = ABOUT_LINES.iter().find(begins) {
            return Some((class, self.culprits(lines)));
        }
        let greptime = self.code.is_some_and(|code| GREPTIME_REFUSALS.contains(&code));
        greptime.then_some(("refused", Culprits::Unknown))
    }

    /// `input field "{field}" on measurement "{measurement}" is too long, 1048580 > 1048576`
    fn is_field_too_long(&self) -> bool {
        let reason = self.reason();
        reason.starts_with("input field \"") && reason.contains("\" is too long, ")
    }

    fn culprits(&self, lines: &[&str]) -> Culprits {
        // The text of a line may carry a number of its own, and the answer then none.
        let dropped = if self.reason().starts_with(UNPARSABLE) { None } else { self.dropped() };
        if dropped.is_some_and(|dropped| dropped > 0 && dropped >= lines.len()) {
            return Culprits::All;
        }
        let named = self.named(lines);
        if !named.is_empty() {
            return Culprits::Lines(named);
        }
        self.conflict().unwrap_or(Culprits::Unknown)
    }

    /// `… dropped=3`
    fn dropped(&self) -> Option<usize> {
        let (_, number) = self.message.rsplit_once(" dropped=")?;
        let digits = number.find(|character: char| !character.is_ascii_digit()).unwrap_or(number.len());
        number[..digits].parse().ok()
    }

    /// The lines that it could not read: `unable to parse '{line}': {reason}`, one after the other.
    fn named(&self, lines: &[&str]) -> Vec<usize> {
        const AFTER: &str = "': ";
        let mut sorted: Vec<(&str, usize)> = lines.iter().enumerate().map(|(place, line)| (*line, place)).collect();
        sorted.sort_unstable();
        let mut found = Vec::new();
        for (at, _) in self.message.match_indices(UNPARSABLE) {
            let rest = &self.message[at + UNPARSABLE.len()..];
            // Of the lines with which the rest may begin, the longest is the last one that is not above it.
            let above = sorted.partition_point(|(line, _)| *line <= rest);
            let candidate = above.checked_sub(1).map(|below| sorted[below]);
            let matching =
                candidate.filter(|(line, _)| rest.strip_prefix(line).is_some_and(|after| after.starts_with(AFTER)));
            found.extend(matching.map(|(_, place)| place));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// `field type conflict: input field "{field}" on measurement "{measurement}" is type {type}, already exists as
    /// type …`. Names are not escaped there: where they could be cut in two ways, it is nobody's fault yet.
    fn conflict(&self) -> Option<Culprits> {
        const IS_TYPE: &str = "\" is type ";
        const ON_MEASUREMENT: &str = "\" on measurement \"";
        let rest = self.reason().strip_prefix("field type conflict: input field \"")?;
        let (names, rest) = rest.split_once(IS_TYPE)?;
        let (field, measurement) = names.split_once(ON_MEASUREMENT)?;
        if rest.contains(IS_TYPE) || names.find(ON_MEASUREMENT) != names.rfind(ON_MEASUREMENT) {
            return None;
        }
        let (type_name, _) = rest.split_once(", already exists as type ")?;
        Some(Culprits::Conflicting {
            measurement: measurement.to_owned(),
            field: field.to_owned(),
            type_name: type_name.to_owned(),
        })
    }
}

/// What GreptimeDB's numbers say about the server. Its HTTP statuses put a missing database beside a line that it cannot
/// read, and a region that moves beside a wrong password.
fn greptime_kind(code: u64) -> Option<TargetFaultKind> {
    const MISSING: [u64; 2] = [4001, 4004];
    match code {
        code if MISSING.contains(&code) => Some(TargetFaultKind::Missing),
        // Regions that are not there, not ready or busy; storage that cannot be used.
        4005..=6000 => Some(TargetFaultKind::Down),
        6001 => Some(TargetFaultKind::Throttled { retry_after: None::<Duration> }),
        7000..=7004 => Some(TargetFaultKind::Auth),
        7005..=7999 => Some(TargetFaultKind::Permission),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
