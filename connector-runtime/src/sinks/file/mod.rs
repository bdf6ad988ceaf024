//! Appends lines to a file of the node that runs the task.

pub mod config;
