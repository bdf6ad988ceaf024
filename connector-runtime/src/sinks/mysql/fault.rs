//! What an error of the server means, by its number; where that is not known, by its SQLSTATE.
//!
//! | number | whose | what |
//! |---|---|---|
//! | 1062, 1048, 1264, 1366, 1406, 4025, … and SQLSTATE 22, 23, 44 | the record's | data and constraints |
//! | 1044, 1045, 1698, … | the target's | login |
//! | 1142, 1143, 1227, 1370 | the target's | permission |
//! | 1049, 1146, 1054, … | the target's | database, table or column is missing |
//! | 1064, 1364, …, SQLSTATE 42, 0A | the target's | the statement does not fit the table |
//! | 1021, 1114, 167, 1467, error 28 of a storage engine | the target's | disk full, or no number left |
//! | everything else (1205, 1213, 1040, 1290, …), and no answer at all | the target's, down | |

use super::answer::{AnswerError, ServerError};
use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;
use crate::sinks::shared::cause::connect_kind;
use crate::sinks::shared::relational::{DOES_NOT_FIT, Judgement};

/// The server cuts its messages off at 512 bytes; a trigger's may be longer.
const MESSAGE_CHARS_MAX: usize = 1_024;

/// A row with this key is there already.
pub(super) const DUPLICATE: u16 = 1062;
const LOCK_WAIT: u16 = 1205;
const DEADLOCK: u16 = 1213;

pub(super) fn judge(error: &AnswerError) -> Judgement {
    match error {
        AnswerError::Server(error) => match kind(error) {
            Some(kind) => Judgement::Target(TargetFault::new(kind, words(error))),
            None => Judgement::Record(record_fault(error)),
        },
        AnswerError::Io(_) => Judgement::Target(TargetFault::new(connect_kind(error), chain(error))),
        AnswerError::Protocol(_) => Judgement::Target(TargetFault::new(TargetFaultKind::Down, chain(error))),
    }
}

/// Of an error that has nothing to do with a record.
pub(super) fn target_fault(error: &AnswerError) -> TargetFault {
    match judge(error) {
        Judgement::Target(fault) => fault,
        Judgement::Record(fault) => TargetFault::new(DOES_NOT_FIT, fault.message),
    }
}

pub(super) fn record_fault(error: &ServerError) -> RecordFault {
    RecordFault::refused(format!("mysql_{}", error.code), words(error))
}

/// Somebody else held what was wanted; the connection, and what is known of the table, are as good as before.
pub(super) fn is_of_a_lock(error: &ServerError) -> bool {
    [LOCK_WAIT, DEADLOCK].contains(&error.code)
}

/// `None`: the record's own.
fn kind(error: &ServerError) -> Option<TargetFaultKind> {
    let engine_is_full = error.code == 1030 && error.message.contains(" 28 ");
    Some(match error.code {
        _ if engine_is_full => TargetFaultKind::Full,
        // Null, duplicate, out of range, truncated, wrong form, too long, foreign keys, checks, partitions, JSON.
        1022
        | 1048
        | DUPLICATE
        | 1118
        | 1153
        | 1169
        | 1216
        | 1217
        | 1264
        | 1265
        | 1292
        | 1300
        | 1301
        | 1365
        | 1366
        | 1367
        | 1369
        | 1406
        | 1411
        | 1416
        | 1441
        | 1451
        | 1452
        | 1525
        | 1526
        | 1557
        | 1586
        | 1690
        | 1748
        | 1761
        | 1762
        | 1859
        | 1863
        | 3140..=3158
        | 3819
        | 3854
        | 3988
        | 4025 => return None,
        // The last two: AUTO_INCREMENT has no number left.
        1021 | 1114 | 167 | 1467 => TargetFaultKind::Full,
        // Host or user not known, password wrong, expired or to be changed, account locked, way of authentication.
        1044 | 1045 | 1130 | 1251 | 1524 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => TargetFaultKind::Auth,
        1142 | 1143 | 1227 | 1370 => TargetFaultKind::Permission,
        1049 | 1051 | 1054 | 1109 | 1146 | 1305 => TargetFaultKind::Missing,
        // Ambiguous column, no default value, not updatable, unsupported as prepared, binary log by statement.
        1052 | 1064 | 1136 | 1149 | 1267 | 1271 | 1288 | 1295 | 1348 | 1356 | 1364 | 1393 | 1394 | 1423 | 1442
        | 1449 | 1471 | 1662 | 1665 | 1906 | 3105 => DOES_NOT_FIT,
        // Limits of users, connections and statements have SQLSTATE 42000 too.
        1203 | 1226 | 1461 | LOCK_WAIT | DEADLOCK => TargetFaultKind::Down,
        _ => match error.state.get(..2).unwrap_or_default() {
            "22" | "23" | "44" => return None,
            "28" => TargetFaultKind::Auth,
            "0A" | "42" => DOES_NOT_FIT,
            _ => TargetFaultKind::Down,
        },
    })
}

