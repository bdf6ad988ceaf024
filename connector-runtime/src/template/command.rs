//! A redis command: arguments first, values second.

use api_types::Record;

use super::parse::{Part, TemplateError, placeholder_end};
use super::{MissingValue, Placeholder, Template, TemplateContext};

/// The template is cut into arguments before any value is put in, so a payload with spaces or quotes stays one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTemplate {
    name: String,
    arguments: Vec<Template>,
}

impl CommandTemplate {
    /// Arguments are separated by white space. `"…"` holds an argument together (`\"` and `\\` inside), and so does
    /// `'…'`, which has no escapes.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let structure = |says: &str| TemplateError::Structure(says.to_owned());
        let mut templates = Vec::new();
        for argument in split_arguments(text)? {
            templates.push(Template::parse(&argument, TemplateContext::Redis)?);
        }
        let mut templates = templates.into_iter();
        let first = templates.next().ok_or_else(|| structure("must name a command"))?;
        if !first.is_literal() || first.is_empty() {
            return Err(structure("must begin with the name of the command, which cannot be a placeholder"));
        }
        // A literal has at most one part, and it does not need a record.
        let name = first.parts.iter().map(|part| match part {
            Part::Literal(text) => text.as_str(),
            Part::Value(_) => "",
        });
        Ok(Self { name: name.collect(), arguments: templates.collect() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// One of the arguments is this word, in whatever case and for every record.
    pub fn has_literal(&self, word: &str) -> bool {
        self.arguments.iter().any(|argument| match &argument.parts[..] {
            [Part::Literal(text)] => text.eq_ignore_ascii_case(word),
            _ => false,
        })
    }

    /// The arguments after the name, as bytes. `payload` stands where the whole payload is asked for.
    pub fn render(&self, record: &Record, payload: &[u8]) -> Result<Vec<Vec<u8>>, MissingValue> {
        let render = |argument: &Template| {
            let mut rendered = Vec::new();
            for part in &argument.parts {
                match part {
                    Part::Literal(text) => rendered.extend_from_slice(text.as_bytes()),
                    Part::Value(Placeholder::Payload) => rendered.extend_from_slice(payload),
                    Part::Value(placeholder) => rendered.extend_from_slice(&placeholder.value(record)?),
                }
            }
            Ok(rendered)
        };
        self.arguments.iter().map(render).collect()
    }
}

/// Placeholders are kept whole: a space inside of one separates nothing.
fn split_arguments(text: &str) -> Result<Vec<String>, TemplateError> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut quote = None;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let mut taken = character.len_utf8();
        match quote {
            None if character.is_whitespace() => arguments.extend(current.take()),
            None if matches!(character, '"' | '\'') => {
                quote = Some(character);
                current.get_or_insert_default();
            }
            Some(open) if character == open => quote = None,
            Some('"') if character == '\\' => {
                let escaped = rest[1..].chars().next().filter(|escaped| matches!(escaped, '"' | '\\'));
                let pushed = escaped.unwrap_or('\\');
                taken += escaped.map_or(0, char::len_utf8);
                current.get_or_insert_default().push(pushed);
            }
            None | Some(_) => {
                taken = piece_length(rest)?;
                current.get_or_insert_default().push_str(&rest[..taken]);
            }
        }
        rest = &rest[taken..];
    }
    if quote.is_some() {
        return Err(TemplateError::Structure("has a quote that is not closed".to_owned()));
    }
    arguments.extend(current.take());
    Ok(arguments)
}

/// An escape or a placeholder as a whole, else one character.
fn piece_length(rest: &str) -> Result<usize, TemplateError> {
    if rest.starts_with("$${") {
        return Ok(3);
    }
    match rest.strip_prefix("${") {
        Some(after) => Ok(2 + placeholder_end(after)? + 1),
        None => Ok(rest.chars().next().map_or(0, char::len_utf8)),
    }
}
