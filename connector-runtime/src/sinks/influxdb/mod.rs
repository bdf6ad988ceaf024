//! Writes points to InfluxDB.

pub mod config;
#[cfg(feature = "influxdb")]
pub(crate) mod sink;
