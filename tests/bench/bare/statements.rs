//! Statements of many rows, without anything that could repeat them.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

/// Rows of a text as a database writes it – one on a line, cells apart by tabs, backslashes before what needs them – as
/// statements that insert so many of them each. `literal` writes a cell between quotation marks.
pub fn inserts(table: &str, columns: usize, copied: &str, each: usize, literal: fn(&str) -> String) -> Result<String> {
    let rows: Vec<&str> = copied.lines().collect();
    let mut text = String::new();
    for rows in rows.chunks(each) {
        write!(text, "insert into {table} values ")?;
        for (at, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row.split('\t').map(literal).collect();
            ensure!(cells.len() == columns, "not {columns} cells: {row}");
            write!(text, "{}('{}')", if at == 0 { "" } else { "," }, cells.join("','"))?;
        }
        text.push_str(";\n");
    }
    Ok(text)
}

/// Backslashes stand for themselves.
pub fn postgres(cell: &str) -> String {
    cell.replace("\\\\", "\\").replace('\'', "''")
}

/// Backslashes mean the same as in the text.
pub fn mysql(cell: &str) -> String {
    cell.replace('\'', "''")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_rows_become_statements() {
        let copied = "c\tt/1\t17\t{\"a\":1}\t\\\\x6869\nd\tt\t18\tx\t\\\\x00\n";
        let expected = "insert into r values ('c','t/1','17','{\"a\":1}','\\x6869'),('d','t','18','x','\\x00');\n";
        assert_eq!(inserts("r", 5, copied, 10, postgres).expect("rows"), expected);
        assert!(inserts("r", 5, "a\tb", 10, postgres).is_err());
        assert_eq!(inserts("r", 1, "a\nb\nc", 2, postgres).expect("rows").lines().count(), 2);
    }

    #[test]
    fn quotes_stay_inside() {
        assert_eq!(postgres("it's \\\\"), "it''s \\");
        assert_eq!(mysql("it's \\\\"), "it''s \\\\");
    }
}
