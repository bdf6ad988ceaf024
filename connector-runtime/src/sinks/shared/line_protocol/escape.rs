//! Names and texts in line protocol. Each position has its own rule, and backslashes mean different things to different
//! servers; what no server would read back as it was is refused here.

/// Whose reading of backslashes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// InfluxDB 1 and 2: a backslash in a name is itself, unless one of the escaped characters follows.
    Influx,
    /// The parser that InfluxData wrote in Rust, which GreptimeDB uses: a backslash in a name is written twice.
    Doubling,
}

/// A position in which a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Measurement,
    /// Keys and values of tags, and keys of fields.
    Key,
}

/// A name that cannot be written so that it is read back as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameProblem {
    #[error("is empty")]
    Empty,
    #[error("has a control character")]
    Control,
    #[error("ends in a backslash")]
    TrailingBackslash,
    #[error("has a backslash before a comma, an equals sign, a space or a quotation mark")]
    AmbiguousBackslash,
    #[error("begins with #, which would make a comment of it")]
    Comment,
}

impl Place {
    fn escapes(self, character: char) -> bool {
        match self {
            Self::Measurement => matches!(character, ',' | ' '),
            Self::Key => matches!(character, ',' | ' ' | '='),
        }
    }
}

/// Appends the name; what was appended before a problem was found is of no use.
pub(super) fn push_name(line: &mut String, name: &str, place: Place, dialect: Dialect) -> Result<(), NameProblem> {
    if name.is_empty() {
        return Err(NameProblem::Empty);
    }
    if place == Place::Measurement && name.starts_with('#') {
        return Err(NameProblem::Comment);
    }
    let mut characters = name.chars().peekable();
    while let Some(character) = characters.next() {
        if character.is_control() {
            return Err(NameProblem::Control);
        }
        if character == '\\' {
            match (characters.peek(), dialect) {
                (None, _) => return Err(NameProblem::TrailingBackslash),
                // InfluxDB cuts lines and names by different rules here, so that it could take two lines for one.
                (Some(',' | ' ' | '=' | '"'), Dialect::Influx) => return Err(NameProblem::AmbiguousBackslash),
                (Some(_), Dialect::Influx) => {}
                (Some(_), Dialect::Doubling) => line.push('\\'),
            }
        } else if place.escapes(character) {
            line.push('\\');
        }
        line.push(character);
    }
    Ok(())
}

/// Appends a text value with its quotation marks; it may have line breaks. All servers read it alike.
pub(super) fn push_text(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            line.push('\\');
        }
        line.push(character);
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, place: Place, dialect: Dialect) -> Result<String, NameProblem> {
        let mut line = String::new();
        push_name(&mut line, name, place, dialect).map(|()| line)
    }

    #[test]
    fn every_position_has_its_own_rule() {
        for dialect in [Dialect::Influx, Dialect::Doubling] {
            assert_eq!(written("a, b=c\"d", Place::Measurement, dialect), Ok("a\\,\\ b=c\"d".to_owned()));
            assert_eq!(written("a, b=c\"d", Place::Key, dialect), Ok("a\\,\\ b\\=c\"d".to_owned()));
        }
        assert_eq!(written("C:\\temp", Place::Key, Dialect::Influx), Ok("C:\\temp".to_owned()));
        assert_eq!(written("C:\\temp", Place::Key, Dialect::Doubling), Ok("C:\\\\temp".to_owned()));
        assert_eq!(written("a\\,b", Place::Key, Dialect::Doubling), Ok("a\\\\\\,b".to_owned()));
        let mut text = String::new();
        push_text(&mut text, "say \"a\\b\"\nand, so=on");
        assert_eq!(text, "\"say \\\"a\\\\b\\\"\nand, so=on\"");
    }

    #[test]
    fn what_no_server_reads_back_is_refused() {
        for dialect in [Dialect::Influx, Dialect::Doubling] {
            for (name, problem) in [
                ("", NameProblem::Empty),
                ("a\nb", NameProblem::Control),
                ("\tb", NameProblem::Control),
                ("a\0", NameProblem::Control),
                ("a\\", NameProblem::TrailingBackslash),
                ("#a", NameProblem::Comment),
            ] {
                assert_eq!(written(name, Place::Measurement, dialect), Err(problem), "{name:?}");
            }
            assert_eq!(written("#a", Place::Key, dialect), Ok("#a".to_owned()), "only a line's begin makes a comment");
        }
        for name in ["a\\,b", "a\\ b", "a\\=b", "a\\\"b", "a\\\\ b"] {
            let refused = Err(NameProblem::AmbiguousBackslash);
            assert_eq!(written(name, Place::Key, Dialect::Influx), refused, "{name}");
        }
    }
}
