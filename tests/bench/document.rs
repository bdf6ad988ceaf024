//! `docs/performance.md`: prose by people, and between two marks for each part what was measured last.

use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::parts::Part;
use crate::table::Table;

pub struct Document(String);

impl Document {
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self(std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?))
    }

    /// Puts the text between the marks of the part.
    pub fn replace(self, part: Part, text: &str) -> Result<Self> {
        let (begin, end) = (format!("<!-- {part}: begin -->"), format!("<!-- {part}: end -->"));
        let (before, rest) = self.0.split_once(&begin).with_context(|| format!("no `{begin}`"))?;
        let (_, after) = rest.split_once(&end).with_context(|| format!("no `{end}`"))?;
        Ok(Self(format!("{before}{begin}\n{}\n{end}{after}", text.trim_end())))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, &self.0).with_context(|| format!("write {}", path.display()))
    }
}

/// What is printed and written for one part.
pub fn section(part: Part, before: &Machine, after: &Machine, tables: &[Table]) -> String {
    let mut text = format!(
        "`{}` on {before}; load average {} before, {} after. Medians.\n",
        part.command(),
        before.load,
        after.load
    );
    for table in tables {
        text += &format!("\n{}", table.markdown());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_of_the_part_changes() {
        let old =
            "a\n<!-- ingest: begin -->\nold\n<!-- ingest: end -->\nb\n<!-- sink: begin -->\nkept\n<!-- sink: end -->\n";
        let new = Document(old.to_owned()).replace(Part::Ingest, "new\n").expect("marks");
        assert_eq!(new.0, old.replace("old", "new"));
        assert!(Document("nothing".to_owned()).replace(Part::Ingest, "new").is_err());
    }
}
