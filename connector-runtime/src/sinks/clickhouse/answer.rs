//! What a server's answer to an insert means.
//!
//! A yes is a 200 with nothing in it. An exception that comes late follows a 200, as text: whatever is said is no yes.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::code::{Meaning, meaning};
use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::shared::http::{self, Answer, BodyEnd};

/// An insert that is smaller than this and meets the memory limit of a query does not ask for too much: the limit is low.
const MUCH_BYTES: usize = 1 << 20;

const EXCEPTION_CODE: &str = "x-clickhouse-exception-code";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Stored,
    /// Nothing of it was stored, but for a table whose views refuse rows that it has taken itself.
    Refused(Refusal),
    /// The table has other columns than the insert named; where it has not, this fault.
    OtherColumns(TargetFault),
    /// The server does not know a setting; where all of them are its own, this fault.
    OtherSettings(TargetFault),
    Target(TargetFault),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) fault: RecordFault,
    /// The row that the server names, counted from 1. It stands beside words that a publisher may have chosen, and may
    /// be a row of a view: where to cut, and not whom to blame.
    pub(super) row: Option<usize>,
    /// A row that is refused for this is not at fault: the target's fault it is then.
    pub(super) alone: Option<TargetFault>,
}

/// `body_bytes` as they were before compression.
pub(super) fn verdict(answer: &Answer, body_bytes: usize) -> Verdict {
    let text = answer.text();
    judge(answer.status, &answer.headers, &text, answer.end == BodyEnd::Whole, body_bytes)
}

/// The exception in an answer to a query that has a result; `None` where there is none.
pub(super) fn exception(answer: &Answer) -> Option<TargetFault> {
    let text = answer.text();
    let failed = answer.status != StatusCode::OK || code(&answer.headers, &text).is_some();
    if !failed {
        return (answer.end != BodyEnd::Whole).then(broken_off);
    }
    match judge(answer.status, &answer.headers, &text, answer.end == BodyEnd::Whole, 0) {
        Verdict::Target(fault) | Verdict::OtherColumns(fault) | Verdict::OtherSettings(fault) => Some(fault),
        Verdict::Refused(refusal) => Some(TargetFault::new(TargetFaultKind::Down, refusal.fault.message)),
        Verdict::Stored => None,
    }
}

fn judge(status: StatusCode, headers: &HeaderMap, text: &str, complete: bool, body_bytes: usize) -> Verdict {
    let message = http::status_message(status, &http::shortened(words(text)));
    let fault = |kind| {
        let kind = match kind {
            TargetFaultKind::Throttled { retry_after: None } => {
                TargetFaultKind::Throttled { retry_after: http::asked_to_wait(headers) }
            }
            other => other,
        };
        TargetFault::new(kind, message.clone())
    };
    let Some(code) = code(headers, text) else {
        return match status.as_u16() {
            200 if text.is_empty() && complete => Verdict::Stored,
            200 if text.is_empty() => Verdict::Target(broken_off()),
            // Somebody in between.
            413 => refused("too_large", &message, None),
            200..=299 => Verdict::Target(fault(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"))),
            _ => Verdict::Target(http::status_fault(status, headers, &http::shortened(text))),
        };
    };
    let class = format!("clickhouse_{code}");
    match meaning(code, text) {
        Meaning::Row => refused(&class, &message, row(text)),
        Meaning::TooMuch(kind) if body_bytes >= MUCH_BYTES => {
            let alone = Some(fault(kind));
            Verdict::Refused(Refusal { fault: RecordFault::refused(class, message), row: None, alone })
        }
        Meaning::TooMuch(kind) | Meaning::Target(kind) => Verdict::Target(fault(kind)),
        Meaning::Columns(kind) => Verdict::OtherColumns(fault(kind)),
        Meaning::Settings => Verdict::OtherSettings(fault(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"))),
    }
}

fn refused(class: &str, message: &str, row: Option<usize>) -> Verdict {
    Verdict::Refused(Refusal { fault: RecordFault::refused(class, message), row, alone: None })
}

fn broken_off() -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, "the answer broke off")
}

/// Newer servers have the code in a header, unless it comes after the headers; all of them begin the text with it.
fn code(headers: &HeaderMap, text: &str) -> Option<u32> {
    let of_header = headers.get(EXCEPTION_CODE).and_then(|value| value.to_str().ok()?.parse().ok());
    of_header.or_else(|| text.lines().find_map(code_of_line))
}

/// `Code: 60. DB::Exception: …`, `Code: 60, e.displayText() = DB::Exception: …`
fn code_of_line(line: &str) -> Option<u32> {
    let rest = line.strip_prefix("Code: ")?;
    let (digits, says) = rest.split_at(rest.find(['.', ','])?);
    if says.contains("DB::") { digits.parse().ok() } else { None }
}

/// Without the values of the row and of the one before it, which the server prints: they are not everybody's.
fn words(text: &str) -> &str {
    let before: usize = text.split_inclusive('\n').take_while(|line| code_of_line(line).is_none()).map(str::len).sum();
    let said = text.get(before..).filter(|said| !said.is_empty()).unwrap_or(text);
    let end = said.find("\nRow ").unwrap_or(said.len());
    said[..end].trim_end_matches(['\n', ' ', ':'])
}

/// The one row that is named: `(at row 17)`, `is violated at row 17`. Two names are none: one may be a publisher's.
fn row(text: &str) -> Option<usize> {
    const BEFORE: &str = " row ";
    let mut named = None;
    for (at, _) in text.match_indices(BEFORE) {
        let (before, after) = (&text[..at], &text[at + BEFORE.len()..]);
        let digits = after.find(|character: char| !character.is_ascii_digit()).unwrap_or(after.len());
        let is_name = before.ends_with("(at") && after[digits..].starts_with(')') || before.ends_with("is violated at");
        let Ok(number) = after[..digits].parse::<usize>() else { continue };
        if is_name && named.replace(number).is_some_and(|other| other != number) {
            return None;
        }
    }
    named
}

#[cfg(test)]
mod tests;
