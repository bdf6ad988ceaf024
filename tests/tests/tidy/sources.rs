//! Rust sources of the workspace, with their test modules told apart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub const CRATES: [&str; 5] = ["api-types", "meta-service", "connector-runtime", "broker-node", "tests"];

pub struct Source {
    /// Relative to the root of the workspace.
    pub path: PathBuf,
    text: String,
    /// For each line: is it in a test module?
    test_lines: Vec<bool>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

impl Source {
    /// Every source of every crate.
    pub fn all() -> Vec<Self> {
        let mut paths = Vec::new();
        for folder in CRATES {
            rust_files(&root().join(folder), &mut paths);
        }
        paths.sort();
        let texts: Vec<(PathBuf, String)> = paths
            .into_iter()
            .map(|path| {
                let text = std::fs::read_to_string(&path).expect("readable source");
                (path.strip_prefix(root()).expect("inside the workspace").to_owned(), text)
            })
            .collect();
        assert!(texts.len() > 20, "only {} sources found", texts.len());
        let test_files: BTreeSet<PathBuf> = texts.iter().flat_map(|(path, text)| test_modules_of(path, text)).collect();
        texts.into_iter().map(|(path, text)| Self::new(path, text, &test_files)).collect()
    }

    fn new(path: PathBuf, text: String, test_files: &BTreeSet<PathBuf>) -> Self {
        let all_tests = test_files.iter().any(|module| path == module.with_extension("rs") || path.starts_with(module))
            || path.components().nth(1).is_some_and(|part| part.as_os_str() == "tests");
        let test_lines = if all_tests { vec![true; text.lines().count()] } else { inline_test_lines(&text) };
        Self { path, text, test_lines }
    }

    pub fn production_lines(&self) -> usize {
        self.test_lines.iter().filter(|in_test| !**in_test).count()
    }

    /// Code lines (comments left out) that hold `word` as a whole word.
    pub fn lines_with_word(&self, word: &str) -> Vec<String> {
        self.code_lines().filter(|(_, line)| has_word(line, word)).map(|(number, line)| self.at(number, line)).collect()
    }

    pub fn production_lines_with_word(&self, word: &str) -> Vec<String> {
        self.code_lines()
            .filter(|(number, line)| !self.test_lines[*number] && has_word(line, word))
            .map(|(number, line)| self.at(number, line))
            .collect()
    }

    pub fn raw_lines_with(&self, text: &str) -> Vec<String> {
        let lines = self.text.lines().enumerate().filter(|(_, line)| line.contains(text));
        lines.map(|(number, line)| self.at(number, line)).collect()
    }

    /// Under the paused clock a sleep takes no time: it is how a script says when something happens.
    pub fn pauses_the_clock(&self) -> bool {
        self.text.contains("start_paused") || self.text.contains("time::pause")
    }

    /// `thread::sleep` in a test; `time::sleep` in a test whose clock is not paused.
    pub fn sleeps_in_tests(&self, paused: bool) -> Vec<String> {
        let is_test_crate = self.path.starts_with("tests");
        self.code_lines()
            .filter(|(number, _)| is_test_crate || self.test_lines[*number])
            .filter(|(_, line)| line.contains("thread::sleep(") || (!paused && line.contains("sleep(")))
            .filter(|(_, line)| !line.contains('"'))
            .map(|(number, line)| self.at(number, line))
            .collect()
    }

    /// The words of the module's path below the crate.
    pub fn module_words(&self) -> Vec<String> {
        let parts = self.path.with_extension("");
        let names = parts.components().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
        names.flat_map(|name| name.split('_').map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(number, line)| (number, without_comment(line)))
    }

    fn at(&self, number: usize, line: &str) -> String {
        format!("{}:{}: {}", self.path.display(), number + 1, line.trim())
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("readable folder").path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Modules that are declared under `#[cfg(test)]` and live in a file of their own.
fn test_modules_of(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_root = path.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs" || name == "main.rs");
    let folder = if is_root { path.parent().unwrap_or(path).to_owned() } else { path.with_extension("") };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let after_cfg = lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg(test)]")).map(|pair| pair[1]);
    let names = after_cfg.filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    names.map(|name| folder.join(name)).collect()
}

/// Marks `#[cfg(test)] mod … { … }` at the outer level: it ends with a brace in the first column.
fn inline_test_lines(text: &str) -> Vec<bool> {
    let lines: Vec<&str> = text.lines().collect();
    let mut marked = vec![false; lines.len()];
    let mut inside = false;
    for (number, line) in lines.iter().enumerate() {
        let begins = line.starts_with("#[cfg(test)]")
            && lines.get(number + 1).is_some_and(|next| next.contains("mod ") && next.ends_with('{'));
        inside |= begins;
        marked[number] = inside;
        inside &= *line != "}";
    }
    marked
}

fn without_comment(line: &str) -> &str {
    // A `//` inside of a string is an address, not a comment.
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

fn has_word(line: &str, word: &str) -> bool {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| {
        let quoted = line[..at].matches('"').count() % 2 == 1;
        !quoted && !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(PathBuf::from("a/src/b.rs"), text.to_owned(), &BTreeSet::new())
    }

    #[test]
    fn test_modules_do_not_count_as_production() {
        let text = "fn a() {\n}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        assert_eq!(source(text).production_lines(), 3);
    }

    #[test]
    fn words_are_found_in_code_only() {
        let text = "use openraft::Raft;\n// openraft here\nlet a = \"openraft\";\nlet openraft_like = 1;\n";
        assert_eq!(source(text).lines_with_word("openraft").len(), 1);
    }

    #[test]
    fn sleeping_tests_are_found() {
        let sleeping = "#[cfg(test)]\nmod tests {\n    fn a() { std::thread::sleep(d) }\n}\n";
        assert_eq!(source(sleeping).sleeps_in_tests(false).len(), 1);
        assert_eq!(source(sleeping).sleeps_in_tests(true).len(), 1, "a sleeping thread takes time");
        let paused = "#[cfg(test)]\nmod tests {\n    #[tokio::test(start_paused = true)]\n    async fn a() { sleep(d).await }\n}\n";
        assert!(source(paused).pauses_the_clock());
        assert_eq!(source(paused).sleeps_in_tests(true).len(), 0);
        assert_eq!(source(paused).sleeps_in_tests(false).len(), 1);
        assert_eq!(source("fn a() { sleep(d) }\n").sleeps_in_tests(false).len(), 0);
    }

    #[test]
    fn test_files_are_known_by_their_declaration() {
        let modules = test_modules_of(Path::new("a/src/queue.rs"), "#[cfg(test)]\nmod tests;\nmod real;\n");
        assert_eq!(modules, [PathBuf::from("a/src/queue/tests")]);
    }
}
