//! Whose requests these are: signed by keys of the configuration, or by what AWS clients find on the node.
//!
//! Of the places where AWS clients look, the first one that is set up says who the sink is. When it cannot be asked, nothing
//! after it is looked at: the sink would be somebody else until it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use ::http::request::Parts;
use ::http::{Request, Response};
use bytes::Bytes;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProcessCredentialProvider, ProfileCredentialProvider, RequestSigner,
    SSOCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, Error, ErrorKind, HttpSend, OsEnv, ProvideCredential, ProvideCredentialDyn,
    Signer,
};
use reqsign_file_read_tokio::TokioFileRead;
use reqwest::header::{HOST, HeaderMap};
use reqwest::{Client, Url};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::transport::Failed;
use crate::config::tls::TlsOptions;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{chain, unusable};
use crate::sinks::shared::cause::find;
use crate::sinks::shared::http;

/// Where AWS clients find credentials is on this machine or near it; most of those places do not exist.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Whoever sets it says that the node has a service for its instance's role.
const INSTANCE_ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

pub(super) struct Login {
    signer: Signer<Credential>,
}

impl Login {
    /// Asks nobody.
    pub(super) async fn new(config: &Config, aborted: &CancellationToken) -> Self {
        let request_signer = RequestSigner::new("s3", &config.region);
        let signer = match static_key(config) {
            Some(key) => Signer::new(Context::new(), key, request_signer),
            None => {
                let http = Arc::new(PlaceHttp::new(aborted.clone()).await);
                let context = Context::new()
                    .with_file_read(TokioFileRead)
                    .with_env(OsEnv)
                    .with_command_execute(NoCommands)
                    .with_http_send(Arc::clone(&http));
                Signer::new(context, Places::new(http), request_signer)
            }
        };
        Self { signer }
    }

