//! Fields about batches that every kind has, and the limits the pipeline reads from them.

use std::time::Duration;

use serde_json::{Map, Value};

use super::field::{Field, integer};
use super::validate::fill_defaults;
use crate::registry::KindEntry;
use crate::source::BatchLimits;

/// A sealed batch is in memory as a whole, at the queue's node and at the owner's.
pub const BATCH_BYTES_MAX: u64 = 64 << 20;
pub const BATCH_BYTES_MIN: u64 = 1_024;
pub const MAX_IN_FLIGHT_MAX: u64 = 64;

pub const fn batch_records(default: u64, max: u64) -> Field {
    Field {
        name: "batch_records",
        doc: "Most records in one batch.\n",
        spec: integer(1, max).default_integer(default).added(),
    }
}

pub const fn batch_bytes(default: u64) -> Field {
    Field {
        name: "batch_bytes",
        doc: "Most bytes in one batch. A single record that is larger makes a batch of its own.\n",
        spec: integer(BATCH_BYTES_MIN, BATCH_BYTES_MAX).default_integer(default).added(),
    }
}

pub const fn linger_ms(default: u64, max: u64) -> Field {
    Field {
        name: "linger_ms",
        doc: "How long a batch that is not full waits for more records.\n",
        spec: integer(0, max).default_integer(default).added(),
    }
}

pub const fn max_in_flight(default: u64) -> Field {
    Field {
        name: "max_in_flight",
        doc: "Most batches of one queue that are on their way at the same time.\n",
        spec: integer(1, MAX_IN_FLIGHT_MAX).default_integer(default).added(),
    }
}

/// `max_records_per_second` and `max_bytes_per_second`.
pub const RATES: &[Field] = &[
    Field {
        name: "max_records_per_second",
        doc: "Most records per second; what is above it waits, nothing is dropped. Absent: no limit.\n",
        spec: integer(1, 10_000_000).added(),
    },
    Field {
        name: "max_bytes_per_second",
        doc: "Most payload bytes per second; what is above it waits, nothing is dropped. Absent: no limit.\n",
        spec: integer(1, 1_000_000_000_000).added(),
    },
];

/// What the pipeline needs of a configuration, whatever its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineOptions {
    pub limits: BatchLimits,
    pub max_in_flight: usize,
    /// The sink makes a request of each record: it gets one at a time, so that each is settled before the next is sent.
    pub one_by_one: bool,
    pub max_records_per_second: Option<u64>,
    pub max_bytes_per_second: Option<u64>,
}

impl PipelineOptions {
    /// What an older version did not store yet is filled in.
    pub fn read(entry: &KindEntry, effective: &Map<String, Value>) -> Self {
        let mut effective = effective.clone();
        fill_defaults(entry, &mut effective);
        let number = |field: &str| effective.get(field).and_then(Value::as_u64);
        let records_max = number(entry.schema.records_field).and_then(|value| u32::try_from(value).ok()).unwrap_or(1);
        let one_by_one = entry.schema.one_by_one.is_some_and(|setting| setting.applies(&effective));
        let limits = BatchLimits {
            records_max,
            bytes_max: number("batch_bytes").unwrap_or(BATCH_BYTES_MIN),
            linger: Duration::from_millis(number("linger_ms").unwrap_or(0)),
            // What goes alone is known by its own id.
            sync_bounds: entry.schema.sync_bounds && !one_by_one,
        };
        Self {
            limits,
            max_in_flight: number("max_in_flight").and_then(|value| usize::try_from(value).ok()).unwrap_or(1),
            one_by_one,
            max_records_per_second: number("max_records_per_second"),
            max_bytes_per_second: number("max_bytes_per_second"),
        }
    }
}
