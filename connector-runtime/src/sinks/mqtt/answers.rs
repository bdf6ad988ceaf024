//! What the target's reason codes mean for a record, and for the connection.

use super::config::ProtocolVersion;
use super::suspects::{Cause, Loss};
use super::wire::{Answer, Connack, FAILURE};
use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};

/// Of the target's words: enough to know why, little beside a record in a dead letter.
const WORDS_CHARS_MAX: usize = 512;
const NOT_AUTHORIZED: u8 = 0x87;
const SERVER_BUSY: u8 = 0x89;
const SERVER_SHUTTING_DOWN: u8 = 0x8b;
const KEEP_ALIVE_TIMEOUT: u8 = 0x8d;
const SESSION_TAKEN_OVER: u8 = 0x8e;
const TOPIC_NAME_INVALID: u8 = 0x90;
const PACKET_ID_IN_USE: u8 = 0x91;
const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
const PACKET_TOO_LARGE: u8 = 0x95;
const RATE_TOO_HIGH: u8 = 0x96;
const QUOTA_EXCEEDED: u8 = 0x97;
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
const RETAIN_NOT_SUPPORTED: u8 = 0x9a;
const QOS_NOT_SUPPORTED: u8 = 0x9b;
const USE_ANOTHER_SERVER: u8 = 0x9c;
const SERVER_MOVED: u8 = 0x9d;
const CONNECTION_RATE_EXCEEDED: u8 = 0x9f;
const MAXIMUM_CONNECT_TIME: u8 = 0xa0;

/// Of PUBACK and PUBREC.
pub(super) fn outcome(answer: &Answer) -> Outcome {
    match answer.reason {
        0..FAILURE => Outcome::Delivered,
        reason => refused(reason, answer.words.as_deref()),
    }
}

fn refused(reason: u8, words: Option<&str>) -> Outcome {
    let message = || said("the message", reason, words);
    let record = |class: &'static str| Outcome::RecordFault(RecordFault::refused(class, message()));
    let fault = |kind| TargetFault::new(kind, message());
    match reason {
        TOPIC_NAME_INVALID => record("topic_name_invalid"),
        PAYLOAD_FORMAT_INVALID => record("payload_format_invalid"),
        PACKET_TOO_LARGE => record("packet_too_large"),
        // It concerns this topic; a new connection of the same user would not change it.
        NOT_AUTHORIZED => Outcome::TargetFault(TargetFault { reopen: false, ..fault(TargetFaultKind::Permission) }),
        QUOTA_EXCEEDED | RECEIVE_MAXIMUM_EXCEEDED | RATE_TOO_HIGH => {
            Outcome::TargetFault(fault(TargetFaultKind::Throttled { retry_after: None }))
        }
        // The target and this client disagree about the session: a new sink begins it anew.
        PACKET_ID_IN_USE => Outcome::TargetFault(fault(TargetFaultKind::Down).reopening()),
        _ => Outcome::TargetFault(fault(TargetFaultKind::Down)),
    }
}

/// Of CONNACK; `None` when the connection stands.
pub(super) fn refusal(version: ProtocolVersion, connack: &Connack) -> Option<TargetFault> {
    let misconfigured = TargetFaultKind::Misconfigured;
    let kind = match connack.reason {
        0 => return None,
        // The return codes of 3.1 and 3.1.1; a target that knows no other version sends them in answer to version 5.
        1 | 0x84 => misconfigured("TARGET_PROTOCOL_VERSION"),
        2 | 0x85 => misconfigured("TARGET_CLIENT_ID"),
        4 | 5 | 0x86 | NOT_AUTHORIZED | 0x8c => TargetFaultKind::Auth,
        0x8a => TargetFaultKind::Permission,
        QUOTA_EXCEEDED | CONNECTION_RATE_EXCEEDED => TargetFaultKind::Throttled { retry_after: None },
        RETAIN_NOT_SUPPORTED => misconfigured("TARGET_RETAIN"),
        QOS_NOT_SUPPORTED => misconfigured("TARGET_QOS"),
        USE_ANOTHER_SERVER | SERVER_MOVED => misconfigured("TARGET_MOVED"),
        3 | 0x88 | SERVER_BUSY => TargetFaultKind::Down,
        _ => TargetFaultKind::Down,
    };
    let code = connack.reason;
    let name = return_code(version, code).map_or_else(
        || said("the connection", code, connack.words.as_deref()),
        |name| format!("the target refuses the connection: {name} (return code {code})"),
    );
    Some(TargetFault::new(kind, name))
}

