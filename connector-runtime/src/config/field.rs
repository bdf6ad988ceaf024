//! One field of a connector's configuration, declared once.
//!
//! Validation, defaults, masking, JSON Schema and the documentation tables are all read from these declarations;
//! nothing about a field is written down a second time.

use serde_json::{Map, Value};

use super::format::TextFormat;
use crate::template::TemplateKind;

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    /// What the field does, in Markdown. The macro joins the lines of the doc comment with newlines.
    pub doc: &'static str,
    pub spec: FieldSpec,
}

#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    pub shape: Shape,
    pub presence: Presence,
    /// Masked in everything the API returns.
    pub secret: bool,
    pub template: Option<TemplateKind>,
    /// The field has an effect only then; sent without it, it is accepted and named in `warnings`.
    pub used_when: Option<Condition>,
    /// Not part of the seed's document.
    pub added: bool,
}

/// JSON type and range.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Boolean,
    Integer {
        min: u64,
        max: u64,
    },
    Choice(&'static [&'static str]),
    Text {
        chars_min: usize,
        chars_max: usize,
        format: TextFormat,
    },
    TextList {
        items_min: usize,
        items_max: usize,
        format: TextFormat,
    },
    /// A comma list or an array of texts.
    Columns {
        items_max: usize,
    },
    /// An object from names to texts.
    TextMap {
        entries_max: usize,
        format: TextFormat,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Presence {
    Required,
    RequiredWhen(Condition),
    Optional,
    Default(Literal),
    /// A default that depends on other fields; `says` describes it in the documentation.
    Computed {
        says: &'static str,
        value: fn(&Map<String, Value>) -> Value,
    },
}

/// Holds when the effective value of `field` is one of `is`.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    pub field: &'static str,
    pub is: &'static [Literal],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Literal {
    Text(&'static str),
    Integer(u64),
    Boolean(bool),
    EmptyList,
    EmptyMap,
}

/// Bounds of texts about which the seed says nothing. Generous: the whole configuration is bounded as well.
pub const NAME_CHARS_MAX: usize = 255;
pub const CREDENTIAL_CHARS_MAX: usize = 4_096;
pub const ADDRESS_CHARS_MAX: usize = 2_048;
pub const PATH_CHARS_MAX: usize = 4_096;

pub const fn boolean() -> FieldSpec {
    FieldSpec::new(Shape::Boolean)
}

pub const fn integer(min: u64, max: u64) -> FieldSpec {
    FieldSpec::new(Shape::Integer { min, max })
}

pub const fn choice(values: &'static [&'static str]) -> FieldSpec {
    FieldSpec::new(Shape::Choice(values))
}

/// Text on one line; the bounds count characters.
pub const fn text(chars_min: usize, chars_max: usize) -> FieldSpec {
    formatted(chars_min, chars_max, TextFormat::Line)
}

pub const fn formatted(chars_min: usize, chars_max: usize, format: TextFormat) -> FieldSpec {
    FieldSpec::new(Shape::Text { chars_min, chars_max, format })
}

/// The name of a thing at the target: a database, table, exchange, user.
pub const fn name() -> FieldSpec {
    text(1, NAME_CHARS_MAX)
}

/// Text that the API never returns.
pub const fn secret() -> FieldSpec {
    formatted(0, CREDENTIAL_CHARS_MAX, TextFormat::Any).masked()
}

pub const fn url(schemes: &'static [&'static str]) -> FieldSpec {
    formatted(1, ADDRESS_CHARS_MAX, TextFormat::Url(schemes))
}

pub const fn http_url() -> FieldSpec {
    url(&["http", "https"])
}

pub const fn host() -> FieldSpec {
    formatted(1, NAME_CHARS_MAX, TextFormat::Host)
}

pub const fn port(default: u64) -> FieldSpec {
    integer(1, 65_535).default_integer(default)
}

pub const fn text_list(items_min: usize, items_max: usize, format: TextFormat) -> FieldSpec {
    FieldSpec::new(Shape::TextList { items_min, items_max, format })
}

pub const fn columns(items_max: usize) -> FieldSpec {
    FieldSpec::new(Shape::Columns { items_max })
}

pub const fn text_map(entries_max: usize, format: TextFormat) -> FieldSpec {
    FieldSpec::new(Shape::TextMap { entries_max, format })
}

