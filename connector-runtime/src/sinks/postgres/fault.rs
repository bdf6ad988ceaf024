//! What an error of PostgreSQL means, by its SQLSTATE.
//!
//! | SQLSTATE | whose | what |
//! |---|---|---|
//! | 22, 23, 44, 21000 | the record's | data and constraints; 21000: rows of one statement that meet |
//! | 54, 42601, 42622, while rows are written | the record's | a value beyond a limit, or that its type cannot read |
//! | XX000, while rows are written from text | the record's | the same, by types that have no code for it |
//! | 22P03 | the target's, down | our own form of a value does not fit: its column has changed since it was looked at |
//! | 28 | the target's | login |
//! | 3D000, 3F000, 42P01, 42703 | the target's | database, schema, table or column is missing |
//! | 42501 | the target's | permission |
//! | 42501, while rows are written, by row-level security | the record's | a policy does not take this row |
//! | other 42, 0A | the target's | the statement does not fit the table |
//! | 53100 | the target's | disk full |
//! | everything else, and no answer at all | the target's, down | |

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;
use crate::sinks::shared::cause::connect_kind;
use crate::sinks::shared::relational::{DOES_NOT_FIT, Judgement};

/// A detail shows the whole row, which may be large.
const MESSAGE_CHARS_MAX: usize = 1_024;

pub(super) fn judge(error: &Error) -> Judgement {
    let Some(answer) = error.as_db_error() else {
        return Judgement::Target(TargetFault::new(connect_kind(error), chain(error)));
    };
    match kind(answer.code().code()) {
        Some(kind) => Judgement::Target(TargetFault::new(kind, words(answer))),
        None => Judgement::Record(record_fault(answer)),
    }
}

/// Of an error of a statement that was prepared before: what only a value can be the cause of is its record's. Waiting
/// would not help it, and everything behind it would wait too.
pub(super) fn judge_rows(error: &Error, from_text: bool) -> Judgement {
    match error.as_db_error() {
        Some(answer) if is_of_a_value(answer.code().code(), from_text) || is_of_a_policy(answer) => {
            Judgement::Record(record_fault(answer))
        }
        Some(_) | None => judge(error),
    }
}

/// Depth of JSON, size of an index's row; labels of ltree. `from_text`: some values are read from text by their type,
/// and some types (hstore) refuse it as an internal error.
fn is_of_a_value(code: &str, from_text: bool) -> bool {
    class(code) == "54" || ["42601", "42622"].contains(&code) || (from_text && code == "XX000")
}

/// A policy refuses rows with the code of a missing right; the server's routine, in no language, tells them apart.
fn is_of_a_policy(answer: &DbError) -> bool {
    answer.code().code() == NO_PERMISSION && answer.routine() == Some("ExecWithCheckOptions")
}

fn record_fault(answer: &DbError) -> RecordFault {
    let class = format!("sqlstate_{}", answer.code().code().to_ascii_lowercase());
    RecordFault::refused(class, words(answer))
}

/// Of an error that has nothing to do with a record.
pub(super) fn target_fault(error: &Error) -> TargetFault {
    match judge(error) {
        Judgement::Target(fault) => fault,
        Judgement::Record(fault) => TargetFault::new(DOES_NOT_FIT, fault.message),
    }
}

/// The connection is as good as before, once its transaction was rolled back.
pub(super) fn is_harmless(judgement: &Judgement, error: &Error) -> bool {
    let code = error.as_db_error().map(|answer| answer.code().code());
    match judgement {
        Judgement::Record(_) => true,
        Judgement::Target(_) => code.is_some_and(|code| ["40", "53", "55"].contains(&class(code))),
    }
}

const INVALID_BINARY: &str = "22P03";
const ROWS_MEET: &str = "21000";
const DISK_FULL: &str = "53100";
const NO_PERMISSION: &str = "42501";