fn return_code(version: ProtocolVersion, code: u8) -> Option<&'static str> {
    match code {
        1 if version == ProtocolVersion::V5 => Some("it does not speak MQTT 5"),
        1 => Some("unacceptable protocol version"),
        2 => Some("client id rejected"),
        3 => Some("server unavailable"),
        4 => Some("bad user name or password"),
        5 => Some("not authorized"),
        _ => None,
    }
}

/// What a DISCONNECT of the target means.
#[derive(Clone, Debug)]
pub(super) enum Closing {
    /// Connecting again at once would not help, or harm.
    Final(TargetFault),
    Passing(Loss),
}

pub(super) fn closing(reason: u8, words: Option<&str>) -> Closing {
    let fault = |kind| TargetFault::new(kind, said("to go on", reason, words));
    let passing = |cause| Closing::Passing(Loss { fault: fault(TargetFaultKind::Down), cause });
    let kind = match reason {
        // Whoever took it over may be the new owner of this connector: the pipeline asks its lease before it goes on.
        SESSION_TAKEN_OVER => TargetFaultKind::Down,
        USE_ANOTHER_SERVER | SERVER_MOVED => TargetFaultKind::Misconfigured("TARGET_MOVED"),
        RETAIN_NOT_SUPPORTED => TargetFaultKind::Misconfigured("TARGET_RETAIN"),
        QOS_NOT_SUPPORTED => TargetFaultKind::Misconfigured("TARGET_QOS"),
        QUOTA_EXCEEDED | RATE_TOO_HIGH | CONNECTION_RATE_EXCEEDED => TargetFaultKind::Throttled { retry_after: None },
        // What these mean of a message in an acknowledgement, they mean of it here.
        TOPIC_NAME_INVALID | PAYLOAD_FORMAT_INVALID | PACKET_TOO_LARGE | NOT_AUTHORIZED => {
            return passing(Cause::Refused(refused(reason, words)));
        }
        SERVER_BUSY | SERVER_SHUTTING_DOWN | KEEP_ALIVE_TIMEOUT | ADMINISTRATIVE_ACTION | MAXIMUM_CONNECT_TIME => {
            return passing(Cause::Unrelated);
        }
        _ => return passing(Cause::Closed),
    };
    Closing::Final(fault(kind).reopening())
}

fn said(what: &str, reason: u8, words: Option<&str>) -> String {
    let name = reason_name(reason);
    match words {
        Some(words) => {
            let words: String = words.chars().take(WORDS_CHARS_MAX).collect();
            format!("the target refuses {what}: {name} (0x{reason:02x}): {words}")
        }
        None => format!("the target refuses {what}: {name} (0x{reason:02x})"),
    }
}

