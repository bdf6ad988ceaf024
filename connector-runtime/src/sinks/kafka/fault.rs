//! What an error of Kafka or of librdkafka means for the record that it was reported for, or for the connection.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};

/// The outcome of a record that was not taken. `reason` is what the connections to the target have said lately.
pub(super) fn outcome(code: Code, reason: Option<&TargetFault>) -> Outcome {
    if let Some(class) = record_class(code) {
        return Outcome::RecordFault(RecordFault::refused(class, code.to_string()));
    }
    match code {
        // Another record of its batch was refused, and with it the batch; or librdkafka has just let go of the broker
        // that led its partition, and knows at the next message who does now, or that nobody does.
        Code::InvalidDifferentRecord | Code::BrokerDestroy => Outcome::TargetFault(held(code.to_string())),
        Code::PurgeQueue | Code::PurgeInflight => Outcome::TargetFault(interrupted()),
        // These say nothing of why: that a password was refused is known from the connections only.
        Code::MessageTimedOut | Code::QueueFull | Code::BrokerTransportFailure | Code::AllBrokersDown => {
            Outcome::TargetFault(because(target_fault(code, &code.to_string()), reason))
        }
        _ => Outcome::TargetFault(target_fault(code, &code.to_string())),
    }
}

/// Errors that are about a record. Many brokers refuse its whole batch with it.
fn record_class(code: Code) -> Option<&'static str> {
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Some("message_too_large"),
        Code::InvalidMessageSize => Some("invalid_message_size"),
        Code::InvalidRecord => Some("invalid_record"),
        Code::InvalidTimestamp => Some("invalid_timestamp"),
        _ => None,
    }
}

/// Some record of the batch is at fault; nothing of the batch was taken.
pub(super) fn is_about_a_record(code: Code) -> bool {
    record_class(code).is_some()
}

pub(super) fn target_fault(code: Code, words: &str) -> TargetFault {
    let kind = match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => TargetFaultKind::Missing,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => TargetFaultKind::Permission,
        Code::Authentication => login_kind(words),
        Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::UnacceptableCredential => TargetFaultKind::Auth,
        // An alert of the broker comes when the connection seems to stand.
        Code::SSL | Code::BrokerTransportFailure => tls_kind(words),
        Code::ThrottlingQuotaExceeded => TargetFaultKind::Throttled { retry_after: None },
        Code::InvalidTopic => TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"),
        Code::UnsupportedCompressionType
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::InvalidRequiredAcks => TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"),
        _ => TargetFaultKind::Down,
    };
    let fault = TargetFault::new(kind, words);
    if ends_the_producer(code) { fault.reopening() } else { fault }
}

/// What an idempotent producer does not recover from: it has lost count with the broker. And a topic that went away: a
/// new producer asks for it, this one would look again in half a minute.
fn ends_the_producer(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::Fatal
            | Code::OutOfOrderSequenceNumber
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::UnknownProducerId
            | Code::ProducerFenced
            | Code::GaplessGuarantee
    )
}

/// librdkafka calls it a failed login when the connection breaks off, or its time is over, while the two agree on how to
/// log in. Its own words for that begin with "Local", what a broker says does not.
fn login_kind(words: &str) -> TargetFaultKind {
    if words.contains("mechanism handshake failed: Local: ") { TargetFaultKind::Down } else { TargetFaultKind::Auth }
}

/// librdkafka gives OpenSSL's words, and one code for all of them.
fn tls_kind(words: &str) -> TargetFaultKind {
    let words = words.to_ascii_lowercase();
    if words.contains("certificate verify failed") {
        return TargetFaultKind::Misconfigured("TARGET_CERTIFICATE");
    }
    // The broker's alert about the certificate that we have shown, or have not.
    if words.contains("alert") && (words.contains("certificate") || words.contains("unknown ca")) {
        return TargetFaultKind::Auth;
    }
    TargetFaultKind::Down
}

fn because(fault: TargetFault, reason: Option<&TargetFault>) -> TargetFault {
    let Some(reason) = reason else { return fault };
    if fault.kind != TargetFaultKind::Down {
        return fault;
    }
    let reopen = fault.reopen || reason.reopen;
    TargetFault { kind: reason.kind, message: format!("{}: {}", fault.message, reason.message).into(), reopen }
}

/// The sink was aborted or closed.
pub(super) fn interrupted() -> TargetFault {
    TargetFault::new(TargetFaultKind::Interrupted, "the connector stops")
}

