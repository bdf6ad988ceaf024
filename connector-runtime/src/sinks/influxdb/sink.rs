//! Line protocol to `/write` of InfluxDB 1 or `/api/v2/write` of InfluxDB 2.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap};

use super::config::{Config, Precision, Version};
use crate::config::Resolved;
use crate::sink::{Sink, TargetFault};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::http;
use crate::sinks::shared::line_protocol::{self, Dialect, LineWriter, MeasurementFormat, PointFormat, PointTime};

pub(crate) const OFFERED: Offered =
    Offered { kind: "influxdb", open: |resolved, context| Box::pin(open(resolved, context)) };

/// A field of this name is taken and thrown away without a word.
const OWN_COLUMNS: &[&str] = &["time"];

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let precision = match config.precision {
        Precision::Nanoseconds => line_protocol::Precision::Nanoseconds,
        Precision::Microseconds => line_protocol::Precision::Microseconds,
        Precision::Milliseconds => line_protocol::Precision::Milliseconds,
        Precision::Seconds => line_protocol::Precision::Seconds,
    };
    let format = PointFormat {
        measurement: MeasurementFormat::new(&config.measurement).map_err(|error| unusable(&error))?,
        time: if config.unique_time { PointTime::Unique(precision) } else { PointTime::Cut(precision) },
        integers: config.integers,
        dialect: Dialect::Influx,
        own_columns: OWN_COLUMNS,
    };
    let url = endpoint(&config, format.time.unit())?;
    let headers = headers(&config)?;
    let timeout = Duration::from_secs(config.timeout_secs);
    let target = http::open(url, timeout, config.tls, context.deny_networks.clone(), headers).await?;
    Ok(Box::new(LineWriter::new(target, timeout, format)))
}

fn endpoint(config: &Config, unit: line_protocol::Precision) -> Result<String, TargetFault> {
    let server = http::without_login(&config.server)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match config.version {
        Version::V1 => {
            let precision = match unit {
                line_protocol::Precision::Nanoseconds => "n",
                line_protocol::Precision::Microseconds => "u",
                line_protocol::Precision::Milliseconds => "ms",
                line_protocol::Precision::Seconds => "s",
            };
            http::endpoint(server, &["write"], &[("db", &text(&config.database)), ("precision", precision)])
        }
        Version::V2 => {
            let precision = unit.as_str();
            let query = [("org", &*text(&config.org)), ("bucket", &*text(&config.bucket)), ("precision", precision)];
            http::endpoint(server, &["api", "v2", "write"], &query)
        }
    }
}

/// Secrets go into a header and never into the URL, which servers write into their logs.
fn headers(config: &Config) -> Result<HeaderMap, TargetFault> {
    let authorization = match config.version {
        Version::V1 => config.username.as_ref().map(|user| {
            let password = config.password.as_ref().map_or("", |password| password.reveal());
            http::basic(user, password)
        }),
        Version::V2 => config.token.as_ref().map(|token| http::secret(&format!("Token {}", token.reveal()))),
    };
    let mut headers = HeaderMap::new();
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.map_err(|error| unusable(&error))?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
