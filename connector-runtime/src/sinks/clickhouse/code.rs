//! What ClickHouse's exception codes mean for an insert.

use crate::sink::TargetFaultKind;

/// Whose fault an exception is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A row cannot be taken as it is.
    Row,
    /// The insert as a whole asks for too much at once: a smaller one may pass. One that is small already is this fault.
    TooMuch(TargetFaultKind),
    /// The table has other columns than the insert names; where it has not, this fault.
    Columns(TargetFaultKind),
    /// The server has no such setting.
    Settings,
    Target(TargetFaultKind),
}

/// `text` is what the server says, code and all; of several meanings of one code it tells which.
pub(super) fn meaning(code: u32, text: &str) -> Meaning {
    use TargetFaultKind::{Auth, Down, Full, Misconfigured, Missing, Permission, Throttled};
    let throttled = Throttled { retry_after: None };
    match code {
        CANNOT_PARSE_TEXT
        | CANNOT_PARSE_ESCAPE_SEQUENCE
        | CANNOT_PARSE_QUOTED_STRING
        | CANNOT_PARSE_INPUT_ASSERTION_FAILED
        | ATTEMPT_TO_READ_AFTER_EOF
        | CANNOT_PARSE_DATE
        | CANNOT_PARSE_DATETIME
        | ARGUMENT_OUT_OF_BOUND
        | CANNOT_PARSE_NUMBER
        | INCORRECT_DATA
        | TOO_LARGE_ARRAY_SIZE
        | CANNOT_READ_ARRAY_FROM_TEXT
        | TOO_LARGE_STRING_SIZE
        | ILLEGAL_DIVISION
        | VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        | CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        | CANNOT_PARSE_UUID
        | FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        | DECIMAL_OVERFLOW
        | CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
        | CANNOT_PARSE_BOOL
        | VIOLATED_CONSTRAINT
        | CANNOT_PARSE_IPV4
        | CANNOT_PARSE_IPV6
        | UNKNOWN_ELEMENT_OF_ENUM => Meaning::Row,
        // Before it had a code of its own, this was one of these.
        BAD_ARGUMENTS | LOGICAL_ERROR if text.contains("Unknown element '") => Meaning::Row,
        // Fewer rows are of fewer partitions.
        TOO_MANY_PARTS if text.contains("Too many partitions for single INSERT block") => Meaning::Row,

        MEMORY_LIMIT_EXCEEDED if is_of_one_query(text) => Meaning::TooMuch(throttled),
        TOO_MANY_PARTS
        | MEMORY_LIMIT_EXCEEDED
        | QUOTA_EXCEEDED
        | TOO_MANY_SIMULTANEOUS_QUERIES
        | LIMIT_EXCEEDED
        | CANNOT_SCHEDULE_TASK
        | SERVER_OVERLOADED => Meaning::Target(throttled),
        NOT_ENOUGH_SPACE => Meaning::Target(Full),

        NO_SUCH_COLUMN_IN_TABLE
        | THERE_IS_NO_COLUMN
        | NOT_FOUND_COLUMN_IN_BLOCK
        | ILLEGAL_COLUMN
        | UNKNOWN_IDENTIFIER => Meaning::Columns(Missing),
        UNKNOWN_SETTING => Meaning::Settings,
        UNKNOWN_TABLE | UNKNOWN_DATABASE | TABLE_IS_DROPPED => Meaning::Target(Missing),

        UNKNOWN_USER | WRONG_PASSWORD | REQUIRED_PASSWORD | AUTHENTICATION_FAILED => Meaning::Target(Auth),
        READONLY | IP_ADDRESS_NOT_ALLOWED | DATABASE_ACCESS_DENIED | SETTING_CONSTRAINT_VIOLATION | ACCESS_DENIED => {
            Meaning::Target(Permission)
        }

        SYNTAX_ERROR | UNKNOWN_FORMAT | NOT_IMPLEMENTED => Meaning::Target(Misconfigured("TARGET_REFUSES_REQUESTS")),
        // Also what nobody here knows: it is the target's, and is asked again.
        _ => Meaning::Target(Down),
    }
}

/// The limit of the query, and not of the user or the server, which others may use up.
fn is_of_one_query(text: &str) -> bool {
    text.contains("Memory limit (for query)") || text.contains("Query memory limit exceeded")
}

