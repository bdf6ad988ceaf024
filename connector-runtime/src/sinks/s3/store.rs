//! A bucket: objects by opendal, and the two requests about unfinished uploads that it has not.

use std::error::Error;
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use opendal::services::S3;
use opendal::{Buffer, HttpTransporter, OperationContext, Operator, Writer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use tokio_util::sync::CancellationToken;

use super::config::{Checksum, Config};
use super::fault;
use super::login::Login;
use super::place::Place;
use super::transport::{self, Transport};
use crate::sink::TargetFault;
use crate::sinks::offered::SinkContext;
use crate::sinks::offered::unusable;
use crate::sinks::shared::http;

/// Everything that is not unreserved is encoded before it is signed.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

pub(super) struct Store {
    operator: Operator,
    transporter: HttpTransporter,
    bucket: Url,
    pub(super) aborted: CancellationToken,
}

impl Store {
    /// Asks nobody.
    pub(super) async fn open(config: &Config, context: &SinkContext) -> Result<Self, TargetFault> {
        let place = Place::of(config)?;
        let timeout = Duration::from_secs(config.timeout_secs);
        let (tls, deny_networks) = (config.tls.clone(), context.deny_networks.clone());
        let target = http::open(place.bucket.to_string(), timeout, tls, deny_networks, HeaderMap::new()).await?;
        let host = |url: &Url| url.host_str().map(str::to_owned);
        let alias = host(&target.url).filter(|name| Some(name) != host(&place.bucket).as_ref());
        let aborted = CancellationToken::new();
        let login = Login::new(config, &aborted).await;
        let transport = Transport { store: target.client, alias, login, timeout, aborted: aborted.clone() };
        let transporter = HttpTransporter::new(transport);
        let mut builder = S3::default()
            .bucket(&config.bucket)
            .region(&config.region)
            .endpoint(&place.guarded_endpoint())
            .disable_config_load()
            // The transport signs: opendal's own signer hides why there are no credentials.
            .skip_signature();
        match config.checksum {
            Checksum::Crc32c => builder = builder.checksum_algorithm("crc32c"),
            Checksum::None => {}
        }
        if place.virtual_host {
            builder = builder.enable_virtual_host_style();
        }
        let operator = Operator::new(builder).map_err(|error| unusable(&error))?;
        let operator = operator.with_context(OperationContext::new().with_http_transport(transporter.clone()));
        Ok(Self { operator, transporter, bucket: place.bucket, aborted })
    }

    /// Writes an object as soon as it is closed; in parts when it was given more than one.
    pub(super) async fn writer(&self, key: &str, content_type: &str) -> Result<Writer, TargetFault> {
        self.operator.writer_with(key).content_type(content_type).await.map_err(|error| self.fault_of(&error))
    }

    /// What an error of opendal says of the target. What comes after an abort says nothing.
    pub(super) fn fault_of(&self, error: &(dyn Error + 'static)) -> TargetFault {
        if self.aborted.is_cancelled() {
            return fault::aborted();
        }
        transport::fault_of(error)
    }

    /// A request about the bucket, or with a key about one of its objects.
    pub(super) async fn ask(&self, method: Method, key: &str, query: &[(&str, &str)]) -> Result<Bytes, TargetFault> {
        let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let bucket = self.bucket.as_str();
        let resource = match key {
            "" => bucket.to_owned(),
            key => format!("{}/{}", bucket.trim_end_matches('/'), utf8_percent_encode(key, ENCODED_IN_PATH)),
        };
        let uri = format!("{resource}?{}", query.join("&"));
        let request = Request::builder().method(method).uri(uri).body(Buffer::new());
        let answer = self.transporter.send(request.map_err(|error| unusable(&error))?).await;
        answer.map(|answer| answer.into_body().to_bytes()).map_err(|error| self.fault_of(&error))
    }
}
