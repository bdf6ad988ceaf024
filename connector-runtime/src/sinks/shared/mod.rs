//! What families of sinks share.

pub mod network;
