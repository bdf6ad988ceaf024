//! A record as a line.

use std::borrow::Cow;

use api_types::Record;

use super::escape::{self, Dialect, NameProblem, Place, push_text};
use super::fields::{self, FieldValue};
use super::time::PointTime;
use crate::config::integers::Integers;
use crate::sink::RecordFault;
use crate::template::{Template, TemplateContext, TemplateError};

const TOPIC: &str = "topic";
const CLIENT_ID: &str = "client_id";

/// How records become points.
#[derive(Clone, Debug)]
pub(crate) struct PointFormat {
    pub(crate) measurement: MeasurementFormat,
    pub(crate) time: PointTime,
    pub(crate) integers: Integers,
    pub(crate) dialect: Dialect,
    /// Names of columns that the database makes itself.
    pub(crate) own_columns: &'static [&'static str],
}

#[derive(Clone, Debug)]
pub(crate) struct MeasurementFormat {
    template: Template,
    /// Slashes in values become underscores.
    flat: bool,
}

impl MeasurementFormat {
    pub(crate) fn new(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { template: Template::parse(text, TemplateContext::Plain)?, flat: false })
    }

    pub(crate) fn flat(mut self) -> Self {
        self.flat = true;
        self
    }

    fn of(&self, record: &Record) -> Result<String, RecordFault> {
        let rendered = self.template.render_text_with(record, |value| match self.flat {
            true if value.contains('/') => Cow::Owned(value.replace('/', "_")),
            true | false => Cow::Borrowed(value),
        });
        rendered.map_err(|error| RecordFault::offline("missing_value", error.to_string()))
    }
}

impl PointFormat {
    /// Without the line break at its end; fails with a fault of that record alone.
    pub(super) fn line(&self, record: &Record) -> Result<String, RecordFault> {
        let message = &record.message;
        // Names, and a payload that is mostly names and values already.
        let mut line =
            String::with_capacity(message.topic.len() + message.client_id.len() + message.payload.len() + 64);
        let measurement = self.measurement.of(record)?;
        self.push_name(&mut line, &measurement, Place::Measurement, "measurement")?;
        // Sorted, as the servers like them; a tag without a value would make the line invalid.
        for (tag, value) in [(CLIENT_ID, &message.client_id), (TOPIC, &message.topic)] {
            if !value.is_empty() {
                line.push(',');
                line.push_str(tag);
                line.push('=');
                self.push_name(&mut line, value, Place::Key, tag)?;
            }
        }
        for (at, (name, value)) in self.fields(record)?.iter().enumerate() {
            line.push(if at == 0 { ' ' } else { ',' });
            self.push_name(&mut line, name, Place::Key, "name of a field")?;
            line.push('=');
            match value {
                FieldValue::Float(digits) => line.push_str(digits),
                FieldValue::Integer(number) => {
                    line.push_str(&number.to_string());
                    line.push('i');
                }
                FieldValue::Boolean(flag) => line.push_str(if *flag { "true" } else { "false" }),
                FieldValue::Text(text) => push_text(&mut line, text),
            }
        }
        line.push(' ');
        line.push_str(&self.time.of(record)?.to_string());
        Ok(line)
    }

    /// Whether the record has this field, with a value of this type, in this measurement.
    pub(super) fn has_field(&self, record: &Record, measurement: &str, field: &str, type_name: &str) -> bool {
        let same_measurement = self.measurement.of(record).is_ok_and(|of| of == measurement);
        let has = |fields: Vec<(String, FieldValue)>| {
            fields.iter().any(|(name, value)| name == field && value.type_name() == type_name)
        };
        same_measurement && self.fields(record).is_ok_and(has)
    }

    fn fields(&self, record: &Record) -> Result<Vec<(String, FieldValue)>, RecordFault> {
        let used: Vec<&str> = [TOPIC, CLIENT_ID].iter().chain(self.own_columns).copied().collect();
        fields::fields(&record.message.payload, self.integers, &used)
    }

    fn push_name(&self, line: &mut String, name: &str, place: Place, what: &str) -> Result<(), RecordFault> {
        escape::push_name(line, name, place, self.dialect).map_err(|problem| {
            let class = match problem {
                NameProblem::Empty => "empty_name",
                NameProblem::Control
                | NameProblem::TrailingBackslash
                | NameProblem::AmbiguousBackslash
                | NameProblem::Comment => "unwritable_name",
            };
            RecordFault::offline(class, format!("the {what} {name:?} {problem}"))
        })
    }
}

#[cfg(test)]
mod tests;
