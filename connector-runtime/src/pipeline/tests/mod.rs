//! The pipeline against a queue in memory and a sink that follows a script, under a paused clock.

mod bisection;
pub(crate) mod double;
mod interruption;
mod order;
mod strategy;
