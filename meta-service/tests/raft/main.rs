//! Clusters of real metadata services in this process: each node has its own runtime, folder and port, so that it can
//! be killed without a word.

mod bootstrap;
mod cluster;
mod failures;
mod membership;
mod replication;
