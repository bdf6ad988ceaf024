//! What came of each case: a line as soon as it is known, and a table for docs/conformance.md.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::counts::Counts;
use crate::outage::Outage;

/// The pages to write.
const PAGE: &str = "SLUICE_CONFORMANCE_PAGE";
const OUTAGES: &str = "SLUICE_OUTAGES_PAGE";
/// Where each kind leaves its rows, so that kinds which ran one by one stand on one page.
const ROWS: &str = "SLUICE_CONFORMANCE_ROWS";

/// Two kinds may end at once.
static WRITING: Mutex<()> = Mutex::new(());

/// What a case that passed has to say.
#[derive(Clone, Debug)]
pub enum Verdict {
    Passed(Measured),
    /// The kind has nothing of this sort.
    NotApplicable(String),
    /// This machine lacks something.
    LeftOut(String),
}

#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Published and acknowledged.
    pub records: u64,
    /// Ended by a failure strategy.
    pub ended: u64,
    /// Confirmed by the target and not there afterwards.
    pub lost: u64,
    pub repeated: u64,
    pub note: String,
    /// What each fault of the case cost.
    pub outages: Vec<Outage>,
}

pub struct Report {
    kind: &'static str,
    counts: &'static str,
    rows: Vec<Row>,
}

struct Row {
    case: &'static str,
    outcome: Result<Verdict, String>,
    took: Duration,
}

impl Report {
    pub fn new(kind: &'static str, counts: &Counts) -> Self {
        Self { kind, counts: counts.name, rows: Vec::new() }
    }

    pub fn add(&mut self, case: &'static str, outcome: Result<Verdict>, took: Duration) {
        let row = Row { case, outcome: outcome.map_err(|error| format!("{error:#}")), took };
        println!("conformance: {} {case}: {} ({:.1} s)", self.kind, row.says(), took.as_secs_f64());
        self.rows.push(row);
    }

    pub fn failed(&self) -> Vec<String> {
        let failed = self.rows.iter().filter_map(|row| Some(format!("{}: {}", row.case, row.outcome.as_ref().err()?)));
        failed.collect()
    }

    /// Leaves the rows for the page and writes it, where that is asked for.
    pub fn write(&self, took: Duration) -> Result<()> {
        let slowest = self.rows.iter().max_by_key(|row| row.took).map_or("nothing", |row| row.case);
        println!("conformance: {} took {:.1} s, most of it {slowest}", self.kind, took.as_secs_f64());
        let Some(rows) = std::env::var_os(ROWS) else { return Ok(()) };
        let _one_at_a_time = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let rows = PathBuf::from(rows);
        std::fs::create_dir_all(&rows)?;
        let own = json!({ "kind": self.kind, "counts": self.counts, "seconds": took.as_secs(),
                          "rows": self.rows.iter().map(Row::to_json).collect::<Vec<Value>>() });
        std::fs::write(rows.join(format!("{}.json", self.kind)), serde_json::to_string_pretty(&own)?)?;
        let mut all = Vec::new();
        for file in std::fs::read_dir(&rows)? {
            let path = file?.path();
            let text = std::fs::read_to_string(&path)?;
            all.push(serde_json::from_str::<Value>(&text).with_context(|| path.display().to_string())?);
        }
        all.sort_by_key(|kind| kind["kind"].to_string());
        for (page, text) in [(PAGE, document(&all)), (OUTAGES, outages(&all))] {
            if let Some(page) = std::env::var_os(page) {
                std::fs::write(&page, text).with_context(|| format!("write {}", page.display()))?;
            }
        }
        Ok(())
    }
}

impl Row {
    fn says(&self) -> String {
        match &self.outcome {
            Err(error) => format!("FAILED: {error}"),
            Ok(Verdict::NotApplicable(why)) => format!("not applicable: {why}"),
            Ok(Verdict::LeftOut(why)) => format!("left out: {why}"),
            Ok(Verdict::Passed(measured)) => format!(
                "passed, {} records, {} ended, {} lost, {} repeated{}{}",
                measured.records,
                measured.ended,
                measured.lost,
                measured.repeated,
                if measured.note.is_empty() { "" } else { "; " },
                measured.note
            ),
        }
    }

