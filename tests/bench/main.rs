//! `make bench`: Sluice beside the tools its users know, measured from outside on one machine in one interleaved run.
//!
//! ```text
//! part ─▶ for each round: Sluice, peer, Sluice, peer … ─▶ medians of ratios ─▶ table ─▶ docs/performance.md
//!             │                     │
//!             │                     └─ peers: Debian packages, Go and Maven builds under $SLUICE_CACHE/bench
//!             └─ `sluice bench …` makes the load, /proc tells the CPU time
//! ```
//!
//! `make bench-sinks` measures the kinds of connectors, one part each, in the same way.
//!
//! `sluice-bench --quick --with '{"batch_records": 500}' sinks-webhook` shows what an option is worth.
//!
//! A peer that cannot be had is named and left out. Every process ends with its owner.

mod bare;
mod cpu;
mod document;
mod generator;
mod machine;
mod parts;
mod peers;
mod sampled;
mod sluice;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::document::Document;
use crate::machine::Machine;
use crate::parts::Part;

/// Of everything that is compared; the median counts.
const ROUNDS: usize = 3;
/// As [`ROUNDS`], for a look.
const ROUNDS_QUICK: usize = 1;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// Kills of each kind.
    pub kills: usize,
    /// Options that the connectors of the kinds have besides those that the tables are made with; lives as long as the
    /// program.
    pub with: Option<&'static Value>,
}

struct Wish {
    parts: Vec<Part>,
    effort: Effort,
    /// Where the tables go; `None`: they are only printed.
    document: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False when a part could not be measured; what the others measured is kept.
fn run() -> Result<bool> {
    let wish = wish(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all_measured = true;
    for part in wish.parts {
        eprintln!("== {part}");
        let before = Machine::look()?;
        match runtime.block_on(part.measure(wish.effort)) {
            Ok(tables) if tables.is_empty() => eprintln!("{part} is not measured here"),
            Ok(tables) => {
                let text = document::section(part, &before, &Machine::look()?, &tables);
                println!("{text}");
                if let Some(path) = &wish.document {
                    Document::read(path)?.replace(part, &text)?.write(path)?;
                }
            }
            Err(error) => {
                all_measured = false;
                eprintln!("{part} was not measured: {error:#}");
            }
        }
    }
    Ok(all_measured)
}

fn wish(arguments: impl Iterator<Item = String>) -> Result<Wish> {
    let mut wish = Wish {
        parts: Vec::new(),
        effort: Effort { rounds: ROUNDS, kills: parts::failover::KILLS, with: None },
        document: None,
    };
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (wish.effort.rounds, wish.effort.kills) = (ROUNDS_QUICK, 2),
            "--with" => {
                let options: Value = match arguments.next() {
                    Some(text) => serde_json::from_str(&text).context("--with")?,
                    None => bail!("--with needs options of a connector, as a JSON object"),
                };
                ensure!(options.is_object(), "--with {options}: not a JSON object");
                wish.effort.with = Some(Box::leak(Box::new(options)));
            }
            "--write" => match arguments.next() {
                Some(path) => wish.document = Some(PathBuf::from(path)),
                None => bail!("--write needs a file"),
            },
            name => wish.parts.extend(Part::named(name)?),
        }
    }
    ensure!(wish.document.is_none() || wish.effort.with.is_none(), "--write: the tables are made without --with");
    if wish.parts.is_empty() {
        wish.parts = Part::ALL.to_vec();
    }
    Ok(wish)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Wish> {
        wish(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn without_a_name_everything_is_measured() {
        let all = asked("").expect("understood");
        assert_eq!((all.parts.len(), all.effort.rounds, all.document), (Part::ALL.len(), ROUNDS, None));
        let some = asked("ingest --quick --write x.md sink").expect("understood");
        assert_eq!((some.parts, some.effort.rounds), (vec![Part::Ingest, Part::Sink], ROUNDS_QUICK));
        assert_eq!(some.document, Some(PathBuf::from("x.md")));
    }

    #[test]
    fn kinds_of_connectors_are_measured_one_by_one_or_all() {
        let one = asked("sinks-redis").expect("understood").parts;
        assert_eq!(one, [Part::Sinks("redis")]);
        assert_eq!(one[0].command(), "make bench-sinks KIND=redis");
        let all = asked("sinks").expect("understood").parts;
        assert_eq!(all.len(), parts::sinks::KINDS.len());
        assert!(asked("sinks-nothing").is_err());
    }

    /// Each part must find its marks, or what was measured is lost at the end.
    #[test]
    fn the_page_has_a_place_for_everything() {
        let page = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md"));
        for part in asked("").expect("understood").parts.into_iter().chain(asked("sinks").expect("understood").parts) {
            Document::read(&page).and_then(|document| document.replace(part, "")).expect("marks");
        }
    }

    #[test]
    fn unknown_parts_are_refused_with_the_known_ones() {
        let error = asked("everything").err().expect("refused").to_string();
        assert!(error.contains("ingest") && error.contains("failover") && error.contains("sinks-redis"), "{error}");
    }
}
