//! Whose an error is.
//!
//! | code of the protocol | whose | what |
//! |---|---|---|
//! | 2200 invalid, of a statement that others get through with | the record's | a value that the server does not take |
//! | 2200 invalid, as the disks of the row's nodes are full | the target's | full |
//! | 2200 invalid, otherwise | the target's | a table that is not there; a statement that does not fit |
//! | 0100 | the target's | login |
//! | 2100 | the target's | permission |
//! | 1001 overloaded, a rate limit | the target's | throttled |
//! | 1600 | the target's | no room for the log of changes |
//! | 2000, 2300, 1400 | the target's | the statement does not fit |
//! | everything else, and no answer at all | the target's, down | |

use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

/// The statement and the table do not fit together, and only a person can change that.
pub(super) const DOES_NOT_FIT: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT");
/// Of a server's words, which may repeat a value.
const MESSAGE_CHARS_MAX: usize = 512;
const CDC_WRITE_FAILURE: i32 = 0x1600;
/// Said with the code of an invalid request: no other one says that nodes take nothing until their disks have room.
const DISK_FULL: &str = "Write request failed because disk usage exceeds failure threshold";

#[derive(Debug)]
pub(super) enum Error {
    /// Found by the driver, in the record alone.
    Unsendable(RecordFault),
    /// The server calls the statement invalid, with these words: for a value, or for what it names.
    Invalid(String),
    Target(TargetFault),
    /// A request was given up.
    Silent(String),
    /// A connection was lost: the relay may know why.
    Lost(String),
    /// There is none to any node: the relay may know why.
    NoNode(String),
}

impl From<&ExecutionError> for Error {
    fn from(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::BadQuery(BadQuery::ValuesTooLongForKey(..)) => {
                Self::Unsendable(RecordFault::offline("key_too_long", words(&chain(error))))
            }
            ExecutionError::PrepareError(error) => error.into(),
            ExecutionError::ConnectionPoolError(error) => error.into(),
            ExecutionError::LastAttemptError(error) => error.into(),
            ExecutionError::MetadataError(error) => error.into(),
            // No node of the data centre is known, or none of them is connected.
            ExecutionError::EmptyPlan => Self::NoNode("no node can be used".to_owned()),
            ExecutionError::RequestTimeout(limit) => {
                Self::Silent(format!("no answer within {} s", limit.as_secs_f64()))
            }
            _ => Self::Target(down(&chain(error))),
        }
    }
}

impl Error {
    /// What is sent next would fare no better.
    pub(super) fn holds_up(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Lost(_) | Self::NoNode(_) => true,
            Self::Target(fault) => {
                fault.kind.needs_a_person() || matches!(fault.kind, TargetFaultKind::Throttled { .. })
            }
            Self::Unsendable(_) | Self::Invalid(_) => false,
        }
    }
}

impl From<&PrepareError> for Error {
    fn from(error: &PrepareError) -> Self {
        match error {
            PrepareError::ConnectionPoolError(error) => error.into(),
            PrepareError::AllAttemptsFailed { first_attempt } => first_attempt.into(),
            _ => Self::Target(down(&chain(error))),
        }
    }
}

impl From<&RequestAttemptError> for Error {
    fn from(error: &RequestAttemptError) -> Self {
        match error {
            RequestAttemptError::DbError(error, said) => of_answer(error, said),
            RequestAttemptError::BrokenConnectionError(_) => Self::Lost(chain(error)),
            _ => Self::Target(down(&chain(error))),
        }
    }
}

impl From<&NewSessionError> for Error {
    fn from(error: &NewSessionError) -> Self {
        match error {
            NewSessionError::MetadataError(error) => error.into(),
            _ => Self::Target(down(&chain(error))),
        }
    }
}

impl From<&MetadataError> for Error {
    fn from(error: &MetadataError) -> Self {
        match error {
            MetadataError::ConnectionPoolError(error) => error.into(),
            _ => Self::Target(down(&chain(error))),
        }
    }
}

impl From<&ConnectionPoolError> for Error {
    fn from(error: &ConnectionPoolError) -> Self {
        if let ConnectionPoolError::Broken {
            last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
        } = error
        {
            match &setup.error {
                ConnectionSetupRequestErrorKind::DbError(DbError::ProtocolError, said) => {
                    return Self::NoNode(words(said));
                }
                ConnectionSetupRequestErrorKind::DbError(error, said) => return of_answer(error, said),
                ConnectionSetupRequestErrorKind::MissingAuthentication => {
                    let message = "the nodes ask for a login, and username is empty";
                    return Self::Target(TargetFault::new(TargetFaultKind::Auth, message));
                }
                _ => {}
            }
        }
        Self::NoNode(words(&chain(error)))
    }
}

