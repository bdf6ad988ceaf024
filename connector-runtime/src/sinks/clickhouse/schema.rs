//! What the sink knows of its table and of the server: read once, kept for a while, and read again when an insert is
//! refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::row::Column;
use super::server::{Server, Setting};
use super::table::{self, Unfit, identifier, unescaped};
use crate::sink::{TargetFault, TargetFaultKind};

/// The token by which a table drops an insert that it has taken before.
const TOKEN: &str = "insert_deduplication_token";

/// What must hold for an insert to mean what this sink means by it, whatever the user's profile says. Settings that the
/// server does not have, or has so already, are not sent: a profile may forbid to change them.
const NEEDED: [(&str, &str); 17] = [
    // What is acknowledged must be stored, and servers have lost rows that came so and with a token.
    ("async_insert", "0"),
    // A batch is one block, so that its token stands for all of it, and a row that is refused has its number in it.
    (BLOCK, "1048576"),
    (SMALLEST_BLOCK, "1048576"),
    ("max_insert_block_size_bytes", "0"),
    ("input_format_max_block_size_bytes", "0"),
    ("input_format_max_block_wait_ms", "0"),
    // The rows of a connection that broke off would be stored as if they were all.
    ("input_format_connection_handling", "0"),
    ("input_format_parallel_parsing", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_insert", "enable"),
    // A view that failed when its table had taken the batch gets it with the repeat, and drops it when it has it.
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    // Rows would be dropped without a word.
    ("input_format_allow_errors_num", "0"),
    ("input_format_allow_errors_ratio", "0"),
    ("input_format_tsv_skip_first_lines", "0"),
    // A first row whose values are names of columns would be taken for a header.
    ("input_format_tsv_detect_header", "0"),
    // Texts would be read as something else.
    ("input_format_tsv_empty_as_default", "0"),
    ("format_tsv_null_representation", "\\N"),
];
/// Of rows in a block, which ends there. A server whose block takes as many as a batch can have is left alone.
const BLOCK: &str = "max_insert_block_size";
/// A block of so many rows may end, if it has enough bytes.
const SMALLEST_BLOCK: &str = "min_insert_block_size_rows";
const BATCH_RECORDS_MAX: u64 = 100_000;

/// What an insert is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) columns: Vec<Column>,
    pub(super) settings: Vec<Setting>,
    /// Older servers have no tokens; their replicated tables compare what was inserted.
    takes_token: bool,
}

impl Known {
    /// The settings of one insert.
    pub(super) fn settings_with(&self, token: String) -> Vec<Setting> {
        let mut settings = self.settings.clone();
        if self.takes_token {
            settings.push((TOKEN, token));
        }
        settings
    }
}

pub(super) struct Schema {
    database: String,
    table: String,
    refresh: Duration,
    known: Mutex<Option<(Arc<Known>, Instant)>>,
}

impl Schema {
    pub(super) fn new(database: &str, table: &str, refresh: Duration) -> Self {
        let (database, table) = (identifier(database), identifier(table));
        Self { database, table, refresh, known: Mutex::default() }
    }

    /// `INSERT INTO …`, to be followed by rows.
    pub(super) fn insert(&self, columns: &[Column]) -> String {
        let names: Vec<String> = columns.iter().map(|column| identifier(column.name)).collect();
        format!("INSERT INTO {}.{} ({}) FORMAT TabSeparated", self.database, self.table, names.join(", "))
    }

    /// What is known, or read now; all who ask meanwhile wait for the one who reads.
    pub(super) async fn known(&self, server: &Server) -> Result<Arc<Known>, TargetFault> {
        let mut kept = server.wait("the table's columns could not be read", self.known.lock()).await?;
        if let Some((known, read_at)) = &*kept
            && read_at.elapsed() < self.refresh
        {
            return Ok(Arc::clone(known));
        }
        let known = Arc::new(self.read(server).await?);
        *kept = Some((Arc::clone(&known), Instant::now()));
        Ok(known)
    }

    /// The next one who asks reads anew.
    pub(super) fn forget(&self) {
        // Whoever holds it is reading anew.
        if let Ok(mut kept) = self.known.try_lock() {
            *kept = None;
        }
    }

    /// Reads anew; says whether the columns, or the settings, are others than those that were used.
    pub(super) async fn has_changed(&self, server: &Server, used: &Known) -> Result<bool, TargetFault> {
        let now = self.read(server).await?;
        let changed = now != *used;
        if changed {
            let mut kept = server.wait("the table's columns could not be read", self.known.lock()).await?;
            *kept = Some((Arc::new(now), Instant::now()));
        }
        Ok(changed)
    }

