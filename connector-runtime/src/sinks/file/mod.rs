//! Appends lines to a file of the node that runs the task.

pub mod config;
#[cfg(feature = "file")]
mod place;
#[cfg(feature = "file")]
pub(crate) mod sink;
#[cfg(feature = "file")]
mod writer;
#[cfg(feature = "file")]
pub(crate) mod writers;