    /// With credentials that are good for a while: they are asked for when there are none.
    pub(super) async fn sign(&self, request: &mut Parts) -> Result<(), TargetFault> {
        self.signer.sign(request, None).await.map_err(|error| match find::<Failed>(&error) {
            Some(Failed(fault)) => fault.clone(),
            None => TargetFault::new(kind_of(error.kind()), format!("no credentials: {}", chain(&error))),
        })
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

fn kind_of(kind: ErrorKind) -> TargetFaultKind {
    match kind {
        ErrorKind::CredentialInvalid | ErrorKind::PermissionDenied | ErrorKind::ConfigInvalid => TargetFaultKind::Auth,
        ErrorKind::RateLimited => TargetFaultKind::Throttled { retry_after: None },
        ErrorKind::RequestInvalid | ErrorKind::Unexpected => TargetFaultKind::Down,
    }
}

/// The places where AWS clients look for credentials, in their order.
#[derive(Debug)]
struct Places {
    places: Vec<Place>,
    http: Arc<PlaceHttp>,
}

#[derive(Debug)]
struct Place {
    name: &'static str,
    provider: Box<dyn ProvideCredentialDyn<Credential = Credential>>,
    /// Asked wherever a node runs: that nobody answers means that there is none.
    is_a_guess: bool,
}

impl Place {
    fn new(name: &'static str, provider: impl ProvideCredential<Credential = Credential>) -> Self {
        Self { name, provider: Box::new(provider), is_a_guess: false }
    }
}

impl Places {
    fn new(http: Arc<PlaceHttp>) -> Self {
        let instance = Place::new("the role of the instance", IMDSv2CredentialProvider::new());
        let places = vec![
            Place::new("the environment", EnvCredentialProvider::new()),
            Place::new("the profile", ProfileCredentialProvider::new()),
            Place::new("the single sign-on of the profile", SSOCredentialProvider::new()),
            Place::new("the web identity", AssumeRoleWithWebIdentityCredentialProvider::new()),
            Place::new("the process of the profile", ProcessCredentialProvider::new()),
            Place::new("the role of the container", ECSCredentialProvider::new()),
            Place { is_a_guess: std::env::var_os(INSTANCE_ENDPOINT).is_none(), ..instance },
        ];
        Self { places, http }
    }

    fn fault_of(&self, place: &Place, error: &Error) -> TargetFault {
        let says = |text: &str| format!("no credentials from {}: {text}", place.name);
        match find::<Failed>(error) {
            Some(Failed(fault)) if fault.kind == TargetFaultKind::Interrupted => fault.clone(),
            Some(Failed(_)) if place.is_a_guess && !self.http.has_answered() => none_anywhere(),
            Some(Failed(fault)) => TargetFault::new(fault.kind, says(&fault.message)),
            None => {
                let kind = match (error.kind(), self.http.last_status()) {
                    (ErrorKind::RateLimited, _) | (_, 429) => TargetFaultKind::Throttled { retry_after: None },
                    (_, 408 | 425 | 500..=599) => TargetFaultKind::Down,
                    (_, 400..=499) => TargetFaultKind::Auth,
                    (kind, _) => kind_of(kind),
                };
                TargetFault::new(kind, says(&chain(error)))
            }
        }
    }
}

impl ProvideCredential for Places {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> reqsign_core::Result<Option<Credential>> {
        for place in &self.places {
            self.http.forget_status();
            match place.provider.provide_credential_dyn(context).await {
                Ok(None) => {}
                Ok(Some(credential)) => return Ok(Some(credential)),
                Err(error) => return Err(failed(self.fault_of(place, &error))),
            }
        }
        Err(failed(none_anywhere()))
    }
}

fn none_anywhere() -> TargetFault {
    TargetFault::new(TargetFaultKind::Auth, "no credentials: neither the configuration nor the node has any")
}

fn failed(fault: TargetFault) -> Error {
    Error::unexpected("no credentials").with_source(Failed(fault))
}

/// Verifies by the machine's own certificates. No denied network holds: it goes where the node's operator says.
#[derive(Debug)]
struct PlaceHttp {
    client: Result<Client, TargetFault>,
    aborted: CancellationToken,
    /// Of the last answer from the place that is asked now, 0 for none. The signer asks one place at a time.
    status: AtomicU16,
    answered: AtomicBool,
}

impl PlaceHttp {
    async fn new(aborted: CancellationToken) -> Self {
        let anywhere = "https://sts.amazonaws.com".to_owned();
        let tls = TlsOptions::of_this_machine();
        let target = http::open(anywhere, PLACE_TIMEOUT, tls, Arc::default(), HeaderMap::new()).await;
        let client = target.map(|target| target.client);
        Self { client, aborted, status: AtomicU16::new(0), answered: AtomicBool::new(false) }
    }

    fn forget_status(&self) {
        self.status.store(0, Ordering::Relaxed);
    }

    fn last_status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Some place has, at any time.
    fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TargetFault> {
        let client = self.client.as_ref().map_err(TargetFault::clone)?;
        let (mut parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).map_err(|error| unusable(&error))?;
        parts.headers.remove(HOST);
        let request = client.request(parts.method, url).headers(parts.headers).body(body);
        let answer = http::exchange(request, PLACE_TIMEOUT, ANSWER_BYTES_MAX, &self.aborted).await;
        let answer = answer.map_err(|unanswered| unanswered.fault)?;
        self.status.store(answer.status.as_u16(), Ordering::Relaxed);
        self.answered.store(true, Ordering::Relaxed);
        let mut response = Response::new(Bytes::copy_from_slice(answer.body()));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

impl HttpSend for PlaceHttp {
    async fn http_send(&self, request: Request<Bytes>) -> reqsign_core::Result<Response<Bytes>> {
        self.ask(request).await.map_err(failed)
    }
}

/// What a file of the node names is not run.
#[derive(Debug)]
struct NoCommands;

impl CommandExecute for NoCommands {
    async fn command_execute(&self, _: &str, _: &[&str]) -> reqsign_core::Result<CommandOutput> {
        Err(Error::config_invalid("credential_process is not run by this sink"))
    }
}
