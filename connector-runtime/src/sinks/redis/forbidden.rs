//! Commands that a connector must not send: they change the connection or the stream of its replies, they make
//! everybody behind them wait, or they end or empty the target.

use crate::template::command::CommandTemplate;

/// Why the command of this template cannot be sent for each record.
pub(super) fn problem(template: &CommandTemplate) -> Option<String> {
    let name = template.name().to_ascii_uppercase();
    let why = why(&name).or_else(|| {
        let may_block = ["XREAD", "XREADGROUP"].contains(&&*name) && template.has_literal("BLOCK");
        may_block.then_some(BLOCKS)
    })?;
    Some(format!("begins with {name}, which {why}: a connector cannot send it"))
}

const CHANGES: &str = "changes the state of the connection";
const REPLIES: &str = "changes the stream of replies";
const BLOCKS: &str = "makes the connection wait";
const ENDS: &str = "ends, empties or changes the target itself";

fn why(name: &str) -> Option<&'static str> {
    Some(match name {
        "AUTH" | "HELLO" | "SELECT" | "RESET" | "QUIT" | "CLIENT" | "READONLY" | "READWRITE" | "ASKING" => CHANGES,
        "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "UNWATCH" => CHANGES,
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => REPLIES,
        "MONITOR" | "SYNC" | "PSYNC" | "REPLCONF" => REPLIES,
        "BLPOP" | "BRPOP" | "BRPOPLPUSH" | "BLMOVE" | "BLMPOP" | "BZPOPMIN" | "BZPOPMAX" | "BZMPOP" => BLOCKS,
        "WAIT" | "WAITAOF" => BLOCKS,
        "SHUTDOWN" | "FLUSHALL" | "FLUSHDB" | "SWAPDB" | "REPLICAOF" | "SLAVEOF" | "FAILOVER" | "CLUSTER" => ENDS,
        "DEBUG" => ENDS,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> Option<String> {
        problem(&CommandTemplate::parse(text).expect("is a template"))
    }

    #[test]
    fn commands_that_break_the_sink_are_named() {
        for (text, word) in [
            ("SUBSCRIBE {payload}", "SUBSCRIBE"),
            ("monitor", "MONITOR"),
            ("Client ${topic} OFF", "CLIENT"),
            ("BLPOP a 0", "wait"),
            ("xread block 0 streams a $", "wait"),
            ("FLUSHALL", "empties"),
            ("SELECT 1", "state"),
            ("\"WAIT\" 1 0", "WAIT"),
        ] {
            let problem = problem_of(text).unwrap_or_else(|| panic!("{text} is allowed"));
            assert!(problem.contains(word), "{text}: {problem}");
        }
        for text in
            ["LPUSH a {payload}", "XREAD STREAMS a 0", "PUBLISH a {payload}", "EVAL 'return 1' 0", "SET block 1"]
        {
            assert_eq!(problem_of(text), None, "{text}");
        }
    }
}
