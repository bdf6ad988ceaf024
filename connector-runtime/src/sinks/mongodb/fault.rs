//! Whose an error of the server is.
//!
//! Codes as in MongoDB's `error_codes.yml`; those that it does not know are the target's.

use mongodb::error::{CommandError, Error, ErrorKind};

use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

pub(super) const DUPLICATES: [i32; 3] = [11_000, 11_001, 12_582];
/// Of a server's words. A failed validation repeats the document.
const MESSAGE_CHARS_MAX: usize = 512;

/// One document that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn is_duplicate(&self) -> bool {
        DUPLICATES.contains(&self.code)
    }

    pub(super) fn record_fault(&self) -> RecordFault {
        RecordFault::refused(class(self.code), words(&self.message))
    }

    /// `None`: it is the document's own.
    pub(super) fn target_fault(&self, has_login: bool) -> Option<TargetFault> {
        match self.code {
            // Bad values (also of time series), types, depth, broken BSON, field names, `_id`, DBRef, shard keys,
            // validation, parallel arrays, size, geometry, what a capped collection holds, language of a text index,
            // index keys.
            2
            | 14
            | 15
            | 22
            | 52..=57
            | 61
            | 121
            | 171
            | 10_334
            | 13_026
            | 13_027
            | 16_328
            | 16_755
            | 16_804
            | 17_261
            | 17_262
            | 17_280
            | 17_419 => None,
            _ if self.is_duplicate() => None,
            code => Some(TargetFault::new(kind(code, &self.message, has_login), words(&self.message))),
        }
    }
}

/// An error of a request as a whole.
pub(super) enum Whole {
    /// One of its documents is to blame, and nobody says which.
    SomeDocument(RecordFault),
    Target(TargetFault),
    /// None that can be used was found: the relay may know why.
    NoServer(String),
    /// The connection was: the relay may know why.
    Lost(String),
}

pub(super) fn whole(error: &Error, has_login: bool) -> Whole {
    if let Some(command) = command(error) {
        return match command.code {
            15 | 22 | 10_334 | 17_280 | 17_419 => {
                Whole::SomeDocument(RecordFault::refused(class(command.code), words(&command.message)))
            }
            _ if is_of_a_login(error) => Whole::Target(TargetFault::new(TargetFaultKind::Auth, words(&chain(error)))),
            _ if error.contains_label("SystemOverloadedError") => {
                let throttled = TargetFaultKind::Throttled { retry_after: None };
                Whole::Target(TargetFault::new(throttled, words(&command.message)))
            }
            code => Whole::Target(TargetFault::new(kind(code, &command.message, has_login), words(&command.message))),
        };
    }
    let text = words(&chain(error));
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } if !is_network(error) => {
            Whole::Target(TargetFault::new(TargetFaultKind::Auth, text))
        }
        ErrorKind::IncompatibleServer { .. } | ErrorKind::SessionsNotSupported => {
            Whole::Target(TargetFault::new(TargetFaultKind::Misconfigured("TARGET_TOO_OLD"), text))
        }
        // The driver says so of a document that is larger than the server takes, and does not say which.
        ErrorKind::InvalidArgument { .. } => Whole::SomeDocument(RecordFault::refused("mongodb_driver", text)),
        ErrorKind::ServerSelection { .. } => Whole::NoServer(text),
        _ => Whole::Lost(text),
    }
}

/// Of an error or its sources.
fn causes(error: &Error) -> impl Iterator<Item = &Error> {
    std::iter::successors(Some(error), |error| {
        std::error::Error::source(*error).and_then(|source| source.downcast_ref::<Error>())
    })
}

fn command(error: &Error) -> Option<&CommandError> {
    causes(error).find_map(|error| match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command),
        _ => None,
    })
}

fn is_of_a_login(error: &Error) -> bool {
    causes(error).any(|error| matches!(error.kind.as_ref(), ErrorKind::Authentication { .. }))
}

fn is_network(error: &Error) -> bool {
    causes(error).any(|error| matches!(error.kind.as_ref(), ErrorKind::Io(_)))
}

fn class(code: i32) -> String {
    format!("mongodb_{code}")
}

fn kind(code: i32, message: &str, has_login: bool) -> TargetFaultKind {
    match code {
        // Atlas has one code for all that it forbids.
        8_000 if message.contains("over your space quota") => TargetFaultKind::Full,
        // User unknown, authentication failed, mechanism not available, to be done again.
        11 | 18 | 334 | 391 => TargetFaultKind::Auth,
        // Nobody said who we are.
        13 if !has_login => TargetFaultKind::Auth,
        13 | 8_000 => TargetFaultKind::Permission,
        26 => TargetFaultKind::Missing,
        14_031 => TargetFaultKind::Full,
        // Too many requests: MongoDB, and servers that speak its protocol.
        462 | 16_500 => TargetFaultKind::Throttled { retry_after: None },
        // No command, options or name that it takes, a view, not supported.
        59 | 72 | 73 | 115 | 166 | 238 | 303 => TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"),
        _ => TargetFaultKind::Down,
    }
}

pub(super) fn words(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::options::ConnectionString;

    use super::*;

    fn refusal(code: i32) -> Refusal {
        Refusal { code, message: "x".repeat(1_000) }
    }

    #[test]
    fn what_the_driver_does_not_take_is_some_documents() {
        let error = "mongodb://".parse::<ConnectionString>().expect_err("has no host");
        assert!(matches!(error.kind.as_ref(), ErrorKind::InvalidArgument { .. }), "{error:?}");
        assert!(matches!(whole(&error, true), Whole::SomeDocument(fault) if &*fault.class == "mongodb_driver"));
    }

    #[test]
    fn a_code_says_whose_fault_a_refused_document_is() {
        for code in
            [2, 52, 57, 121, 10_334, 11_000, 11_001, 12_582, 13_026, 13_027, 16_328, 16_755, 16_804, 17_262, 17_280]
        {
            assert_eq!(refusal(code).target_fault(true), None, "{code}");
            assert_eq!(&*refusal(code).record_fault().class, format!("mongodb_{code}"));
            assert!(refusal(code).record_fault().message.chars().count() <= MESSAGE_CHARS_MAX + 1);
        }
        for (code, has_login, expect) in [
            (13, true, TargetFaultKind::Permission),
            (13, false, TargetFaultKind::Auth),
            (8_000, true, TargetFaultKind::Permission),
            (18, true, TargetFaultKind::Auth),
            (26, true, TargetFaultKind::Missing),
            (14_031, true, TargetFaultKind::Full),
            (16_500, true, TargetFaultKind::Throttled { retry_after: None }),
            (166, true, TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
            // Not the primary any more, shutting down, interrupted, a time limit, write conflict, and what nobody knows.
            (10_107, true, TargetFaultKind::Down),
            (91, true, TargetFaultKind::Down),
            (11_600, true, TargetFaultKind::Down),
            (50, true, TargetFaultKind::Down),
            (112, true, TargetFaultKind::Down),
            (64, true, TargetFaultKind::Down),
            (987_654, true, TargetFaultKind::Down),
            (0, true, TargetFaultKind::Down),
        ] {
            let fault = refusal(code).target_fault(has_login).expect("is the target's");
            assert_eq!(fault.kind, expect, "{code}");
        }
        let full = "you are over your space quota, using 512 MB of 512 MB".to_owned();
        let full = Refusal { code: 8_000, message: full }.target_fault(true).expect("is the target's");
        assert_eq!(full.kind, TargetFaultKind::Full);
    }
}
