//! What the relational targets have in common: a pool of connections, and how rows are inserted.

use serde_json::{Map, Value};

use super::rules::Rule;

/// The seed's default of `min_pool_size`, capped by a smaller pool.
const MIN_POOL_SIZE_DEFAULT: u64 = 2;

pub const MIN_POOL_SIZE_SAYS: &str = "the lesser of 2 and `pool_size`";

pub fn min_pool_size(effective: &Map<String, Value>) -> Value {
    let pool_size = effective.get("pool_size").and_then(Value::as_u64).unwrap_or(MIN_POOL_SIZE_DEFAULT);
    Value::from(pool_size.min(MIN_POOL_SIZE_DEFAULT))
}

pub const RULES: &[Rule] = &[Rule::NotAbove { field: "min_pool_size", bound: "pool_size" }];
