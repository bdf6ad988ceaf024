//! One value against the shape of its field.

use api_types::secret::MASK;
use serde_json::{Map, Value};

use super::field::{Field, Shape};
use super::format::TextFormat;
use crate::secrets::{SecretFences, has_reference};
use crate::template;

/// Longest single item of a list or name of a map.
const ITEM_CHARS_MAX: usize = 255;
/// Longest value of a map, such as an HTTP header.
const MAP_VALUE_CHARS_MAX: usize = 4_096;

/// What is wrong with a value: the place below the field (empty for the field itself), and the problem.
pub(super) struct Problem {
    pub below: String,
    pub says: String,
}

/// All problems of one value; none when it fits.
pub(super) fn value_problems(field: &Field, value: &Value, fences: &SecretFences) -> Vec<Problem> {
    let shape = field.spec.shape;
    let mismatch = || Err(format!("must be {}, not {}", shape.says(), json_type(value)));
    let whole = match (shape, value) {
        (Shape::TextList { items_min, items_max, format }, Value::Array(items)) => {
            return list_problems(field, items, (items_min, items_max), format, fences);
        }
        (Shape::TextMap { entries_max, format }, Value::Object(entries)) => {
            return map_problems(field, entries, entries_max, format, fences);
        }
        (Shape::Boolean, Value::Bool(_)) => Ok(()),
        (Shape::Integer { min, max }, Value::Number(number)) => integer_fits(number, min, max),
        (Shape::Choice(values), Value::String(text)) if values.contains(&text.as_str()) => Ok(()),
        (Shape::Choice(values), Value::String(text)) => {
            Err(format!("must be one of {}{}", values.join(", "), suggestion(text, values)))
        }
        (Shape::Text { chars_min, chars_max, format }, Value::String(text)) => {
            text_fits(field, text, (chars_min, chars_max), format, fences)
        }
        (Shape::Columns { items_max }, Value::String(_) | Value::Array(_)) => columns_fit(value, items_max, shape),
        (
            Shape::Boolean
            | Shape::Integer { .. }
            | Shape::Choice(_)
            | Shape::Text { .. }
            | Shape::TextList { .. }
            | Shape::Columns { .. }
            | Shape::TextMap { .. },
            _,
        ) => mismatch(),
    };
    whole.err().map(|says| Problem { below: String::new(), says }).into_iter().collect()
}

fn list_problems(
    field: &Field,
    items: &[Value],
    (items_min, items_max): (usize, usize),
    format: TextFormat,
    fences: &SecretFences,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if items.len() < items_min || items.len() > items_max {
        let says = format!("must have {items_min} to {items_max} items, not {}", items.len());
        problems.push(Problem { below: String::new(), says });
    }
    for (index, item) in items.iter().enumerate() {
        let fits = item_text(item).and_then(|text| text_fits(field, text, (1, ITEM_CHARS_MAX), format, fences));
        problems.extend(fits.err().map(|says| Problem { below: format!("[{index}]"), says }));
    }
    problems
}

fn map_problems(
    field: &Field,
    entries: &Map<String, Value>,
    entries_max: usize,
    format: TextFormat,
    fences: &SecretFences,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if entries.len() > entries_max {
        let says = format!("must have at most {entries_max} entries, not {}", entries.len());
        problems.push(Problem { below: String::new(), says });
    }
    for (name, value) in entries {
        let below = || format!(".{name}");
        let says = format.name_problem(name).map(str::to_owned);
        problems.extend(says.map(|says| Problem { below: below(), says }));
        let fits = item_text(value).and_then(|text| text_fits(field, text, (0, MAP_VALUE_CHARS_MAX), format, fences));
        problems.extend(fits.err().map(|says| Problem { below: below(), says }));
    }
    problems
}

fn columns_fit(value: &Value, items_max: usize, shape: Shape) -> Result<(), String> {
    let names = split_columns(value).unwrap_or_default();
    let fit = (1..=items_max).contains(&names.len()) && names.iter().all(|name| fits_as_name(name));
    if fit { Ok(()) } else { Err(format!("must be {}", shape.says())) }
}

impl Shape {
    /// Completes the sentence "must be …".
    pub fn says(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::Choice(values) => format!("one of {} (text)", values.join(", ")),
            Self::Text { chars_min, chars_max, format } => {
                format!("{} ({chars_min} to {chars_max} characters)", format.says())
            }
            Self::TextList { items_min, items_max, .. } => format!("an array of {items_min} to {items_max} texts"),
            Self::Columns { items_max } => {
                format!("1 to {items_max} column names, as a comma list or an array of texts")
            }
            Self::TextMap { entries_max, format: TextFormat::HeaderValue } => {
                format!("an object from header names to texts, at most {entries_max}")
            }
            Self::TextMap { entries_max, .. } => format!("an object from names to texts, at most {entries_max}"),
        }
    }
}

/// The names in a comma list or an array; `None` when an item is not text.
pub(super) fn split_columns(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(text.split(',').map(|name| name.trim().to_owned()).collect()),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(|name| name.trim().to_owned())).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// ` (did you mean x?)` when one of the known words is near, else nothing.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean {near}?)"))
}

/// The known word that is most like this one, if any is much like it.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    const ALIKE_MIN: f64 = 0.75;
    let word = word.to_lowercase();
    let likeness = |candidate: &str| strsim::jaro_winkler(&word, &candidate.to_lowercase());
    known
        .iter()
        .map(|candidate| (likeness(candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn integer_fits(number: &serde_json::Number, min: u64, max: u64) -> Result<(), String> {
    match number.as_u64() {
        Some(value) if (min..=max).contains(&value) => Ok(()),
        Some(_) | None => Err(format!("must be an integer from {min} to {max}, not {number}")),
    }
}

fn item_text(item: &Value) -> Result<&str, String> {
    item.as_str().ok_or_else(|| format!("must be text, not {}", json_type(item)))
}

fn fits_as_name(name: &str) -> bool {
    (1..=ITEM_CHARS_MAX).contains(&name.chars().count()) && !name.contains(char::is_control)
}

/// Never repeats the text itself: it may be a secret.
fn text_fits(
    field: &Field,
    text: &str,
    (chars_min, chars_max): (usize, usize),
    format: TextFormat,
    fences: &SecretFences,
) -> Result<(), String> {
    if text.contains(MASK) && (field.spec.secret || text == MASK || text.contains("://")) {
        return Err(format!("is {MASK}, the mask of a secret: send the secret itself"));
    }
    let chars = text.chars().count();
    if chars < chars_min || chars > chars_max {
        return Err(format!("must have {chars_min} to {chars_max} characters, not {chars}"));
    }
    if let Some(kind) = field.spec.template {
        return template::check(kind, text).map_err(|error| error.to_string());
    }
    if field.spec.takes_reference() {
        fences.check(text)?;
        if has_reference(text) {
            // Its form is checked when the reference was resolved, on the node that runs the task.
            return Ok(());
        }
    }
    if format.accepts(text) || (text.is_empty() && chars_min == 0) {
        Ok(())
    } else {
        Err(format!("must be {}", format.says()))
    }
}
