//! InfluxDB's line protocol over HTTP, which other databases speak too.
//!
//! ```text
//! record ──point──► measurement,topic=…,client_id=… field=value,… time ──gzip──► one request ──answer──► outcomes
//!            ├─ escape   every position by its own rule; what has no form is the record's own fault
//!            ├─ fields   typed by the JSON payload
//!            └─ time     cut to the precision, then unique
//! ```
//!
//! What `escape`, `fields`, `time`, `point` and `answer` do is pure; `writer` is the only one that talks to a server.

mod answer;
#[cfg(test)]
pub(crate) mod awkward;
mod escape;
mod fields;
mod point;
mod time;
mod writer;

pub(crate) use escape::Dialect;
pub(crate) use point::{MeasurementFormat, PointFormat};
pub(crate) use time::{PointTime, Precision};
pub(crate) use writer::LineWriter;