fn of_answer(error: &DbError, said: &str) -> Error {
    let kind = match error {
        DbError::Invalid if is_disk_full(said) => TargetFaultKind::Full,
        DbError::Invalid => return Error::Invalid(words(said)),
        DbError::AuthenticationError => TargetFaultKind::Auth,
        DbError::Unauthorized => TargetFaultKind::Permission,
        DbError::Overloaded | DbError::RateLimitReached { .. } => TargetFaultKind::Throttled { retry_after: None },
        DbError::Other(CDC_WRITE_FAILURE) => TargetFaultKind::Full,
        DbError::SyntaxError | DbError::ConfigError | DbError::FunctionFailure { .. } => DOES_NOT_FIT,
        _ => TargetFaultKind::Down,
    };
    Error::Target(TargetFault::new(kind, words(said)))
}

/// Since 4.1 the name of the guardrail comes first. What follows it may be of a record, so it is looked at from its start.
fn is_disk_full(said: &str) -> bool {
    let named = said.strip_prefix("Guardrail ").and_then(|rest| rest.split_once(" violated: "));
    named.map_or(said, |(_, reason)| reason).starts_with(DISK_FULL)
}

/// Of a value that the server does not take.
pub(super) fn refused(said: String) -> RecordFault {
    RecordFault::refused("cassandra_2200", said)
}

pub(super) fn down(message: &str) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, words(message))
}

fn words(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: DbError, expect: TargetFaultKind) {
        let text = format!("{error:?}");
        let error = ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, "x".repeat(1_000)));
        match Error::from(&error) {
            Error::Target(fault) => {
                assert_eq!(fault.kind, expect, "{text}");
                assert!(fault.message.chars().count() <= MESSAGE_CHARS_MAX + 1);
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    fn invalid(said: &str) -> Error {
        let error = RequestAttemptError::DbError(DbError::Invalid, said.to_owned());
        Error::from(&ExecutionError::LastAttemptError(error))
    }

    /// No record is to blame, though the code is the one of a bad value.
    #[test]
    fn a_full_disk_is_the_targets() {
        let words = "Write request failed because disk usage exceeds failure threshold";
        let guardrail = format!("Guardrail replica_disk_usage violated: {words}");
        for said in [words, &guardrail, &format!("{guardrail} in keyspace mqtt.")] {
            let error = invalid(said);
            assert!(matches!(&error, Error::Target(fault) if fault.kind == TargetFaultKind::Full), "{error:?}");
        }
        let size = "Guardrail column_value_size violated: Value of column 'payload' has size 5MiB";
        for said in [size, &format!("no such thing: {words}"), &format!("Guardrail key violated: '{words}'")] {
            let error = invalid(said);
            assert!(matches!(&error, Error::Invalid(words) if words == said), "{error:?}");
        }
    }

    /// A replica that is late says nothing about other rows.
    #[test]
    fn only_what_all_would_meet_holds_others_up() {
        let target = |kind| Error::Target(TargetFault::new(kind, "m"));
        let text = || "m".to_owned();
        for error in [
            Error::Silent(text()),
            Error::Lost(text()),
            Error::NoNode(text()),
            target(TargetFaultKind::Throttled { retry_after: None }),
            target(TargetFaultKind::Permission),
            target(DOES_NOT_FIT),
        ] {
            assert!(error.holds_up(), "{error:?}");
        }
        for error in [Error::Invalid(text()), target(TargetFaultKind::Down), target(TargetFaultKind::Full)] {
            assert!(!error.holds_up(), "{error:?}");
        }
    }

    #[test]
    fn a_code_says_whose_fault_it_is() {
        check(DbError::AuthenticationError, TargetFaultKind::Auth);
        check(DbError::Unauthorized, TargetFaultKind::Permission);
        check(DbError::Overloaded, TargetFaultKind::Throttled { retry_after: None });
        check(DbError::Other(0x1600), TargetFaultKind::Full);
        check(DbError::SyntaxError, DOES_NOT_FIT);
        check(DbError::ConfigError, DOES_NOT_FIT);
        check(DbError::IsBootstrapping, TargetFaultKind::Down);
        check(DbError::ServerError, TargetFaultKind::Down);
        check(DbError::ProtocolError, TargetFaultKind::Down);
        check(DbError::Other(0x7777), TargetFaultKind::Down);
        assert!(matches!(invalid("y"), Error::Invalid(said) if said == "y"));
        let slow = ExecutionError::RequestTimeout(std::time::Duration::from_millis(1_500));
        assert!(matches!(Error::from(&slow), Error::Silent(words) if words == "no answer within 1.5 s"));
    }
}