const CANNOT_PARSE_TEXT: u32 = 6;
const THERE_IS_NO_COLUMN: u32 = 8;
const NOT_FOUND_COLUMN_IN_BLOCK: u32 = 10;
const NO_SUCH_COLUMN_IN_TABLE: u32 = 16;
const CANNOT_PARSE_ESCAPE_SEQUENCE: u32 = 25;
const CANNOT_PARSE_QUOTED_STRING: u32 = 26;
const CANNOT_PARSE_INPUT_ASSERTION_FAILED: u32 = 27;
const ATTEMPT_TO_READ_AFTER_EOF: u32 = 32;
const BAD_ARGUMENTS: u32 = 36;
const CANNOT_PARSE_DATE: u32 = 38;
const CANNOT_PARSE_DATETIME: u32 = 41;
const ILLEGAL_COLUMN: u32 = 44;
const UNKNOWN_IDENTIFIER: u32 = 47;
const NOT_IMPLEMENTED: u32 = 48;
const LOGICAL_ERROR: u32 = 49;
const UNKNOWN_TABLE: u32 = 60;
const SYNTAX_ERROR: u32 = 62;
const ARGUMENT_OUT_OF_BOUND: u32 = 69;
const CANNOT_PARSE_NUMBER: u32 = 72;
const UNKNOWN_FORMAT: u32 = 73;
const UNKNOWN_DATABASE: u32 = 81;
const UNKNOWN_SETTING: u32 = 115;
const INCORRECT_DATA: u32 = 117;
const TOO_LARGE_ARRAY_SIZE: u32 = 128;
const CANNOT_READ_ARRAY_FROM_TEXT: u32 = 130;
const TOO_LARGE_STRING_SIZE: u32 = 131;
const ILLEGAL_DIVISION: u32 = 153;
const READONLY: u32 = 164;
const UNKNOWN_USER: u32 = 192;
const WRONG_PASSWORD: u32 = 193;
const REQUIRED_PASSWORD: u32 = 194;
const IP_ADDRESS_NOT_ALLOWED: u32 = 195;
const QUOTA_EXCEEDED: u32 = 201;
const TOO_MANY_SIMULTANEOUS_QUERIES: u32 = 202;
const TABLE_IS_DROPPED: u32 = 218;
const MEMORY_LIMIT_EXCEEDED: u32 = 241;
const NOT_ENOUGH_SPACE: u32 = 243;
const TOO_MANY_PARTS: u32 = 252;
const LIMIT_EXCEEDED: u32 = 290;
const DATABASE_ACCESS_DENIED: u32 = 291;
const VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE: u32 = 321;
const CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN: u32 = 349;
const CANNOT_PARSE_UUID: u32 = 376;
const FUNCTION_THROW_IF_VALUE_IS_NON_ZERO: u32 = 395;
const DECIMAL_OVERFLOW: u32 = 407;
const CANNOT_SCHEDULE_TASK: u32 = 439;
const CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING: u32 = 441;
const SETTING_CONSTRAINT_VIOLATION: u32 = 452;
const CANNOT_PARSE_BOOL: u32 = 467;
const VIOLATED_CONSTRAINT: u32 = 469;
const ACCESS_DENIED: u32 = 497;
const AUTHENTICATION_FAILED: u32 = 516;
const CANNOT_PARSE_IPV4: u32 = 675;
const CANNOT_PARSE_IPV6: u32 = 676;
const UNKNOWN_ELEMENT_OF_ENUM: u32 = 691;
const SERVER_OVERLOADED: u32 = 745;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_is_the_targets() {
        for code in [0, 1, 242, 999, 100_000] {
            assert_eq!(meaning(code, ""), Meaning::Target(TargetFaultKind::Down), "{code}");
        }
    }

    #[test]
    fn of_several_meanings_of_a_code_the_text_tells_which() {
        let throttled = TargetFaultKind::Throttled { retry_after: None };
        for (code, text, expect) in [
            (252, "Too many parts (300). Merges are processing significantly slower", Meaning::Target(throttled)),
            (252, "Too many partitions for single INSERT block (more than 100)", Meaning::Row),
            (241, "Memory limit (total) exceeded: would use 1.00 GiB", Meaning::Target(throttled)),
            (241, "Memory limit (for user) exceeded: would use 1.00 GiB", Meaning::Target(throttled)),
            (241, "Memory limit (for query) exceeded: would use 1.00 GiB", Meaning::TooMuch(throttled)),
            (241, "Query memory limit exceeded: would use 1.00 GiB", Meaning::TooMuch(throttled)),
            (49, "Unknown element 'x' for type Enum8('a' = 1)", Meaning::Row),
            (49, "Bad cast from type A to B", Meaning::Target(TargetFaultKind::Down)),
            (36, "Unknown element 'x' for enum", Meaning::Row),
            (36, "Replica is not active", Meaning::Target(TargetFaultKind::Down)),
        ] {
            assert_eq!(meaning(code, text), expect, "{code} {text}");
        }
    }
}
