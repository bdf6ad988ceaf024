//! Columns for people.

use serde_json::Value;

/// A long value is cut, so that a line stays a line.
const CELL_WIDTH_MAX: usize = 60;

/// A title over each column, two spaces between them.
pub fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cut(text)).collect()).collect();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(at, title)| {
            rows.iter().filter_map(|row| row.get(at)).map(|text| width(text)).chain([width(title)]).max()
        })
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = line(titles.iter().copied(), &widths);
    for row in &rows {
        text.push_str(&line(row.iter().map(String::as_str), &widths));
    }
    text
}

/// A name and a value on each line.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{name:widest$}  {value}\n")).collect()
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, wanted) in cells.zip(widths) {
        text.push_str(cell);
        text.push_str(&" ".repeat(wanted - width(cell) + 2));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    if width(text) <= CELL_WIDTH_MAX {
        return text.chars().map(shown).collect();
    }
    text.chars().map(shown).take(CELL_WIDTH_MAX - 1).chain(['…']).collect()
}

/// A value of an answer as a cell; `-` for nothing.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".into(), "Running".into()], vec!["a long name".into(), "Idle".into()]];
        let text = table(&["NAME", "STATUS"], &rows);
        assert_eq!(text, "NAME         STATUS\na            Running\na long name  Idle\n");
    }

    #[test]
    fn long_cells_are_cut() {
        let text = table(&["A", "B"], &[vec!["ä".repeat(100), "x\ny".into()]]);
        let last = text.lines().last().unwrap_or_default();
        assert!(last.contains('…') && last.ends_with("  x y"), "{last}");
    }
}
