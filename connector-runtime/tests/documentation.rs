//! `docs/connectors/*.md` hold what the field tables say. `UPDATE_DOCS=1 cargo test -p connector-runtime` writes it.

use std::fs;
use std::path::PathBuf;

use connector_runtime::config::{reference_page, replace_generated, type_index, validate};
use connector_runtime::registry::KINDS;
use connector_runtime::secrets::SecretFences;
use serde_json::Value;

#[test]
fn pages_hold_what_the_tables_say() {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/connectors");
    let mut pages = vec![("README.md".to_owned(), type_index())];
    pages.extend(KINDS.iter().map(|entry| (format!("{}.md", entry.name), reference_page(entry))));
    let mut stale = Vec::new();
    for (name, generated) in pages {
        let path = docs.join(&name);
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expect = replace_generated(&page, &generated).unwrap_or_else(|| panic!("{name} has no markers"));
        if page == expect {
            continue;
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, expect).unwrap_or_else(|error| panic!("{name}: {error}"));
        } else {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "not up to date: {}; run UPDATE_DOCS=1 cargo test -p connector-runtime",
        stale.join(", ")
    );
}

#[test]
fn examples_are_valid_and_give_nothing_up() {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/connectors");
    for entry in KINDS {
        let page = fs::read_to_string(docs.join(format!("{}.md", entry.name))).expect("a page");
        let (_, example) = page.split_once("## Example\n\n```json\n").expect("an example");
        let (example, _) = example.split_once("```").expect("its end");
        let example: Value = serde_json::from_str(example).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
        assert_eq!(example["connector_type"], entry.name);
        let config = example["config"].as_object().expect("an object");
        let valid = validate(entry, config, &SecretFences::default());
        let valid = valid.unwrap_or_else(|problems| panic!("{}: {problems:?}", entry.name));
        assert_eq!(valid.warnings, Vec::<String>::new(), "{}", entry.name);
    }
}

#[test]
fn every_page_is_a_kinds() {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/connectors");
    for file in fs::read_dir(docs).expect("the folder") {
        let name = file.expect("an entry").file_name().to_string_lossy().into_owned();
        let kind = name.strip_suffix(".md").unwrap_or(&name);
        assert!(kind == "README" || KINDS.iter().any(|entry| entry.name == kind), "{name} is nobody's page");
    }
}
