//! A JSON body: values go into the texts of the JSON, or stand as JSON values of their own.

use api_types::Record;

use super::parse::{Part, TemplateError};
use super::{MissingValue, Placeholder, TemplateContext};

/// The body must be JSON whatever the values are: a placeholder inside a text is escaped as JSON text, one that stands
/// by itself becomes a JSON value with its own type.
///
/// ```text
/// {"room":"${topic[1]}","reading":${payload}}   ──►   {"room":"kitchen","reading":{"t":21.5}}
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyTemplate {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    InText(Placeholder),
    Alone(Placeholder),
}

/// Where the reader of the literal text stands.
#[derive(Clone, Copy, Default)]
struct Position {
    in_text: bool,
    after_backslash: bool,
}

impl BodyTemplate {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut position = Position::default();
        // The same body with harmless values; it must be JSON, then it is JSON with any values.
        let mut probe = String::new();
        for part in super::parse::parts(text, TemplateContext::Plain)? {
            match part {
                Part::Literal(literal) => {
                    let literal = position.read(&literal);
                    probe.push_str(&literal);
                    pieces.push(Piece::Literal(literal));
                }
                Part::Value(placeholder) if position.in_text => {
                    probe.push_str(if position.after_backslash { "!" } else { "x" });
                    pieces.push(Piece::InText(placeholder));
                }
                Part::Value(placeholder) => {
                    probe.push_str("null");
                    pieces.push(Piece::Alone(placeholder));
                }
            }
        }
        match serde_json::from_str::<serde::de::IgnoredAny>(&probe) {
            Ok(_) => Ok(Self { pieces }),
            Err(error) => {
                Err(TemplateError::Structure(format!("must be JSON once its placeholders are filled in ({error})")))
            }
        }
    }

    /// One JSON value without line breaks between its tokens.
    pub fn render(&self, record: &Record) -> Result<String, MissingValue> {
        let mut body = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => body.push_str(text),
                Piece::InText(placeholder) => {
                    let value = placeholder.value(record)?;
                    let text = std::str::from_utf8(&value).map_err(|_| placeholder.not_text())?;
                    let quoted = serde_json::Value::from(text).to_string();
                    body.push_str(&quoted[1..quoted.len() - 1]);
                }
                Piece::Alone(placeholder) => body.push_str(&placeholder.json(record)?.to_string()),
            }
        }
        Ok(body)
    }
}

impl Position {
    /// Follows the literal text; line breaks between tokens become spaces, so that a body is one line of NDJSON.
    fn read(&mut self, literal: &str) -> String {
        let mut flat = String::with_capacity(literal.len());
        for character in literal.chars() {
            match character {
                '"' if !self.after_backslash => self.in_text = !self.in_text,
                '\n' | '\r' if !self.in_text => {
                    flat.push(' ');
                    continue;
                }
                _ => {}
            }
            self.after_backslash = self.in_text && character == '\\' && !self.after_backslash;
            flat.push(character);
        }
        flat
    }
}
