//! Template text to parts.

use super::TemplateContext;
use super::placeholder::Placeholder;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("has an unknown placeholder ${{{found}}}{suggestion}; known placeholders: {known}")]
    Unknown { found: String, suggestion: String, known: String },
    #[error("has a ${{ without its }}; write $${{ for the two characters themselves")]
    NotClosed,
    #[error("has the reference ${{{found}}}, but a template takes no references to secrets")]
    Reference { found: String },
    #[error("has a wrong placeholder ${{{found}}}: {problem}")]
    Placeholder { found: String, problem: String },
    #[error("{0}")]
    Structure(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Value(Placeholder),
}

/// The seed's form of the payload in redis commands.
const REDIS_PAYLOAD: &str = "{payload}";

pub(super) fn parts(text: &str, context: TemplateContext) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("$${") {
            literal.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let end = placeholder_end(after)?;
            push_literal(&mut parts, &mut literal);
            parts.push(Part::Value(Placeholder::parse(&after[..end])?));
            rest = &after[end + 1..];
        } else if context == TemplateContext::Redis && rest.starts_with(REDIS_PAYLOAD) {
            push_literal(&mut parts, &mut literal);
            parts.push(Part::Value(Placeholder::Payload));
            rest = &rest[REDIS_PAYLOAD.len()..];
        } else {
            literal.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    push_literal(&mut parts, &mut literal);
    Ok(parts)
}

/// Where the `}` stands that closes a placeholder whose inside begins here.
pub(super) fn placeholder_end(after: &str) -> Result<usize, TemplateError> {
    after.find('}').ok_or(TemplateError::NotClosed)
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal)));
    }
}