    fn to_json(&self) -> Value {
        let seconds = format!("{:.1}", self.took.as_secs_f64());
        let (outcome, measured) = match &self.outcome {
            Err(error) => (format!("**failed**: {error}"), None),
            Ok(Verdict::NotApplicable(why)) => (format!("– {why}"), None),
            Ok(Verdict::LeftOut(why)) => (format!("left out: {why}"), None),
            Ok(Verdict::Passed(measured)) => ("passed".to_owned(), Some(measured)),
        };
        let number = |pick: fn(&Measured) -> u64| measured.map(pick);
        json!({ "case": self.case, "outcome": outcome, "seconds": seconds,
                "records": number(|measured| measured.records), "ended": number(|measured| measured.ended),
                "lost": number(|measured| measured.lost), "repeated": number(|measured| measured.repeated),
                "note": measured.map(|measured| measured.note.clone()),
                "outages": measured.map(|measured| measured.outages.iter().map(of_outage).collect::<Vec<Value>>()) })
    }
}

fn of_outage(outage: &Outage) -> Value {
    json!({ "fault": outage.fault, "records": outage.records, "lost": outage.lost, "repeated": outage.repeated,
            "gap": format!("{:.1}", outage.gap.as_secs_f64()) })
}

const ABOUT: &str = "\
# Conformance

What every sink was put through, from outside: `sluice` processes, records published by MQTT, real targets that were
read back. `make conformance` writes this page; `make test` runs the same cases with smaller counts. The cases are
described in `tests/tests/conformance/cases/`, what a kind promises in `tests/tests/conformance/kinds/`.

*Ended*: by the failure strategy, as it says. *Lost*: confirmed by the target and not there afterwards. *Repeated*: stands
at the target once more.
";

fn document(kinds: &[Value]) -> String {
    let mut text = ABOUT.to_owned();
    for kind in kinds {
        let (name, counts) = (plain(&kind["kind"]), plain(&kind["counts"]));
        text.push_str(&format!("\n## {name}\n\n{counts} counts, {} s in all.\n\n", kind["seconds"]));
        text.push_str(
            "| case | | records | ended | lost | repeated | seconds | |\n|---|---|---:|---:|---:|---:|---:|---|\n",
        );
        for row in kind["rows"].as_array().into_iter().flatten() {
            let cells: Vec<String> = ["case", "outcome", "records", "ended", "lost", "repeated", "seconds", "note"]
                .map(|name| plain(&row[name]))
                .into();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    text
}

const ABOUT_OUTAGES: &str = "\
# Outages

What each fault cost each kind of connector that waits (`on_target_down: wait`) with the target's confirmations on.
`make outages` writes this page: `sluice` processes, real targets, messages published all the while.

*Lost*: confirmed by the target and not there afterwards; where it is not 0, the target confirms before it stores, and
docs/conformance.md has what its own client loses. *Repeated*: stands at the target once more. *Longest gap*: the longest
time in which the connector delivered nothing, while the fault lasted or after it; its counters are told once a second,
so a gap of 1 s is none.
";

fn outages(kinds: &[Value]) -> String {
    let mut text = ABOUT_OUTAGES.to_owned();
    text.push_str("\n| kind | fault | records | lost | repeated | longest gap, s |\n|---|---|---:|---:|---:|---:|\n");
    for kind in kinds {
        let rows = kind["rows"].as_array().into_iter().flatten();
        for outage in rows.flat_map(|row| row["outages"].as_array().into_iter().flatten()) {
            let cells = ["fault", "records", "lost", "repeated", "gap"].map(|name| plain(&outage[name]));
            text.push_str(&format!("| {} | {} |\n", plain(&kind["kind"]), cells.join(" | ")));
        }
    }
    text
}

/// In a cell of a table.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace('|', "\\|").replace('\n', " "),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}