fn words(error: &ServerError) -> String {
    let text = error.to_string();
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u16, state: &str) -> ServerError {
        ServerError { code, state: state.to_owned(), message: String::new() }
    }

    #[test]
    fn a_number_says_whose_fault_it_is() {
        for (code, state) in [
            (1062, "23000"),
            (1048, "23000"),
            (1264, "22003"),
            (1265, "01000"),
            (1292, "22007"),
            (1366, "22007"),
            (1366, "HY000"),
            (1406, "22001"),
            (1452, "23000"),
            (3140, "22032"),
            (3819, "HY000"),
            (4025, "23000"),
            (1644, "22000"),
            (1644, "23000"),
            (1644, "44000"),
        ] {
            assert_eq!(kind(&error(code, state)), None, "{code} {state}");
        }
        for (code, state, expect) in [
            (1205, "HY000", TargetFaultKind::Down),
            (1213, "40001", TargetFaultKind::Down),
            (2006, "HY000", TargetFaultKind::Down),
            (2013, "HY000", TargetFaultKind::Down),
            (1040, "08004", TargetFaultKind::Down),
            (1203, "42000", TargetFaultKind::Down),
            (1226, "42000", TargetFaultKind::Down),
            (1290, "HY000", TargetFaultKind::Down),
            (1836, "HY000", TargetFaultKind::Down),
            (1053, "08S01", TargetFaultKind::Down),
            (1317, "70100", TargetFaultKind::Down),
            (1644, "45000", TargetFaultKind::Down),
            (0, "", TargetFaultKind::Down),
            (1044, "42000", TargetFaultKind::Auth),
            (1045, "28000", TargetFaultKind::Auth),
            (1698, "28000", TargetFaultKind::Auth),
            (1142, "42000", TargetFaultKind::Permission),
            (1143, "42000", TargetFaultKind::Permission),
            (1227, "42000", TargetFaultKind::Permission),
            (1049, "42000", TargetFaultKind::Missing),
            (1146, "42S02", TargetFaultKind::Missing),
            (1054, "42S22", TargetFaultKind::Missing),
            (1052, "23000", DOES_NOT_FIT),
            (1064, "42000", DOES_NOT_FIT),
            (1136, "21S01", DOES_NOT_FIT),
            (1364, "HY000", DOES_NOT_FIT),
            (1235, "42000", DOES_NOT_FIT),
            (1021, "HY000", TargetFaultKind::Full),
            (1114, "HY000", TargetFaultKind::Full),
            (167, "22003", TargetFaultKind::Full),
            (1467, "HY000", TargetFaultKind::Full),
        ] {
            assert_eq!(kind(&error(code, state)), Some(expect), "{code} {state}");
        }
        let engine = |message: &str| kind(&ServerError { message: message.into(), ..error(1030, "HY000") });
        let full = "Got error 28 \"No space left on device\" from storage engine InnoDB";
        assert_eq!(engine(full), Some(TargetFaultKind::Full));
        assert_eq!(engine("Got error 128 \"Key error\" from storage engine"), Some(TargetFaultKind::Down));
    }
}
