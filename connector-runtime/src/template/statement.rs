//! An SQL statement: values are bound as parameters, never pasted into the text.

use super::Placeholder;
use super::parse::{TemplateError, placeholder_end};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The seed's form has exactly three `?`: record key, payload, timestamp.
    Mysql,
    /// The seed's form has `$1` to `$5`: client id, topic, timestamp, payload, data.
    Postgres,
}

const MYSQL_PARAMETERS: usize = 3;
const POSTGRES_PARAMETERS: usize = 5;

/// A statement in the seed's form, or with placeholders, each of which becomes one bound parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementTemplate {
    /// With `?` or `$n` where values are bound.
    pub sql: String,
    pub parameters: Parameters,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// The seed's own, in the seed's order.
    Seed,
    /// One placeholder for each parameter, in order.
    Named(Vec<Placeholder>),
}

/// What the scanner sees at one place of the statement.
enum Token<'a> {
    /// Text to copy: SQL, or a whole quoted text or comment.
    Text(&'a str),
    Quoted(&'a str),
    /// `?` or `$n` in the seed's form; the number is 0 for `?`.
    Marker(&'a str, usize),
    Placeholder(&'a str),
}

impl StatementTemplate {
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, TemplateError> {
        let structure = |says: String| TemplateError::Structure(says);
        let mut sql = String::new();
        let mut named = Vec::new();
        let mut markers = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (token, after) = next_token(rest, dialect)?;
            rest = after;
            match token {
                Token::Text(text) => sql.push_str(text),
                Token::Quoted(text) if text.contains("${") => {
                    return Err(structure(
                        "has a placeholder inside quotes or a comment: values are bound, so write it without quotes"
                            .to_owned(),
                    ));
                }
                Token::Quoted(text) => sql.push_str(text),
                Token::Marker(text, number) => {
                    markers.push(number);
                    sql.push_str(text);
                }
                Token::Placeholder(inside) => {
                    named.push(Placeholder::parse(inside)?);
                    match dialect {
                        Dialect::Mysql => sql.push('?'),
                        Dialect::Postgres => sql.push_str(&format!("${}", named.len())),
                    }
                }
            }
        }
        if !named.is_empty() && !markers.is_empty() {
            return Err(structure(format!("must use either {} or named placeholders, not both", dialect.seed_form())));
        }
        if named.is_empty() {
            dialect.check_markers(&markers).map_err(structure)?;
            return Ok(Self { sql, parameters: Parameters::Seed });
        }
        Ok(Self { sql, parameters: Parameters::Named(named) })
    }
}

impl Dialect {
    fn seed_form(self) -> &'static str {
        match self {
            Self::Mysql => "three ? (record_key, payload, timestamp)",
            Self::Postgres => "$1 to $5 (client_id, topic, timestamp, payload, data)",
        }
    }

    fn check_markers(self, markers: &[usize]) -> Result<(), String> {
        let fits = match self {
            Self::Mysql => markers.len() == MYSQL_PARAMETERS,
            Self::Postgres => {
                (1..=POSTGRES_PARAMETERS).all(|number| markers.contains(&number))
                    && markers.iter().all(|number| (1..=POSTGRES_PARAMETERS).contains(number))
            }
        };
        let found = markers.len();
        let message =
            || format!("must have {}, or named placeholders such as ${{topic}}; found {found}", self.seed_form());
        if fits { Ok(()) } else { Err(message()) }
    }
}

fn next_token(rest: &str, dialect: Dialect) -> Result<(Token<'_>, &str), TemplateError> {
    if let Some(quoted) = quoted_length(rest, dialect)? {
        return Ok((Token::Quoted(&rest[..quoted]), &rest[quoted..]));
    }
    if let Some(after) = rest.strip_prefix("$${") {
        return Ok((Token::Text(&rest[1..3]), after));
    }
    if let Some(after) = rest.strip_prefix("${") {
        let end = placeholder_end(after)?;
        return Ok((Token::Placeholder(&after[..end]), &after[end + 1..]));
    }
    let length = match dialect {
        Dialect::Mysql if rest.starts_with('?') => return Ok((Token::Marker("?", 0), &rest[1..])),
        Dialect::Mysql => 1,
        Dialect::Postgres => {
            let digits = rest.strip_prefix('$').map_or(0, |after| digits(after).len());
            if digits > 0 {
                let marker = &rest[..=digits];
                // A number that does not fit is no parameter of ours, and refused as one.
                let number = marker[1..].parse().unwrap_or(usize::MAX);
                return Ok((Token::Marker(marker, number), &rest[marker.len()..]));
            }
            1
        }
    };
    let length = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
    Ok((Token::Text(&rest[..length]), &rest[length..]))
}

fn digits(text: &str) -> &str {
    &text[..text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len())]
}

/// Length of the quoted text or comment that begins here, if one does.
fn quoted_length(rest: &str, dialect: Dialect) -> Result<Option<usize>, TemplateError> {
    let open = |says: &str| TemplateError::Structure(format!("has {says} that is not closed"));
    let hash_comment = dialect == Dialect::Mysql && rest.starts_with('#');
    if rest.starts_with("--") || hash_comment {
        return Ok(Some(rest.find('\n').map_or(rest.len(), |at| at + 1)));
    }
    if let Some(after) = rest.strip_prefix("/*") {
        return after.find("*/").map(|at| Some(at + 4)).ok_or_else(|| open("a comment"));
    }
    if let Some(tag) = dollar_tag(rest, dialect) {
        let after = &rest[tag.len()..];
        return after.find(tag).map(|at| Some(at + 2 * tag.len())).ok_or_else(|| open("a $$ quote"));
    }
    let Some(quote) = rest.chars().next().filter(|first| matches!(first, '\'' | '"' | '`')) else {
        return Ok(None);
    };
    let backslash = dialect == Dialect::Mysql && quote != '`';
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if character == quote && !escaped {
            // A doubled quote is two quoted texts side by side, which reads the same.
            return Ok(Some(at + 1));
        }
        escaped = backslash && character == '\\' && !escaped;
    }
    Err(open("a quote"))
}

/// `$$` or `$tag$` of PostgreSQL.
fn dollar_tag(rest: &str, dialect: Dialect) -> Option<&str> {
    if dialect != Dialect::Postgres || rest.starts_with("$${") {
        return None;
    }
    let after = rest.strip_prefix('$')?;
    let end = after.find('$')?;
    let tag = &after[..end];
    let word = tag.chars().all(|character| character.is_alphanumeric() || character == '_')
        && !tag.starts_with(|character: char| character.is_ascii_digit());
    word.then(|| &rest[..end + 2])
}
