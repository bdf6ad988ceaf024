//! What a reply of Redis means, by its first word.
//!
//! | reply | whose | what |
//! |---|---|---|
//! | WRONGTYPE, CROSSSLOT, BUSYKEY, BUSYGROUP, INVALIDOBJ | the record's | this command does not go with this key |
//! | ERR, unless named below | the record's | arity, syntax, ranges, a value that is no number |
//! | ERR unknown command, unknown subcommand | the target's | the template's command is not known there |
//! | ERR max number of clients, … while the cluster is down | the target's, down | |
//! | ERR ACL failure in script | the target's | permission |
//! | ERR Error running script …: -OOM … | as OOM | what Redis 6 makes of a target's error inside a script |
//! | NOSCRIPT, NOGROUP, ERR Function not found | the target's, missing | nobody has loaded or made it |
//! | NOAUTH, WRONGPASS | the target's | login |
//! | NOPERM, DENIED | the target's | permission |
//! | OOM, MISCONF | the target's, full | memory, disk |
//! | MOVED, ASK | nobody's | another node of the cluster has the slot |
//! | every other | the target's, down | LOADING, READONLY, CLUSTERDOWN, TRYAGAIN, BUSY, MASTERDOWN, NOREPLICAS, … |

use redis::{RedisError, ServerError};

use super::address::Address;
use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;
use crate::sinks::shared::cause::connect_kind;

/// A script's error may repeat its whole input.
const MESSAGE_CHARS_MAX: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Record(RecordFault),
    Target(TargetFault),
    /// The slot belongs to the server there from now on.
    Moved(Address),
    /// The key is there already, the slot is not.
    Ask(Address),
}

/// Words that say after ERR what is wrong, and that it is not the record. In Redis's own letters.
const ERR_OF_THE_TARGET: [(&str, TargetFaultKind); 10] = [
    ("unknown command", TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND")),
    ("unknown subcommand", TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND")),
    ("max number of clients reached", TargetFaultKind::Down),
    ("Function not found", TargetFaultKind::Missing),
    ("cluster support disabled", TargetFaultKind::Misconfigured("TARGET_NOT_CLUSTER")),
    ("operation not permitted", TargetFaultKind::Auth),
    // Inside a script.
    ("ACL failure in script", TargetFaultKind::Permission),
    ("The user executing the script", TargetFaultKind::Permission),
    ("Unknown Redis command called from", TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND")),
    ("while the cluster is down", TargetFaultKind::Down),
];

/// Codes of the target that Redis 6 puts behind ERR when they end a script. No others: a script's own words may have
/// the same form.
const CODES_IN_A_SCRIPT: [&str; 5] = ["OOM", "MISCONF", "READONLY", "NOREPLICAS", "CLUSTERDOWN"];

pub(super) fn judge(error: &ServerError) -> Judgement {
    judge_reply(error.code(), error.details().unwrap_or_default())
}

/// Also of a command that a script ran.
pub(super) fn is_read_only(error: &ServerError) -> bool {
    let details = error.details().unwrap_or_default();
    error.code() == "READONLY"
        || (error.code() == "ERR" && in_script(details).is_some_and(|(code, _)| code == "READONLY"))
}

/// `Error running script (call to f_…): @user_script:1: @user_script: 1: -OOM command not allowed …`: code and rest.
fn in_script(details: &str) -> Option<(&str, &str)> {
    let (_, said) = details.strip_prefix("Error running script")?.split_once(": -")?;
    said.split_once(' ').filter(|(code, _)| CODES_IN_A_SCRIPT.contains(code))
}

fn judge_reply(code: &str, details: &str) -> Judgement {
    if code == "ERR"
        && let Some((code, details)) = in_script(details)
    {
        return judge_reply(code, details);
    }
    let target = |kind| Judgement::Target(TargetFault::new(kind, words(code, details)));
    match code {
        "WRONGTYPE" | "CROSSSLOT" | "BUSYKEY" | "BUSYGROUP" | "INVALIDOBJ" => record(code, details),
        "ERR" => match ERR_OF_THE_TARGET.iter().find(|(said, _)| details.contains(said)) {
            Some((_, kind)) => target(*kind),
            None => record(code, details),
        },
        "MOVED" | "ASK" => match details.split_once(' ').and_then(|(_, address)| Address::parse(address)) {
            Some(address) if code == "MOVED" => Judgement::Moved(address),
            Some(address) => Judgement::Ask(address),
            None => target(TargetFaultKind::Down),
        },
        "NOSCRIPT" | "NOGROUP" => target(TargetFaultKind::Missing),
        "NOAUTH" | "WRONGPASS" => target(TargetFaultKind::Auth),
        "NOPERM" | "DENIED" => target(TargetFaultKind::Permission),
        "OOM" | "MISCONF" => target(TargetFaultKind::Full),
        _ => target(TargetFaultKind::Down),
    }
}

fn record(code: &str, details: &str) -> Judgement {
    Judgement::Record(RecordFault::refused(format!("redis_{}", code.to_ascii_lowercase()), words(code, details)))
}

/// Of a reply that no record has caused.
pub(super) fn target_fault(error: &ServerError) -> TargetFault {
    match judge(error) {
        Judgement::Target(fault) => fault,
        Judgement::Record(_) | Judgement::Moved(_) | Judgement::Ask(_) => down(server_words(error)),
    }
}

/// The server's own words on one line.
pub(super) fn server_words(error: &ServerError) -> String {
    words(error.code(), error.details().unwrap_or_default())
}

fn words(code: &str, details: &str) -> String {
    let text = format!("{code} {details}");
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.trim_end().to_owned(),
    }
}

pub(super) fn down(message: impl Into<std::sync::Arc<str>>) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, message)
}