    async fn read(&self, server: &Server) -> Result<Known, TargetFault> {
        let statement = format!("DESCRIBE TABLE {}.{} FORMAT TabSeparated", self.database, self.table);
        let columns = table::columns(&server.ask(&statement).await?).map_err(|unfit| self.fault(&unfit))?;
        let names: Vec<String> = NEEDED.iter().map(|(name, _)| format!("'{name}'")).collect();
        let statement = format!(
            "SELECT name, value FROM system.settings WHERE name IN ('{TOKEN}', {}) FORMAT TabSeparated",
            names.join(", ")
        );
        let current = settings(&server.ask(&statement).await?);
        let takes_token = current.iter().any(|(name, _)| name == TOKEN);
        Ok(Known { columns, settings: to_change(&current), takes_token })
    }

    fn fault(&self, unfit: &Unfit) -> TargetFault {
        let kind = match unfit {
            Unfit::NoneOfOurs => TargetFaultKind::Missing,
            Unfit::TooNarrow { .. } | Unfit::HoldsNone { .. } | Unfit::Unreadable(_) => {
                TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")
            }
        };
        TargetFault::new(kind, format!("{}.{}: {unfit}", self.database, self.table))
    }
}

fn settings(answer: &str) -> Vec<(String, String)> {
    let pair = |line: &str| line.split_once('\t').map(|(name, value)| (unescaped(name), unescaped(value)));
    answer.lines().filter_map(pair).collect()
}

/// Of those that the server has, the ones that are not as they have to be.
fn to_change(current: &[(String, String)]) -> Vec<Setting> {
    let is_other = |name: &str, needed: &str| {
        let now = current.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
        now.is_some_and(|now| !is_met(name, needed, now))
    };
    let others = NEEDED.iter().filter(|(name, needed)| is_other(name, needed));
    others.map(|(name, needed)| (*name, (*needed).to_owned())).collect()
}

fn is_met(name: &str, needed: &str, now: &str) -> bool {
    let is_enough = |rows: u64| rows >= BATCH_RECORDS_MAX;
    now == needed || ([BLOCK, SMALLEST_BLOCK].contains(&name) && now.parse().is_ok_and(is_enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(answer: &str) -> Vec<(&'static str, String)> {
        to_change(&settings(answer))
    }

    #[test]
    fn a_setting_is_sent_only_where_it_is_known_and_other() {
        // As 26.9 and 18.16 answer.
        let new = "async_insert\t1\nmax_insert_block_size\t1048449\nmin_insert_block_size_rows\t1048449\n\
                   max_insert_block_size_bytes\t0\ninput_format_max_block_size_bytes\t0\ninput_format_parallel_parsing\t1\n\
                   insert_deduplicate\t1\ndeduplicate_insert\tenable\ninsert_deduplication_token\t\n\
                   deduplicate_blocks_in_dependent_materialized_views\t1\nformat_tsv_null_representation\t\\\\N\n\
                   input_format_tsv_detect_header\t1\n";
        let expect = ["async_insert", "input_format_parallel_parsing", "input_format_tsv_detect_header"];
        let expect = expect.map(|name| (name, "0".to_owned()));
        assert_eq!(changed(new), expect);
        assert_eq!(changed("max_insert_block_size\t1048576\ninput_format_allow_errors_num\t0\n"), []);
        assert_eq!(changed(""), []);
    }

    #[test]
    fn what_would_lose_or_change_rows_is_overruled() {
        let answer = "max_insert_block_size\t99999\nmin_insert_block_size_rows\t0\ninput_format_max_block_wait_ms\t5\n\
                      max_insert_block_size_bytes\t1000\ninput_format_max_block_size_bytes\t1\n\
                      input_format_connection_handling\t1\ninput_format_allow_errors_ratio\t0.1\n\
                      format_tsv_null_representation\t\ndeduplicate_insert\tdisable\n";
        let names: Vec<&str> = changed(answer).into_iter().map(|(name, _)| name).collect();
        let expect = [
            "max_insert_block_size",
            "min_insert_block_size_rows",
            "max_insert_block_size_bytes",
            "input_format_max_block_size_bytes",
            "input_format_max_block_wait_ms",
            "input_format_connection_handling",
            "deduplicate_insert",
            "input_format_allow_errors_ratio",
            "format_tsv_null_representation",
        ];
        assert_eq!(names, expect);
    }

    #[test]
    fn an_insert_names_its_columns() {
        use crate::sinks::clickhouse::row::Part;
        let schema = Schema::new("my db", "messages", Duration::ZERO);
        let columns = [Column { name: "id", part: Part::Id }, Column { name: "key", part: Part::Key }];
        let expect = "INSERT INTO `my db`.`messages` (`id`, `key`) FORMAT TabSeparated";
        assert_eq!(schema.insert(&columns), expect);
    }
}
