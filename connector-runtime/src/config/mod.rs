//! The configuration of a connector: declared as tables of fields, checked all at once.
//!
//! ```text
//! text ──parse_sent──► map ──validate──► ValidConfig{sent, effective, delivery, warnings}      at create, any node
//!                              └──────► every problem, each with its field                     (pure, opens nothing)
//! effective ──resolve──► Resolved ──typed──► sinks/<kind>/config.rs::Config           on the node that runs it
//! sent, effective ──mask──► what the API may return
//! tables ──json_schema──► /types     tables ──markdown──► docs/connectors/<kind>.md
//! ```
//!
//! `field` declares, `check` judges one value, `rules` what is between fields, `format` the forms of texts.

pub mod batch;
mod check;
pub mod columns;
pub mod field;
pub mod format;
pub mod integers;
mod markdown;
mod mask;
pub mod payload;
pub mod pool;
mod resolve;
pub mod rules;
mod schema;
mod sent;
pub mod tls;
mod unique;
mod validate;

pub use batch::PipelineOptions;
pub use check::nearest;
pub use markdown::{reference_page, replace_generated, type_index};
pub use mask::mask;
pub use resolve::{ResolveError, Resolved, resolve};
pub use schema::json_schema;
pub use sent::{ParseSentError, parse_sent};
pub use unique::{Unique, read_unique};
pub use validate::{ValidConfig, validate};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use field::Field;
use rules::{GivesUp, OneByOne, Rule};

/// Everything that is declared about the configuration of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The kind's own fields first, then groups that it shares with others.
    pub groups: &'static [&'static [Field]],
    pub rules: &'static [&'static [Rule]],
    pub gives_up: Option<GivesUp>,
    /// The field that bounds the records of a batch: the seed's `batch_size`, or `batch_records`.
    pub records_field: &'static str,
    /// The target deduplicates per batch, so bounds are on disk before a batch is handed out; not where records go one
    /// by one.
    pub sync_bounds: bool,
    pub one_by_one: Option<OneByOne>,
    /// The typed struct takes this effective map.
    pub fits_type: fn(&Map<String, Value>) -> Result<(), String>,
}

impl Schema {
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.groups.iter().copied().flatten()
    }

    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name)
    }

    pub fn rules(&self) -> impl Iterator<Item = &'static Rule> + use<> {
        self.rules.iter().copied().flatten()
    }
}

/// `Schema::fits_type` of a kind whose struct is `T`.
pub fn fits<T: DeserializeOwned>(effective: &Map<String, Value>) -> Result<(), String> {
    let typed: Result<T, _> = serde_json::from_value(Value::Object(effective.clone()));
    typed.map(drop).map_err(|error| error.to_string())
}
