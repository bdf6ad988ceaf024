//! Writes data points to OpenTSDB.

#[cfg(feature = "opentsdb")]
mod answer;
pub mod config;
#[cfg(feature = "opentsdb")]
mod point;
#[cfg(feature = "opentsdb")]
mod request;
#[cfg(feature = "opentsdb")]
pub(crate) mod sink;
