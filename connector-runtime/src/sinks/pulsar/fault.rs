//! What an error of a broker means for the target, or for the record that it was answered for.

use std::time::Duration;

use super::proto::ServerError;
use crate::sink::{TargetFault, TargetFaultKind};

/// The owner before this one still has its producer on the topic, under the same name. Its broker misses a connection that is
/// gone within a few seconds; one that stays longer is no earlier owner.
pub(super) const EARLIER_OWNER_WITHIN: Duration = Duration::from_secs(60);

/// The broker's answer to a connection, a look-up, a producer or an entry.
pub(super) fn target_fault(error: i32, words: &str) -> TargetFault {
    let words = said(error, words);
    let Ok(error) = ServerError::try_from(error) else { return down(words) };
    let kind = match error {
        ServerError::Authentication => TargetFaultKind::Auth,
        ServerError::Authorization | ServerError::ProducerBusy | ServerError::ProducerFenced => {
            TargetFaultKind::Permission
        }
        ServerError::TopicNotFound | ServerError::TopicTerminated => TargetFaultKind::Missing,
        // An unknown namespace or tenant is answered so as well, and a broker that lost its metadata service for a while.
        ServerError::Metadata if is_missing(&words) => TargetFaultKind::Missing,
        ServerError::InvalidTopicName | ServerError::IncompatibleSchema | ServerError::NotAllowed => {
            TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")
        }
        ServerError::UnsupportedVersion => TargetFaultKind::Misconfigured("TARGET_PROTOCOL_VERSION"),
        ServerError::ProducerBlockedQuotaExceededError | ServerError::ProducerBlockedQuotaExceededException => {
            TargetFaultKind::Full
        }
        ServerError::TooManyRequests => TargetFaultKind::Throttled { retry_after: None },
        ServerError::Unknown
        | ServerError::Metadata
        | ServerError::Persistence
        | ServerError::ServiceNotReady
        | ServerError::Checksum => TargetFaultKind::Down,
    };
    TargetFault::new(kind, words)
}

fn is_missing(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["not found", "does not exist"].iter().any(|missing| words.contains(missing))
}

/// The broker's words, which begin with the name of an exception, and the name of its code.
fn said(error: i32, words: &str) -> String {
    let name = match ServerError::try_from(error) {
        Ok(error) => format!("{error:?}"),
        Err(unknown) => format!("error {unknown}"),
    };
    // Some have no words beside it.
    match words.trim() {
        "" => format!("the broker says {name}"),
        words => format!("the broker says {name}: {words}"),
    }
}

/// Another producer of this very name is on the topic.
pub(super) fn is_name_taken(error: i32, words: &str) -> bool {
    error == i32::from(ServerError::ProducerBusy) && words.contains("is already connected to topic")
}

/// An entry above the limit of its topic or namespace. What is above the broker's own limit is never sent.
pub(super) fn is_too_large(error: i32, words: &str) -> bool {
    error == i32::from(ServerError::NotAllowed) && words.contains("maximum message size")
}

/// A record's, or of all records of an entry together.
pub(super) fn too_large_words(error: i32, words: &str) -> String {
    said(error, words)
}

pub(super) fn down(message: impl Into<std::sync::Arc<str>>) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, message)
}

/// An answer to a request, and none that it can have.
pub(super) fn unexpected() -> TargetFault {
    down("the broker answered a request with something else")
}

pub(super) fn interrupted(message: impl Into<std::sync::Arc<str>>) -> TargetFault {
    TargetFault::new(TargetFaultKind::Interrupted, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: ServerError, words: &str, expect: TargetFaultKind) {
        let fault = target_fault(error.into(), words);
        assert_eq!(fault.kind, expect, "{words}");
        assert!(fault.message.contains(words), "{}", fault.message);
    }

    #[test]
    fn codes_mean_what_the_page_says() {
        use TargetFaultKind::{Auth, Down, Full, Misconfigured, Missing, Permission, Throttled};
        check(ServerError::Authentication, "Failed to authenticate", Auth);
        check(ServerError::Authorization, "Client is not authorized to Produce", Permission);
        check(ServerError::ProducerBusy, "Topic has an existing exclusive producer: x", Permission);
        check(ServerError::ProducerFenced, "Fenced", Permission);
        check(ServerError::TopicNotFound, "Topic not found", Missing);
        check(ServerError::TopicTerminated, "Topic was already terminated", Missing);
        check(ServerError::Metadata, "Namespace not found", Missing);
        check(ServerError::Metadata, "Policies not found for public/no namespace", Missing);
        check(ServerError::Metadata, "lost connection to ZooKeeper", Down);
        check(ServerError::InvalidTopicName, "Invalid topic name", Misconfigured("TARGET_REFUSES_REQUESTS"));
        check(ServerError::IncompatibleSchema, "Schema required", Misconfigured("TARGET_REFUSES_REQUESTS"));
        check(ServerError::NotAllowed, "no", Misconfigured("TARGET_REFUSES_REQUESTS"));
        check(ServerError::UnsupportedVersion, "too old", Misconfigured("TARGET_PROTOCOL_VERSION"));
        check(ServerError::ProducerBlockedQuotaExceededError, "quota", Full);
        check(ServerError::ProducerBlockedQuotaExceededException, "quota", Full);
        check(ServerError::TooManyRequests, "later", Throttled { retry_after: None });
        for error in
            [ServerError::Unknown, ServerError::Persistence, ServerError::ServiceNotReady, ServerError::Checksum]
        {
            check(error, "Topic is temporarily unavailable", Down);
        }
        assert_eq!(target_fault(77, "new").kind, Down);
    }

    #[test]
    fn the_two_meanings_of_a_busy_topic_are_told_apart() {
        let busy = i32::from(ServerError::ProducerBusy);
        assert!(is_name_taken(busy, "Producer with name 'sluice-1' is already connected to topic"));
        assert!(!is_name_taken(busy, "Topic has an existing exclusive producer: sluice-1"));
        assert!(!is_name_taken(0, "Producer with name 'sluice-1' is already connected to topic"));
    }

    #[test]
    fn a_size_is_no_other_refusal() {
        let refused = i32::from(ServerError::NotAllowed);
        assert!(is_too_large(refused, "Exceed maximum message size"));
        assert!(!is_too_large(refused, "Producer is not allowed"));
        assert!(!is_too_large(0, "Exceed maximum message size"));
    }
}