/// `None`: the record's own.
fn kind(code: &str) -> Option<TargetFaultKind> {
    Some(match code {
        INVALID_BINARY => TargetFaultKind::Down,
        ROWS_MEET => return None,
        DISK_FULL => TargetFaultKind::Full,
        NO_PERMISSION => TargetFaultKind::Permission,
        "3D000" | "3F000" | "42P01" | "42703" => TargetFaultKind::Missing,
        _ => match class(code) {
            "22" | "23" | "44" => return None,
            "28" => TargetFaultKind::Auth,
            "0A" | "42" => DOES_NOT_FIT,
            _ => TargetFaultKind::Down,
        },
    })
}

fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

/// The server's own, on one line.
fn words(answer: &DbError) -> String {
    let mut text = format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    for more in [answer.detail(), answer.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The number of the row, from 1, at which a COPY into this table failed. It stands in the error's context, in English
/// only: `COPY readings, line 17, column payload`.
pub(super) fn copied_line(error: &Error, table: &str) -> Option<usize> {
    line_in(error.as_db_error()?.where_()?, table)
}

fn line_in(context: &str, table: &str) -> Option<usize> {
    context.lines().find_map(|line| {
        let rest = line.strip_prefix("COPY ")?.strip_prefix(table)?.strip_prefix(", line ")?;
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_whose_fault_it_is() {
        for code in ["22001", "22021", "22P02", "23502", "23505", "23514", "44000", "21000"] {
            assert_eq!(kind(code), None, "{code}");
        }
        for (code, expect) in [
            ("22P03", TargetFaultKind::Down),
            ("28P01", TargetFaultKind::Auth),
            ("28000", TargetFaultKind::Auth),
            ("3D000", TargetFaultKind::Missing),
            ("3F000", TargetFaultKind::Missing),
            ("42P01", TargetFaultKind::Missing),
            ("42703", TargetFaultKind::Missing),
            ("42501", TargetFaultKind::Permission),
            ("42601", DOES_NOT_FIT),
            ("42P10", DOES_NOT_FIT),
            ("0A000", DOES_NOT_FIT),
            ("53100", TargetFaultKind::Full),
            ("53300", TargetFaultKind::Down),
            ("40001", TargetFaultKind::Down),
            ("40P01", TargetFaultKind::Down),
            ("08006", TargetFaultKind::Down),
            ("57P01", TargetFaultKind::Down),
            ("58030", TargetFaultKind::Down),
            ("XX000", TargetFaultKind::Down),
            ("P0001", TargetFaultKind::Down),
            ("", TargetFaultKind::Down),
        ] {
            assert_eq!(kind(code), Some(expect), "{code}");
        }
    }

    #[test]
    fn a_statement_that_was_prepared_fails_by_its_values() {
        for (code, from_text, expect) in [
            ("54000", false, true),
            ("54001", false, true),
            ("42601", false, true),
            ("42622", false, true),
            ("XX000", true, true),
            ("XX000", false, false),
            ("XX001", true, false),
            ("42501", true, false),
            ("53100", true, false),
            ("57014", true, false),
        ] {
            assert_eq!(is_of_a_value(code, from_text), expect, "{code} {from_text}");
        }
    }

    #[test]
    fn the_row_is_read_from_the_context_of_a_copy() {
        let check = |context: &str, table: &str, expect: Option<usize>| {
            assert_eq!(line_in(context, table), expect, "{context}");
        };
        check("COPY readings, line 17, column payload", "readings", Some(17));
        check("COPY readings, line 3", "readings", Some(3));
        check("COPY readings, line 3: \"1\\t2\"", "readings", Some(3));
        check("PL/pgSQL function f() line 9 at RAISE\nCOPY readings, line 4", "readings", Some(4));
        check("COPY a, line 1, line 5", "a, line 1", Some(5));
        check("COPY other, line 5", "readings", None);
        check("COPY readings, Zeile 5", "readings", None);
        check("SQL statement \"SELECT 1\"", "readings", None);
    }
}