fn reason_name(reason: u8) -> &'static str {
    match reason {
        0 => "normal disconnection",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client id not valid",
        0x86 => "bad user name or password",
        NOT_AUTHORIZED => "not authorized",
        0x88 => "server unavailable",
        SERVER_BUSY => "server busy",
        0x8a => "banned",
        SERVER_SHUTTING_DOWN => "server shutting down",
        0x8c => "bad authentication method",
        KEEP_ALIVE_TIMEOUT => "keep alive timeout",
        SESSION_TAKEN_OVER => "session taken over by another client with this client id",
        TOPIC_NAME_INVALID => "topic name invalid",
        PACKET_ID_IN_USE => "packet identifier in use",
        RECEIVE_MAXIMUM_EXCEEDED => "receive maximum exceeded",
        PACKET_TOO_LARGE => "packet too large",
        RATE_TOO_HIGH => "message rate too high",
        QUOTA_EXCEEDED => "quota exceeded",
        ADMINISTRATIVE_ACTION => "administrative action",
        PAYLOAD_FORMAT_INVALID => "payload format invalid",
        RETAIN_NOT_SUPPORTED => "retain not supported",
        QOS_NOT_SUPPORTED => "QoS not supported",
        USE_ANOTHER_SERVER => "use another server",
        SERVER_MOVED => "server moved",
        CONNECTION_RATE_EXCEEDED => "connection rate exceeded",
        MAXIMUM_CONNECT_TIME => "maximum connect time",
        _ => "unspecified error",
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn acknowledgements_mean_what_the_page_says() {
        let outcome = |reason| outcome(&Answer { packet_id: NonZeroU16::MIN, reason, words: Some("so".into()) });
        for reason in [0, 0x10] {
            assert_eq!(outcome(reason), Outcome::Delivered, "{reason:#x}");
        }
        for (reason, class) in
            [(0x90, "topic_name_invalid"), (0x95, "packet_too_large"), (0x99, "payload_format_invalid")]
        {
            let Outcome::RecordFault(fault) = outcome(reason) else { panic!("{reason:#x}") };
            assert_eq!((&*fault.class, fault.offline), (class, false));
            assert!(fault.message.ends_with(": so"), "{}", fault.message);
        }
        let throttled = TargetFaultKind::Throttled { retry_after: None };
        for (reason, kind, reopen) in [
            (0x80, TargetFaultKind::Down, false),
            (0x83, TargetFaultKind::Down, false),
            (0x87, TargetFaultKind::Permission, false),
            (0x91, TargetFaultKind::Down, true),
            (0x93, throttled, false),
            (0x97, throttled, false),
            (0xff, TargetFaultKind::Down, false),
        ] {
            let Outcome::TargetFault(fault) = outcome(reason) else { panic!("{reason:#x}") };
            assert_eq!((fault.kind, fault.reopen), (kind, reopen), "{reason:#x}");
        }
    }

    #[test]
    fn long_words_of_the_target_are_cut() {
        let words = Some("ü".repeat(60_000));
        let answer = Answer { packet_id: NonZeroU16::MIN, reason: 0x90, words: words.clone() };
        let Outcome::RecordFault(fault) = outcome(&answer) else { panic!("is refused") };
        let connack = Connack { reason: 0x86, words, ..Connack::default() };
        let refused = refusal(ProtocolVersion::V5, &connack).expect("is refused");
        for message in [fault.message, refused.message] {
            assert!((512..700).contains(&message.chars().count()), "{message}");
        }
    }

    #[test]
    fn refused_connections_mean_what_the_page_says() {
        let misconfigured = TargetFaultKind::Misconfigured;
        for (version, reason, kind) in [
            (ProtocolVersion::V3, 1, misconfigured("TARGET_PROTOCOL_VERSION")),
            (ProtocolVersion::V4, 2, misconfigured("TARGET_CLIENT_ID")),
            (ProtocolVersion::V4, 3, TargetFaultKind::Down),
            (ProtocolVersion::V4, 4, TargetFaultKind::Auth),
            (ProtocolVersion::V4, 5, TargetFaultKind::Auth),
            (ProtocolVersion::V5, 1, misconfigured("TARGET_PROTOCOL_VERSION")),
            (ProtocolVersion::V5, 0x84, misconfigured("TARGET_PROTOCOL_VERSION")),
            (ProtocolVersion::V5, 0x85, misconfigured("TARGET_CLIENT_ID")),
            (ProtocolVersion::V5, 0x86, TargetFaultKind::Auth),
            (ProtocolVersion::V5, 0x87, TargetFaultKind::Auth),
            (ProtocolVersion::V5, 0x88, TargetFaultKind::Down),
            (ProtocolVersion::V5, 0x89, TargetFaultKind::Down),
            (ProtocolVersion::V5, 0x8a, TargetFaultKind::Permission),
            (ProtocolVersion::V5, 0x97, TargetFaultKind::Throttled { retry_after: None }),
            (ProtocolVersion::V5, 0x9d, misconfigured("TARGET_MOVED")),
            (ProtocolVersion::V5, 0xff, TargetFaultKind::Down),
        ] {
            let fault = refusal(version, &Connack { reason, ..Connack::default() });
            assert_eq!(fault.map(|fault| fault.kind), Some(kind), "{version:?} {reason:#x}");
        }
        assert_eq!(refusal(ProtocolVersion::V5, &Connack::default()), None);
    }

    #[test]
    fn whoever_is_taken_over_or_sent_away_does_not_come_back_at_once() {
        for (reason, is_final) in [(0x8e, true), (0x97, true), (0x9c, true), (0x8b, false), (0x87, false), (0, false)] {
            let reopen = match closing(reason, None) {
                Closing::Final(fault) => fault.reopen,
                Closing::Passing(loss) => loss.fault.reopen,
            };
            assert_eq!(reopen, is_final, "{reason:#x}");
        }
    }

    #[test]
    fn a_closing_that_is_about_a_message_says_the_same_as_its_acknowledgement() {
        for reason in [0x87, 0x90, 0x95, 0x99] {
            let acknowledged = outcome(&Answer { packet_id: NonZeroU16::MIN, reason, words: None });
            let Closing::Passing(Loss { fault, cause: Cause::Refused(refused) }) = closing(reason, None) else {
                panic!("{reason:#x}")
            };
            assert_eq!((refused, fault.kind), (acknowledged, TargetFaultKind::Down), "{reason:#x}");
        }
    }
}
