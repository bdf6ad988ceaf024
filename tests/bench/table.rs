//! Tables of results, as Markdown.

/// One table with what has to be said about it.
#[derive(Debug, Default)]
pub struct Table {
    pub title: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub notes: Vec<String>,
}

impl Table {
    pub fn new(title: &str, columns: &[&'static str]) -> Self {
        Self { title: title.to_owned(), columns: columns.to_vec(), ..Self::default() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("**{}**\n\n", self.title);
        let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        text += &line(&mut self.columns.iter().map(|column| (*column).to_owned()));
        text +=
            &line(&mut self.columns.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" }.to_owned()));
        for row in &self.rows {
            text += &line(&mut row.iter().cloned());
        }
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text
    }
}

/// Three digits, with a thousands separator: nobody measures more than that here.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if magnitude < 2 {
        return format!("{value:.*}", usize::try_from(2 - magnitude).unwrap_or_default().min(3));
    }
    let step = 10_f64.powi(magnitude - 2);
    grouped(((value / step).round() * step) as i64)
}

fn grouped(value: i64) -> String {
    let digits = value.abs().to_string();
    let mut text = if value < 0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A ratio with its aim and whether it was reached.
pub fn against(ratio: f64, aim: Aim) -> [String; 2] {
    if !ratio.is_finite() {
        return ["–".to_owned(), aim.to_string()];
    }
    let reached = if aim.holds(ratio) { "yes" } else { "no" };
    [format!("**{ratio:.2}**"), format!("{aim}: {reached}")]
}

#[derive(Clone, Copy, Debug)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, expected) in [
            (0.01234, "0.012"),
            (0.5, "0.500"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (162_345.0, "162 000"),
            (999.6, "1 000"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new("t", &["a", "b"]);
        table.row(["x".to_owned(), "1".to_owned()]);
        table.note("n");
        assert_eq!(table.markdown(), "**t**\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n\nn\n");
    }

    #[test]
    fn aims_say_whether_they_are_reached() {
        assert_eq!(against(0.9, Aim::AtLeast(1.0)), ["**0.90**", "≥ 1: no"]);
        assert_eq!(against(0.5, Aim::AtMost(0.6)), ["**0.50**", "≤ 0.6: yes"]);
    }
}
