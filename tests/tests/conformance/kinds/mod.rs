//! One adapter for each kind whose sink exists.

mod envelope;
mod file;

use connector_runtime::registry::{KINDS, KindEntry};

/// Kind = adapter. `main.rs` makes a test of each line.
macro_rules! adapters {
    ($with:ident) => {
        $with! {
            file = file::File,
        }
    };
}
pub(crate) use adapters;