/// Can be asked again at once.
fn held(message: String) -> TargetFault {
    TargetFault { kind: TargetFaultKind::Interrupted, message: message.into(), reopen: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_the_records_only_when_the_broker_says_so_of_the_record() {
        for (code, class) in [
            (Code::MessageSizeTooLarge, "message_too_large"),
            (Code::MessageBatchTooLarge, "message_too_large"),
            (Code::InvalidMessageSize, "invalid_message_size"),
            (Code::InvalidRecord, "invalid_record"),
            (Code::InvalidTimestamp, "invalid_timestamp"),
        ] {
            let Outcome::RecordFault(fault) = outcome(code, None) else { panic!("{code:?} is the record's") };
            assert_eq!((&*fault.class, fault.offline), (class, false));
        }
        let of_target = |code| match outcome(code, None) {
            Outcome::TargetFault(fault) => (fault.kind, fault.reopen),
            other => panic!("{code:?} is {other:?}"),
        };
        for (code, kind, reopen) in [
            (Code::InvalidDifferentRecord, TargetFaultKind::Interrupted, false),
            (Code::BrokerDestroy, TargetFaultKind::Interrupted, false),
            (Code::PurgeQueue, TargetFaultKind::Interrupted, true),
            (Code::PurgeInflight, TargetFaultKind::Interrupted, true),
            (Code::MessageTimedOut, TargetFaultKind::Down, false),
            (Code::InvalidMessage, TargetFaultKind::Down, false),
            (Code::NotEnoughReplicas, TargetFaultKind::Down, false),
            (Code::KafkaStorageError, TargetFaultKind::Down, false),
            (Code::PolicyViolation, TargetFaultKind::Down, false),
            (Code::Unknown, TargetFaultKind::Down, false),
            (Code::UnknownTopic, TargetFaultKind::Missing, true),
            (Code::UnknownTopicOrPartition, TargetFaultKind::Missing, true),
            (Code::TopicAuthorizationFailed, TargetFaultKind::Permission, true),
            (Code::ClusterAuthorizationFailed, TargetFaultKind::Permission, true),
            (Code::SaslAuthenticationFailed, TargetFaultKind::Auth, true),
            (Code::Fatal, TargetFaultKind::Down, true),
            (Code::OutOfOrderSequenceNumber, TargetFaultKind::Down, true),
            (Code::InvalidProducerEpoch, TargetFaultKind::Down, true),
            (Code::ThrottlingQuotaExceeded, TargetFaultKind::Throttled { retry_after: None }, false),
            (Code::UnsupportedCompressionType, TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"), true),
        ] {
            assert_eq!(of_target(code), (kind, reopen), "{code:?}");
        }
    }

    #[test]
    fn a_connection_that_breaks_off_during_the_login_is_no_refusal() {
        let of = |end: &str| {
            let words =
                format!("SASL SCRAM-SHA-512 mechanism handshake failed: {end}: broker's supported mechanisms: ");
            target_fault(Code::Authentication, &words).kind
        };
        assert_eq!(of("Local: Broker transport failure"), TargetFaultKind::Down);
        assert_eq!(of("Local: Timed out"), TargetFaultKind::Down);
        assert_eq!(of("Broker: Unsupported SASL mechanism"), TargetFaultKind::Auth);
        let refused =
            "SASL authentication error: Authentication failed during authentication due to invalid credentials";
        assert_eq!(target_fault(Code::Authentication, refused).kind, TargetFaultKind::Auth);
    }

    #[test]
    fn a_time_out_gets_the_reason_that_the_connections_gave() {
        let reason = target_fault(Code::Authentication, "SASL authentication error: Invalid username or password");
        let Outcome::TargetFault(fault) = outcome(Code::MessageTimedOut, Some(&reason)) else { panic!() };
        assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Auth, true));
        assert!(fault.message.ends_with("Invalid username or password"), "{}", fault.message);
        // Any other answer is an answer.
        // Another broker's answer is its own.
        let Outcome::TargetFault(fault) = outcome(Code::NotEnoughReplicas, Some(&reason)) else { panic!() };
        assert_eq!(fault.kind, TargetFaultKind::Down);
        let Outcome::TargetFault(fault) = outcome(Code::UnknownTopicOrPartition, Some(&reason)) else { panic!() };
        assert_eq!(fault.kind, TargetFaultKind::Missing);
    }
}