pub(super) fn interrupted(message: &'static str) -> TargetFault {
    TargetFault::new(TargetFaultKind::Interrupted, message)
}

/// A connection that broke.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> TargetFault {
    TargetFault::new(connect_kind(error), chain(error))
}

/// What came is no reply, or nothing came any more.
pub(super) fn unreadable(error: &RedisError) -> TargetFault {
    if error.is_connection_dropped() {
        return down("the server closed the connection");
    }
    broken(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, details: &str) -> Option<TargetFaultKind> {
        match judge_reply(code, details) {
            Judgement::Target(fault) => Some(fault.kind),
            Judgement::Record(_) => None,
            redirection => panic!("{redirection:?}"),
        }
    }

    #[test]
    fn the_first_word_says_whose_fault_it_is() {
        for (code, details) in [
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value"),
            ("ERR", "wrong number of arguments for 'set' command"),
            ("ERR", "syntax error"),
            ("ERR", "value is not an integer or out of range"),
            ("ERR", "The ID specified in XADD is equal or smaller than the target stream top item"),
            ("ERR", "Protocol error: invalid bulk length"),
            ("CROSSSLOT", "Keys in request don't hash to the same slot"),
        ] {
            assert_eq!(kind(code, details), None, "{code} {details}");
        }
        for (code, details, expect) in [
            ("LOADING", "Redis is loading the dataset in memory", TargetFaultKind::Down),
            ("READONLY", "You can't write against a read only replica.", TargetFaultKind::Down),
            ("CLUSTERDOWN", "The cluster is down", TargetFaultKind::Down),
            ("TRYAGAIN", "Multiple keys request during rehashing of slot", TargetFaultKind::Down),
            ("MASTERDOWN", "Link with MASTER is down", TargetFaultKind::Down),
            ("BUSY", "Redis is busy running a script", TargetFaultKind::Down),
            ("UNKILLABLE", "Sorry the script already executed write commands", TargetFaultKind::Down),
            ("NOREPLICAS", "Not enough good replicas to write.", TargetFaultKind::Down),
            ("EXECABORT", "Transaction discarded", TargetFaultKind::Down),
            ("SOMETHING", "a module or a script says", TargetFaultKind::Down),
            ("MOVED", "nowhere", TargetFaultKind::Down),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", TargetFaultKind::Full),
            ("MISCONF", "Redis is configured to save RDB snapshots", TargetFaultKind::Full),
            ("NOAUTH", "Authentication required.", TargetFaultKind::Auth),
            ("WRONGPASS", "invalid username-password pair or user is disabled.", TargetFaultKind::Auth),
            ("NOPERM", "this user has no permissions to run the 'xadd' command", TargetFaultKind::Permission),
            ("NOSCRIPT", "No matching script. Please use EVAL.", TargetFaultKind::Missing),
            ("ERR", "Function not found", TargetFaultKind::Missing),
            ("ERR", "max number of clients reached", TargetFaultKind::Down),
            (
                "ERR",
                "unknown command 'LPUHS', with args beginning with: 'a' ",
                TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND"),
            ),
        ] {
            assert_eq!(kind(code, details), Some(expect), "{code} {details}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_target_inside_a_script_is_not_the_record() {
        let running = "Error running script (call to f_7e97f10b8c): @user_script:1: ";
        for (details, expect) in [
            (
                "ACL failure in script: User sluice has no permissions to run the 'xadd' command script: f_7e, on \
                 @user_script:1.",
                TargetFaultKind::Permission,
            ),
            (
                "Unknown Redis command called from script script: f_7e97f10b8c, on @user_script:1.",
                TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND"),
            ),
            ("Script attempted to access keys while the cluster is down", TargetFaultKind::Down),
        ] {
            assert_eq!(kind("ERR", details), Some(expect), "{details}");
        }
        for (said, expect) in [
            ("-OOM command not allowed when used memory > 'maxmemory'.", TargetFaultKind::Full),
            ("-MISCONF Redis is configured to save RDB snapshots", TargetFaultKind::Full),
            ("-READONLY You can't write against a read only replica.", TargetFaultKind::Down),
            ("-NOREPLICAS Not enough good replicas to write.", TargetFaultKind::Down),
            ("-CLUSTERDOWN The cluster is down", TargetFaultKind::Down),
            ("The user executing the script can't run this command or subcommand", TargetFaultKind::Permission),
            ("Unknown Redis command called from Lua script", TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND")),
        ] {
            let details = format!("{running}@user_script: 1: {said}");
            assert_eq!(kind("ERR", &details), Some(expect), "{details}");
        }
        for said in ["WRONGTYPE Operation against a key", "out of range: -5 degrees", "out of range: -5: -OOM x"] {
            assert_eq!(kind("ERR", &format!("{running}{said}")), None, "{said}");
        }
        assert_eq!(kind("ERR", "as told: -OOM x"), None, "a script's own words");
    }

    #[test]
    fn redirections_name_the_server() {
        assert_eq!(judge_reply("MOVED", "3999 127.0.0.1:6381"), Judgement::Moved(Address::new("127.0.0.1", 6_381)));
        assert_eq!(judge_reply("ASK", "3999 ::1:6381"), Judgement::Ask(Address::new("::1", 6_381)));
        assert_eq!(judge_reply("MOVED", "3999 :6381"), Judgement::Moved(Address::new("", 6_381)));
    }
}
