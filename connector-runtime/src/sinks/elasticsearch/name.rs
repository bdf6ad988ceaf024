//! The name of a record's index.

use std::borrow::Cow;

use api_types::Record;

use super::config::{NAME_BYTES_MAX, is_forbidden};
use crate::sink::RecordFault;
use crate::template::{Template, TemplateContext, TemplateError};

/// Names with a text of their own before every value, so that no record can lead anywhere else.
#[derive(Clone, Debug)]
pub(super) struct IndexName {
    template: Template,
}

impl IndexName {
    pub(super) fn new(template: &str) -> Result<Self, TemplateError> {
        Ok(Self { template: Template::parse(template, TemplateContext::Plain)? })
    }

    /// Where all records go to the same index.
    pub(super) fn of_all(&self) -> Option<String> {
        self.template.is_literal().then(|| self.template.literals().collect())
    }

    pub(super) fn of(&self, record: &Record) -> Result<String, RecordFault> {
        let name = self
            .template
            .render_text_with(record, |value| Cow::Owned(folded(value)))
            .map_err(|error| RecordFault::offline("missing_value", error.to_string()))?;
        if name.len() > NAME_BYTES_MAX {
            let says = format!("the name of its index has {} bytes; {NAME_BYTES_MAX} are allowed", name.len());
            return Err(RecordFault::offline("index_name_too_long", says));
        }
        Ok(name)
    }
}

fn folded(value: &str) -> String {
    value.to_lowercase().chars().map(|character| if is_forbidden(character) { '_' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::opened::record;

    fn check(template: &str, topic: &str, expect: Result<&str, &str>) {
        let name = IndexName::new(template).expect("is a template");
        let mut record = record(1, "{}");
        record.message.topic = topic.to_owned();
        let got = name.of(&record);
        assert_eq!(got.as_deref().map_err(|fault| &*fault.class), expect, "{template} {topic:?}");
    }

    #[test]
    fn values_become_part_of_one_name() {
        check("mqtt", "a", Ok("mqtt"));
        check("mqtt-${topic[0]}-${date:%Y.%m.%d}", "plant/one", Ok("mqtt-plant-2023.11.14"));
        check("mqtt-${topic}", "Plant/ÄRGER one", Ok("mqtt-plant_ärger_one"));
        check("mqtt-${topic}", "a\\b*?\"<>|,#:\n\u{a0}", Ok("mqtt-a_b___________"));
        check("mqtt-${topic}", "../_x", Ok("mqtt-..__x"));
        check("mqtt-${topic}", "", Ok("mqtt-"));
        check("mqtt-${topic[3]}", "a/b", Err("missing_value"));
        check("mqtt-${topic}", &"x".repeat(250), Ok(&format!("mqtt-{}", "x".repeat(250))));
        check("mqtt-${topic}", &"ü".repeat(126), Err("index_name_too_long"));
        // A letter that has more bytes in lower case.
        check("m${topic}", &"İ".repeat(100), Err("index_name_too_long"));
    }

    #[test]
    fn one_name_for_all_is_known_before_there_is_a_record() {
        assert_eq!(IndexName::new("mqtt").expect("is a template").of_all().as_deref(), Some("mqtt"));
        assert_eq!(IndexName::new("a$${b").expect("is a template").of_all().as_deref(), Some("a${b"));
        assert_eq!(IndexName::new("mqtt-${topic}").expect("is a template").of_all(), None);
    }
}
