//! Runs connectors: takes sealed batches from queues, gives them to sinks, and settles every record.
//!
//! ```text
//! Sources ──► pipeline (lanes → deliver → outcomes → commit) ──► Sink
//!                 ▲
//! supervisor ─────┘   desired tasks against running tasks
//! registry: the 17 kinds, their configuration, and the sinks that were compiled in
//! ```

pub mod config;
pub mod lease;
pub mod metrics;
mod pipeline;
pub mod registry;
pub mod secrets;
pub mod sink;
pub mod sinks;
pub mod source;
pub mod supervisor;
pub mod template;
