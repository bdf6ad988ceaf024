//! Documents: their links, and what they must mention.

use std::path::{Path, PathBuf};

use super::sources::root;

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Links to files (`[text](path#anchor)`) that are not there, and anchors that no heading makes.
pub fn broken_links() -> Vec<String> {
    let mut complaints = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("readable document");
        let shown = document.strip_prefix(root()).expect("inside the workspace").display().to_string();
        for target in links(&text) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match path {
                "" => document.clone(),
                path => document.parent().expect("a folder").join(path),
            };
            if !file.exists() {
                complaints.push(format!("{shown}: {target} does not exist"));
            } else if !anchor.is_empty() && !has_anchor(&file, anchor) {
                complaints.push(format!("{shown}: {target} has no such heading"));
            }
        }
    }
    complaints
}

/// Functions (`name()`) that are named after a link to a source and do not stand in it.
pub fn misplaced_functions() -> Vec<String> {
    let mut complaints = Vec::new();
    let mut named = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("readable document");
        let shown = document.strip_prefix(root()).expect("inside the workspace").display().to_string();
        for (source, function) in named_functions(&text) {
            named += 1;
            let path = document.parent().expect("a folder").join(&source);
            // A source that is not there is a broken link.
            let Ok(code) = std::fs::read_to_string(path) else { continue };
            if !["(", "<"].iter().any(|after| code.contains(&format!("fn {function}{after}"))) {
                complaints.push(format!("{shown}: {function}() does not stand in {source}"));
            }
        }
    }
    assert!(named > 50, "only {named} functions are named: docs/walk.md alone has more");
    complaints
}

/// Reasons of the API that docs/api.md does not explain, and kinds without a page.
pub fn undocumented() -> Vec<String> {
    let api = read("docs/api.md");
    let reasons = api_types::api::Reason::ALL.iter().map(|reason| reason.as_str());
    let mut missing: Vec<String> =
        reasons.filter(|reason| !api.contains(*reason)).map(|reason| format!("docs/api.md: {reason}")).collect();
    for kind in connector_runtime::registry::KINDS {
        let page = format!("docs/connectors/{}.md", kind.name);
        if !root().join(&page).exists() {
            missing.push(page);
        }
    }
    missing
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    markdown_files(&root(), &mut found);
    assert!(found.len() >= 4, "only {} documents found", found.len());
    found
}

fn markdown_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(folder).expect("readable folder").map(|entry| entry.expect("entry").path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            markdown_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Targets inside the repository, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for part in prose.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                targets.push(target.to_owned());
            }
        }
    }
    targets
}

/// Each `name()` with the link to a source that stands before it in the same paragraph.
fn named_functions(text: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let mut in_code = false;
    let mut source: Option<String> = None;
    let mut in_span = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        if in_code || fence || line.trim().is_empty() {
            (source, in_span) = (None, false);
            continue;
        }
        for (number, piece) in line.split('`').enumerate() {
            in_span ^= number > 0;
            if in_span {
                let function = piece.strip_suffix("()").filter(|name| !name.is_empty());
                named.extend(source.clone().zip(function.map(str::to_owned)));
                continue;
            }
            let targets = piece.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default());
            if let Some(target) = targets.filter(|target| target.ends_with(".rs")).last() {
                source = Some(target.to_owned());
            }
        }
    }
    named
}

fn has_anchor(file: &Path, anchor: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).any(|line| slug(line.trim_start_matches('#')) == anchor)
}

/// As the usual renderers make anchors of headings.
fn slug(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower.chars().filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    kept.map(|character| if character == ' ' { '-' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_code_do_not_count() {
        let text = "[a](b.md) and `[c](d.md)`\n```\n[e](f.md)\n```\n[g](#h) [i](https://example.com)\n";
        assert_eq!(links(text), ["b.md", "#h"]);
    }

    #[test]
    fn functions_belong_to_the_link_before_them() {
        let text = "`a()` [`b.rs`](x/b.rs) `b()` and\n`c()`, [d](d.rs) `D` `d()` [e](e.md) `e()`\n\n`f()`\n```\n[g](g.rs) `g()`\n```\n";
        let named = named_functions(text);
        let named: Vec<(&str, &str)> = named.iter().map(|(source, name)| (source.as_str(), name.as_str())).collect();
        assert_eq!(named, [("x/b.rs", "b"), ("x/b.rs", "c"), ("d.rs", "d"), ("d.rs", "e")]);
    }

    #[test]
    fn anchors_follow_headings() {
        assert_eq!(slug(" Raft, not messages: why?"), "raft-not-messages-why");
    }
}
