//! Templates: text with placeholders, compiled when a connector is created and rendered for every record.
//!
//! ```text
//! text ──parse──► Template [Literal | Value(Placeholder)]… ──render_with(record, escape)──► bytes
//!                    │                                          escape sees values only, literal text stays untouched
//!                    ├─ command::CommandTemplate   arguments of a redis command, cut apart before anything is put in
//!                    ├─ statement::StatementTemplate   SQL whose values are bound, never pasted
//!                    └─ body::BodyTemplate         JSON whose values stay inside their texts
//! ```
//!
//! A missing value is the record's own failure (`MissingValue`); it is never rendered as "null" or "undefined".
//! Payloads may be any bytes.

pub mod body;
pub mod command;
mod parse;
mod placeholder;
pub mod statement;

use std::borrow::Cow;

use api_types::Record;

pub use parse::TemplateError;
pub use placeholder::{MissingValue, Placeholder};

use parse::Part;
use statement::Dialect;

/// What a templated field is a template of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKind {
    Text,
    RedisCommand,
    MysqlStatement,
    PostgresStatement,
    JsonBody,
}

impl TemplateKind {
    pub fn says(self) -> &'static str {
        match self {
            Self::Text => "template",
            Self::RedisCommand => "command template",
            Self::MysqlStatement | Self::PostgresStatement => "SQL template",
            Self::JsonBody => "JSON template",
        }
    }
}

/// Which forms of placeholders a text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateContext {
    Plain,
    /// `{payload}` is a placeholder too; every other `{…}`, such as a hash tag, is text.
    Redis,
}

/// Compiles the text as its field's kind of template, and forgets it: for validation.
pub fn check(kind: TemplateKind, text: &str) -> Result<(), TemplateError> {
    match kind {
        TemplateKind::Text => Template::parse(text, TemplateContext::Plain).map(drop),
        TemplateKind::RedisCommand => command::CommandTemplate::parse(text).map(drop),
        TemplateKind::MysqlStatement => statement::StatementTemplate::parse(text, Dialect::Mysql).map(drop),
        TemplateKind::PostgresStatement => statement::StatementTemplate::parse(text, Dialect::Postgres).map(drop),
        TemplateKind::JsonBody => body::BodyTemplate::parse(text).map(drop),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    pub fn parse(text: &str, context: TemplateContext) -> Result<Self, TemplateError> {
        Ok(Self { parts: parse::parts(text, context)? })
    }

    /// Nothing but text: the same for every record.
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// The texts beside the placeholders, in their order.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Value(_) => None,
        })
    }

    /// What every rendered text begins with; empty when that is a value.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(text)) => text,
            Some(Part::Value(_)) | None => "",
        }
    }

    /// The text was empty.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn render(&self, record: &Record) -> Result<Vec<u8>, MissingValue> {
        self.render_with(record, |value| Cow::Borrowed(value))
    }

    /// `escape` gets each value alone, and never the template's own text.
    pub fn render_with(
        &self,
        record: &Record,
        mut escape: impl for<'v> FnMut(&'v [u8]) -> Cow<'v, [u8]>,
    ) -> Result<Vec<u8>, MissingValue> {
        let mut rendered = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => rendered.extend_from_slice(text.as_bytes()),
                Part::Value(placeholder) => rendered.extend_from_slice(&escape(&placeholder.value(record)?)),
            }
        }
        Ok(rendered)
    }

    /// For targets that take text only: a value that is not UTF-8 is the record's own failure as well.
    pub fn render_text(&self, record: &Record) -> Result<String, MissingValue> {
        self.render_text_with(record, |value| Cow::Borrowed(value))
    }

    pub fn render_text_with(
        &self,
        record: &Record,
        mut escape: impl for<'v> FnMut(&'v str) -> Cow<'v, str>,
    ) -> Result<String, MissingValue> {
        let mut rendered = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => rendered.push_str(text),
                Part::Value(placeholder) => {
                    let value = placeholder.value(record)?;
                    let text = std::str::from_utf8(&value).map_err(|_| placeholder.not_text())?;
                    rendered.push_str(&escape(text));
                }
            }
        }
        Ok(rendered)
    }
}

#[cfg(test)]
mod tests;