impl FieldSpec {
    const fn new(shape: Shape) -> Self {
        Self { shape, presence: Presence::Optional, secret: false, template: None, used_when: None, added: false }
    }

    pub const fn required(mut self) -> Self {
        self.presence = Presence::Required;
        self
    }

    /// Required when `field` has one of these values; without effect otherwise.
    pub const fn required_when(mut self, field: &'static str, is: &'static [Literal]) -> Self {
        self.presence = Presence::RequiredWhen(Condition { field, is });
        self.used_when(field, is)
    }

    pub const fn used_when(mut self, field: &'static str, is: &'static [Literal]) -> Self {
        self.used_when = Some(Condition { field, is });
        self
    }

    pub const fn default_text(self, value: &'static str) -> Self {
        self.default(Literal::Text(value))
    }

    pub const fn default_integer(self, value: u64) -> Self {
        self.default(Literal::Integer(value))
    }

    pub const fn default_boolean(self, value: bool) -> Self {
        self.default(Literal::Boolean(value))
    }

    pub const fn default(mut self, value: Literal) -> Self {
        self.presence = Presence::Default(value);
        self
    }

    pub const fn computed(mut self, says: &'static str, value: fn(&Map<String, Value>) -> Value) -> Self {
        self.presence = Presence::Computed { says, value };
        self
    }

    pub const fn masked(mut self) -> Self {
        self.secret = true;
        self
    }

    pub const fn template(mut self, kind: TemplateKind) -> Self {
        self.template = Some(kind);
        self
    }

    /// Ours, not the seed's.
    pub const fn added(mut self) -> Self {
        self.added = true;
        self
    }

    /// `${env:…}` and `${file:…}` are resolved in free text that is not a template.
    pub const fn takes_reference(&self) -> bool {
        let free_text = match self.shape {
            Shape::Text { .. } | Shape::TextList { .. } | Shape::TextMap { .. } => true,
            Shape::Boolean | Shape::Integer { .. } | Shape::Choice(_) | Shape::Columns { .. } => false,
        };
        free_text && self.template.is_none()
    }
}

impl Literal {
    pub fn to_value(self) -> Value {
        match self {
            Self::Text(text) => Value::from(text),
            Self::Integer(number) => Value::from(number),
            Self::Boolean(flag) => Value::from(flag),
            Self::EmptyList => Value::Array(Vec::new()),
            Self::EmptyMap => Value::Object(Map::new()),
        }
    }
}

impl Condition {
    pub fn holds(&self, effective: &Map<String, Value>) -> bool {
        effective.get(self.field).is_some_and(|value| self.is.iter().any(|literal| literal.to_value() == *value))
    }

    /// `auth_type` is `basic`
    pub fn says(&self) -> String {
        let values: Vec<String> = self.is.iter().map(|literal| format!("`{}`", plain(&literal.to_value()))).collect();
        format!("`{}` is {}", self.field, values.join(" or "))
    }
}

/// A value as one would write it in a sentence: text without quotes.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Declares the fields of a configuration once: as a typed struct for the sink's author and as a table for all else.
///
/// ```text
/// config_fields! {
///     /// Where to send.
///     pub struct Config { FIELDS;
///         /// The target.
///         pub url: String = http_url().required();
///         flatten tls: TlsOptions;
///     }
/// }
/// ```
/// makes `struct Config` (deserialized from the effective, resolved map) and `const FIELDS: &[Field]`. The fields of a
/// flattened group stand in that group's own table.
macro_rules! config_fields {
    (
        $(#[doc = $about:literal])*
        pub struct $config:ident { $table:ident;
            $( $(#[doc = $doc:literal])+ pub $name:ident: $type:ty = $spec:expr; )*
            $( flatten $group:ident: $group_type:ty; )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, serde::Deserialize)]
        pub struct $config {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nDeclared as `", stringify!($spec), "`.")]
                pub $name: $type,
            )*
            $(
                #[serde(flatten)]
                pub $group: $group_type,
            )*
        }

        pub const $table: &[$crate::config::field::Field] = &[
            $( $crate::config::field::Field {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                spec: $spec,
            }, )*
        ];
    };
}
pub(crate) use config_fields;
