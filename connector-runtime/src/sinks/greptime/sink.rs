//! Line protocol to `/v1/influxdb/write` of GreptimeDB.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap};

use super::config::{Config, Precision};
use crate::config::Resolved;
use crate::sink::{Sink, TargetFault};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::http;
use crate::sinks::shared::line_protocol::{self, Dialect, LineWriter, MeasurementFormat, PointFormat, PointTime};

pub(crate) const OFFERED: Offered =
    Offered { kind: "greptime", open: |resolved, context| Box::pin(open(resolved, context)) };

/// The time of a row, in older and newer versions; `time` is InfluxDB's name for it.
const OWN_COLUMNS: &[&str] = &["time", "ts", "greptime_timestamp"];

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let precision = match config.precision {
        Precision::Nanosecond => line_protocol::Precision::Nanoseconds,
        Precision::Microsecond => line_protocol::Precision::Microseconds,
        Precision::Millisecond => line_protocol::Precision::Milliseconds,
        Precision::Second => line_protocol::Precision::Seconds,
    };
    let format = PointFormat {
        measurement: MeasurementFormat::new(&config.table).map_err(|error| unusable(&error))?.flat(),
        time: if config.unique_time { PointTime::Unique(precision) } else { PointTime::Cut(precision) },
        integers: config.integers,
        dialect: Dialect::Doubling,
        own_columns: OWN_COLUMNS,
    };
    let query = [("db", config.database.as_str()), ("precision", format.time.unit().as_str())];
    let server = http::server(&config.server_addr, config.enable_tls);
    let url = http::endpoint(http::without_login(&server)?, &["v1", "influxdb", "write"], &query)?;
    let mut headers = HeaderMap::new();
    if let Some(user) = &config.user {
        let password = config.password.as_ref().map_or("", |password| password.reveal());
        headers.insert(AUTHORIZATION, http::basic(user, password).map_err(|error| unusable(&error))?);
    }
    let timeout = Duration::from_secs(config.timeout_secs);
    let target = http::open(url, timeout, config.tls, context.deny_networks.clone(), headers).await?;
    Ok(Box::new(LineWriter::new(target, timeout, format)))
}

#[cfg(test)]
mod tests;
