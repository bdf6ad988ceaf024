//! Rules between fields.

use serde_json::{Map, Value};

use api_types::FieldProblem;

use super::field::{Literal, plain};

#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// All of them or none.
    Together(&'static [&'static str]),
    /// At most one of them.
    OnlyOneOf(&'static [&'static str]),
    /// `field` ≤ `bound`.
    NotAbove { field: &'static str, bound: &'static str },
    /// `field` < `bound`.
    Below { field: &'static str, bound: &'static str },
    /// Whatever the others cannot say; `says` describes it in the documentation.
    Check { says: &'static str, check: fn(&Checked<'_>, &mut Report) },
}

/// The fields that passed on their own, with the defaults filled in. A field that did not is absent, and a rule that
/// needs it has nothing to say: its problem is reported already.
pub struct Checked<'a> {
    pub(super) effective: &'a Map<String, Value>,
    /// What the user sent, without nulls.
    pub(super) sent: &'a Map<String, Value>,
}

impl Checked<'_> {
    /// Sent (well-formed or not), or filled in by a default.
    pub fn has(&self, field: &str) -> bool {
        self.sent.contains_key(field) || self.effective.contains_key(field)
    }

    pub fn was_sent(&self, field: &str) -> bool {
        self.sent.contains_key(field)
    }

    pub fn value(&self, field: &str) -> Option<&Value> {
        self.effective.get(field)
    }

    pub fn text(&self, field: &str) -> &str {
        self.value(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn integer(&self, field: &str) -> Option<u64> {
        self.value(field).and_then(Value::as_u64)
    }

    pub fn is_true(&self, field: &str) -> bool {
        self.value(field) == Some(&Value::Bool(true))
    }
}

/// Collects everything that is to be said about a configuration.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) problems: Vec<FieldProblem>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    pub fn problem(&mut self, field: &str, says: impl Into<String>) {
        self.problems.push(FieldProblem::new(format!("config.{field}"), says));
    }

    pub fn warning(&mut self, says: impl Into<String>) {
        self.warnings.push(says.into());
    }
}

/// The setting with which a user gives up the target's confirmation.
#[derive(Clone, Copy, Debug)]
pub struct GivesUp {
    pub field: &'static str,
    pub value: Literal,
}

/// The setting with which every record becomes a request of its own.
#[derive(Clone, Copy, Debug)]
pub struct OneByOne {
    pub field: &'static str,
    pub value: Literal,
}

impl OneByOne {
    pub fn applies(&self, effective: &Map<String, Value>) -> bool {
        effective.get(self.field) == Some(&self.value.to_value())
    }
}

impl GivesUp {
    pub fn applies(&self, effective: &Map<String, Value>) -> bool {
        effective.get(self.field) == Some(&self.value.to_value())
    }

    pub fn warning(&self) -> String {
        format!(
            "config.{} is {}: the target confirms nothing, records count as delivered once they are handed to the socket \
             (delivery at_most_once)",
            self.field,
            plain(&self.value.to_value())
        )
    }
}

impl Rule {
    pub(super) fn apply(&self, checked: &Checked<'_>, report: &mut Report) {
        match self {
            Self::Together(fields) => together(fields, checked, report),
            Self::OnlyOneOf(fields) => {
                let sent: Vec<&str> = fields.iter().copied().filter(|field| checked.has(field)).collect();
                if sent.len() > 1 {
                    report.problem(sent[1], format!("cannot stand beside {}: use one of them", sent[0]));
                }
            }
            Self::NotAbove { field, bound } => {
                if let (Some(value), Some(limit)) = (checked.integer(field), checked.integer(bound))
                    && value > limit
                {
                    report.problem(field, format!("is {value}, but must not be above {bound}, which is {limit}"));
                }
            }
            Self::Below { field, bound } => {
                if let (Some(value), Some(limit)) = (checked.integer(field), checked.integer(bound))
                    && value >= limit
                {
                    report.problem(field, format!("is {value}, but must be below {bound}, which is {limit}"));
                }
            }
            Self::Check { check, .. } => check(checked, report),
        }
    }

    /// A sentence for the documentation, in Markdown.
    pub(super) fn says(&self) -> String {
        let list = |fields: &[&str]| fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
        match self {
            Self::Together(fields) => format!("{}: all of them or none", list(fields)),
            Self::OnlyOneOf(fields) => format!("{}: at most one of them", list(fields)),
            Self::NotAbove { field, bound } => format!("`{field}` must not be above `{bound}`"),
            Self::Below { field, bound } => format!("`{field}` must be below `{bound}`"),
            Self::Check { says, .. } => (*says).to_owned(),
        }
    }
}

fn together(fields: &[&str], checked: &Checked<'_>, report: &mut Report) {
    let Some(present) = fields.iter().find(|field| checked.has(field)) else {
        return;
    };
    for missing in fields.iter().filter(|field| !checked.has(field)) {
        report.problem(missing, format!("is required together with {present}"));
    }
}
