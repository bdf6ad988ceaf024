//! A bucket: objects by opendal, and the two requests about unfinished uploads that it has not.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use opendal::services::S3;
use opendal::{Buffer, HttpTransporter, OperationContext, Operator, Writer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use reqwest::header::{HOST, HeaderMap};
use reqwest::{Method, Url};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::place::Place;
use super::transport::{self, Transport};
use crate::config::tls::TlsOptions;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::SinkContext;
use crate::sinks::offered::unusable;
use crate::sinks::shared::http;

/// Where AWS clients find credentials is on this machine or near it; most of those places do not exist.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// Everything that is not unreserved is encoded before it is signed.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const ENCODED_IN_PATH: &AsciiSet = &ENCODED.remove(b'/');

pub(super) struct Store {
    operator: Operator,
    transporter: HttpTransporter,
    signer: Signer<Credential>,
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
        let credentials = match static_key(config) {
            Some(_) => None,
            None => Some(credentials_client().await),
        };
        let aborted = CancellationToken::new();
        let transporter = HttpTransporter::new(Transport {
            store: target.client,
            bucket: place.bucket.clone(),
            alias,
            credentials,
            timeout,
            aborted: aborted.clone(),
        });
        let mut builder = S3::default()
            .bucket(&config.bucket)
            .region(&config.region)
            .endpoint(&place.guarded_endpoint())
            // The store compares what arrives with it.
            .checksum_algorithm("crc32c")
            .disable_config_load()
            .credential_provider_chain(credential_chain(config));
        if place.virtual_host {
            builder = builder.enable_virtual_host_style();
        }
        let operator = Operator::new(builder).map_err(|error| unusable(&error))?;
        let operator = operator.with_context(OperationContext::new().with_http_transport(transporter.clone()));
        let signing = Context::new().with_file_read(TokioFileRead).with_http_send(transporter.clone()).with_env(OsEnv);
        let signer = Signer::new(signing, credential_chain(config), RequestSigner::new("s3", &config.region));
        Ok(Self { operator, transporter, signer, bucket: place.bucket, aborted })
    }

    /// Writes an object as soon as it is closed; in parts when it was given more than one.
    pub(super) async fn writer(&self, key: &str, content_type: &str) -> Result<Writer, TargetFault> {
        self.operator.writer_with(key).content_type(content_type).await.map_err(|error| self.fault_of(&error))
    }

    /// What an error of opendal or its signer says of the target. What comes after an abort says nothing.
    pub(super) fn fault_of(&self, error: &(dyn Error + 'static)) -> TargetFault {
        if self.aborted.is_cancelled() {
            return TargetFault::new(TargetFaultKind::Interrupted, "the sink was aborted");
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
        let request = Request::builder().method(method).uri(uri).body(()).map_err(|error| unusable(&error))?;
        let (mut parts, ()) = request.into_parts();
        self.signer.sign(&mut parts, None).await.map_err(|error| self.fault_of(&error))?;
        parts.headers.remove(HOST);
        let answer = self.transporter.send(Request::from_parts(parts, Buffer::new())).await;
        answer.map(|answer| answer.into_body().to_bytes()).map_err(|error| self.fault_of(&error))
    }
}

fn static_key(config: &Config) -> Option<StaticCredentialProvider> {
    let (id, secret) = (config.access_key_id.as_ref()?, config.secret_access_key.as_ref()?);
    let provider = StaticCredentialProvider::new(id, secret.reveal());
    Some(match &config.session_token {
        Some(token) => provider.with_session_token(token.reveal()),
        None => provider,
    })
}

fn credential_chain(config: &Config) -> ProvideCredentialChain<Credential> {
    match static_key(config) {
        Some(provider) => ProvideCredentialChain::new().push(provider),
        None => ProvideCredentialChain::new().push(DefaultCredentialProvider::new()),
    }
}

/// Verifies by the machine's own certificates. No denied network holds: it goes where the node's operator says.
async fn credentials_client() -> Result<reqwest::Client, TargetFault> {
    let anywhere = "https://sts.amazonaws.com".to_owned();
    let tls = TlsOptions::of_this_machine();
    let target = http::open(anywhere, CREDENTIALS_TIMEOUT, tls, Arc::default(), HeaderMap::new()).await?;
    Ok(target.client)
}
