//! House rules, as tests. Each says which file breaks which rule.

mod layering;
mod sources;
mod texts;

use std::collections::BTreeSet;

use sources::Source;

/// The rule that a list of complaints breaks nothing.
fn none(rule: &str, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{rule}\n{}", complaints.join("\n"));
}

#[test]
fn crates_know_only_those_below_them() {
    none("see docs/architecture.md, \"Crates\"", layering::forbidden_dependencies());
}

#[test]
fn only_the_raft_module_names_openraft_and_bincode() {
    let complaints = Source::all().into_iter().filter(|source| !source.path.starts_with("meta-service/src/raft"));
    let complaints = complaints.flat_map(|source| {
        ["openraft", "bincode"].into_iter().flat_map(|word| source.lines_with_word(word)).collect::<Vec<_>>()
    });
    none("openraft and bincode belong to meta-service/src/raft", complaints.collect());
}

#[test]
fn one_module_of_each_crate_names_rocksdb() {
    none("rocksdb has one owner per crate", layering::modules_that_share_rocksdb(&Source::all()));
}

#[test]
fn state_and_scheduler_are_pure() {
    let forbidden = [
        "SystemTime",
        "Instant",
        "HashMap",
        "HashSet",
        "tokio",
        "rand",
        "async",
        "await",
        "thread_rng",
        "std::fs",
        "std::net",
    ];
    let pure = ["meta-service/src/state", "meta-service/src/scheduler"];
    let sources = Source::all();
    let inside = sources.iter().filter(|source| pure.iter().any(|folder| source.path.starts_with(folder)));
    let complaints = inside.flat_map(|source| {
        forbidden.into_iter().flat_map(|word| source.production_lines_with_word(word)).collect::<Vec<_>>()
    });
    none("no clock, randomness, async, I/O or hash order in state and scheduler", complaints.collect());
}

#[test]
fn files_are_short() {
    let complaints = Source::all().into_iter().filter_map(|source| {
        let lines = source.production_lines();
        (lines > 500).then(|| format!("{}: {lines} lines outside of test modules", source.path.display()))
    });
    none("at most 500 production lines per file", complaints.collect());
}

#[test]
fn modules_are_named_for_a_concept() {
    let vague = ["utils", "util", "common", "helper", "helpers", "manager", "managers", "misc"];
    let complaints = Source::all().into_iter().filter_map(|source| {
        let bad = source.module_words().into_iter().find(|word| vague.contains(&word.as_str()))?;
        Some(format!("{}: `{bad}` says nothing", source.path.display()))
    });
    none("name the concept", complaints.collect());
}

#[test]
fn tests_wait_for_conditions() {
    let sources = Source::all();
    // What the tests of a folder share runs under their clock.
    let paused: BTreeSet<_> =
        sources.iter().filter(|source| source.pauses_the_clock()).filter_map(|source| source.path.parent()).collect();
    let complaints = sources
        .iter()
        .flat_map(|source| source.sleeps_in_tests(source.path.parent().is_some_and(|folder| paused.contains(folder))));
    none("no sleep in tests: wait for a condition, or pause the clock", complaints.collect());
}

#[test]
fn nothing_is_left_to_do() {
    // Spelled so that this file does not complain about itself.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let complaints = Source::all()
        .into_iter()
        .flat_map(|source| words.iter().flat_map(|word| source.raw_lines_with(word)).collect::<Vec<_>>());
    none("finish it, or leave it out on purpose and say so in docs/architecture.md", complaints.collect());
}

#[test]
fn links_in_documents_lead_somewhere() {
    none("broken links", texts::broken_links());
}

#[test]
fn functions_in_documents_stand_where_they_are_said_to() {
    none("mend the document, or put the function back", texts::misplaced_functions());
}

#[test]
fn the_readme_says_the_essential() {
    let readme = texts::read("README.md");
    let first_screen: String = readme.lines().take(40).collect::<Vec<_>>().join("\n");
    for needle in ["make demo", "make test", "Raft replicates connectors and assignments, not messages"] {
        assert!(first_screen.contains(needle), "the first screen of README.md does not say `{needle}`");
    }
}

#[test]
fn every_reason_and_kind_is_documented() {
    none("undocumented", texts::undocumented());
}
