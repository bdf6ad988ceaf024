//! Who may know whom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::sources::{CRATES, Source, root};

/// Crate → crates of the workspace that it may depend on.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    let rules: [(&str, &[&str]); 5] = [
        ("api-types", &[]),
        ("meta-service", &["api-types"]),
        ("connector-runtime", &["api-types"]),
        ("broker-node", &["api-types", "meta-service", "connector-runtime"]),
        ("tests", &["api-types", "meta-service", "connector-runtime", "broker-node"]),
    ];
    BTreeMap::from(rules)
}

/// Its servers serve the tests of every crate.
const HARNESS: &str = "tests";

/// Crates from outside → the only crates that may depend on them.
const OWNED: [(&str, &[&str]); 3] =
    [("openraft", &["meta-service"]), ("bincode", &["meta-service"]), ("rocksdb", &["meta-service", "broker-node"])];

pub fn forbidden_dependencies() -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, allowed) in allowed() {
        let dependencies = dependencies_of(name, &["dependencies", "dev-dependencies", "build-dependencies"]);
        let for_tests_only = |dependency: &str| {
            dependency == HARNESS && !dependencies_of(name, &["dependencies", "build-dependencies"]).contains(HARNESS)
        };
        for dependency in &dependencies {
            let known = allowed.contains(&dependency.as_str()) || for_tests_only(dependency);
            if CRATES.contains(&dependency.as_str()) && !known {
                complaints.push(format!("{name} must not depend on {dependency}"));
            }
            let owner = OWNED.iter().find(|(owned, _)| owned == dependency);
            if owner.is_some_and(|(_, owners)| !owners.contains(&name)) {
                complaints.push(format!("{name} must not depend on {dependency}, which has its owner"));
            }
        }
    }
    complaints
}

fn dependencies_of(name: &str, sections: &[&str]) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("valid TOML");
    sections
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(|table| table.keys().cloned().collect::<Vec<_>>())
        .collect()
}

/// All files of a crate that name rocksdb must lie in one module: one file, or one folder with its `mod.rs`.
pub fn modules_that_share_rocksdb(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for name in CRATES {
        let in_crate = sources.iter().filter(|source| source.path.starts_with(name));
        let users: Vec<PathBuf> =
            in_crate.filter(|source| !source.lines_with_word("rocksdb").is_empty()).map(|s| module(&s.path)).collect();
        let shared = users.iter().any(|candidate| users.iter().all(|user| user.starts_with(candidate)));
        if !users.is_empty() && !shared {
            complaints.push(format!("{name}: {users:?} all name rocksdb"));
        }
    }
    complaints
}

/// `a/src/b/mod.rs` and `a/src/b.rs` are both the module `a/src/b`.
fn module(path: &Path) -> PathBuf {
    if path.file_name().is_some_and(|name| name == "mod.rs") {
        path.parent().unwrap_or(path).to_owned()
    } else {
        path.with_extension("")
    }
}
