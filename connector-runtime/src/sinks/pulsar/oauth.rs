//! OAuth2: a token by the client credentials that the configuration gives, or a file that it names.
//!
//! ```text
//!   issuer_url/.well-known/openid-configuration ──► token_endpoint ──client_credentials──► access_token ──► broker
//! ```

use std::sync::Arc;
use std::time::Duration;

use api_types::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::refused;
use super::config::Config;
use super::fault::down;
use crate::config::tls::TlsOptions;
use crate::secrets::SecretFences;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{SinkContext, chain, unusable};
use crate::sinks::shared::http::{self, Answer};
use crate::sinks::shared::network::Network;

const DISCOVERY: [&str; 2] = [".well-known", "openid-configuration"];
/// Of an issuer; tokens with many claims have a few kilobytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// A token is renewed when this part of its life is over, so that it does not end on its way.
const LIFE_USED: f64 = 0.9;

pub(super) struct OAuth {
    settings: Settings,
    fences: SecretFences,
    timeout: Duration,
    tls: TlsOptions,
    deny_networks: Arc<[Network]>,
    aborted: CancellationToken,
    /// Held while one is fetched: all connections want the same.
    token: Mutex<Option<Token>>,
}

struct Token {
    secret: Secret,
    since: Instant,
    fresh_until: Option<Instant>,
}

#[derive(Deserialize)]
struct Settings {
    issuer_url: String,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    credentials_url: Option<String>,
    audience: Option<String>,
    scope: Option<String>,
}

/// The key file of other clients of Pulsar; more stands in it.
#[derive(Deserialize)]
struct Credentials {
    client_id: String,
    client_secret: Secret,
}

#[derive(Deserialize)]
struct Discovered {
    token_endpoint: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    /// Seconds.
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    error_description: Option<String>,
}

impl OAuth {
    pub(super) fn new(
        settings: &Secret,
        config: &Config,
        context: &SinkContext,
        aborted: CancellationToken,
    ) -> Result<Self, TargetFault> {
        let settings = serde_json::from_str(settings.reveal()).map_err(|error| unusable(&error))?;
        Ok(Self {
            settings,
            fences: context.fences.clone(),
            timeout: Duration::from_secs(config.connection_timeout_secs),
            // A name and a client certificate are for the brokers.
            tls: TlsOptions {
                tls_server_name: None,
                client_cert_path: None,
                client_cert: None,
                client_key_path: None,
                client_key: None,
                ..config.tls.clone()
            },
            deny_networks: Arc::clone(&context.deny_networks),
            aborted,
            token: Mutex::new(None),
        })
    }

    /// One that is good for a while; `renew`: the last one is not good any more, whatever was said of its life.
    pub(super) async fn token(&self, renew: bool) -> Result<Secret, TargetFault> {
        let asked = Instant::now();
        let mut known = self.token.lock().await;
        let is_fresh = |token: &&Token| {
            let is_good = token.fresh_until.is_some_and(|until| Instant::now() < until);
            is_good && (!renew || token.since > asked)
        };
        if let Some(token) = known.as_ref().filter(is_fresh) {
            return Ok(token.secret.clone());
        }
        let granted = self.fetch().await?;
        let life = granted.expires_in.map(|seconds| Duration::from_secs(seconds).mul_f64(LIFE_USED));
        let fresh_until = life.and_then(|life| Instant::now().checked_add(life));
        *known = Some(Token { secret: granted.access_token.clone(), since: Instant::now(), fresh_until });
        Ok(granted.access_token)
    }

    async fn fetch(&self) -> Result<Granted, TargetFault> {
        let credentials = self.credentials().await?;
        let Discovered { token_endpoint } = self.discover().await?;
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", credentials.client_id.as_str()),
            ("client_secret", credentials.client_secret.reveal()),
        ];
        form.extend(self.settings.audience.as_deref().map(|audience| ("audience", audience)));
        form.extend(self.settings.scope.as_deref().map(|scope| ("scope", scope)));
        stays_secret(&self.settings.issuer_url, &token_endpoint)?;
        let target = self.open(token_endpoint).await?;
        let request = target.client.post(target.url).header("content-type", FORM).body(encoded(&form)?);
        let answer = self.ask(request).await?;
        read(&answer, "the token endpoint")
    }

    async fn discover(&self) -> Result<Discovered, TargetFault> {
        let mut url = reqwest::Url::parse(&self.settings.issuer_url).map_err(|error| unusable(&error))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(DISCOVERY);
        }
        let target = self.open(url.into()).await?;
        let answer = self.ask(target.client.get(target.url)).await?;
        read(&answer, "the issuer")
    }

    async fn open(&self, url: String) -> Result<http::HttpTarget, TargetFault> {
        let deny_networks = Arc::clone(&self.deny_networks);
        http::open(url, self.timeout, self.tls.clone(), deny_networks, HeaderMap::new()).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<Answer, TargetFault> {
        let answer = http::exchange(request, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await;
        answer.map_err(|unanswered| {
            let fault = unanswered.fault;
            TargetFault { message: format!("the issuer of tokens: {}", fault.message).into(), ..fault }
        })
    }

    /// A file is read as a secret is, and below the same folders only; each time anew.
    async fn credentials(&self) -> Result<Credentials, TargetFault> {
        let settings = &self.settings;
        if let (Some(client_id), Some(client_secret)) = (&settings.client_id, &settings.client_secret) {
            return Ok(Credentials { client_id: client_id.clone(), client_secret: client_secret.clone() });
        }
        let url = settings.credentials_url.as_deref().unwrap_or_default();
        let text = match url.split_once(':') {
            Some(("file", path)) => self.key_file(path.strip_prefix("//").unwrap_or(path)).await?,
            Some(("data", data)) => Secret::new(inline(data).ok_or_else(|| unreadable("is no data URL"))?),
            Some(_) | None => return Err(unreadable("must begin with file: or data:")),
        };
        // What is wrong in it is not told: it is a secret.
        serde_json::from_str(text.reveal()).map_err(|_| unreadable("is no JSON with client_id and client_secret"))
    }

    async fn key_file(&self, path: &str) -> Result<Secret, TargetFault> {
        let (fences, reference) = (self.fences.clone(), format!("${{file:{path}}}"));
        let reading = tokio::task::spawn_blocking(move || {
            fences.check(&reference).map_err(|why| unreadable(&why))?;
            fences.resolve(&reference).map_err(|error| unreadable(&chain(&error)))
        });
        reading.await.map_err(|error| down(error.to_string()))?
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// A secret that belongs to an issuer with TLS never leaves without it, whatever the issuer says.
fn stays_secret(issuer: &str, token_endpoint: &str) -> Result<(), TargetFault> {
    let has_tls = |url: &str| reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "https");
    if has_tls(issuer) && !has_tls(token_endpoint) {
        let message = format!("the issuer of tokens has TLS, and its token endpoint has none: {token_endpoint}");
        return Err(TargetFault::new(TargetFaultKind::Misconfigured("TARGET_WITHOUT_TLS"), message));
    }
    Ok(())
}

/// A form is written like the query of a URL.
fn encoded(form: &[(&str, &str)]) -> Result<String, TargetFault> {
    let url = reqwest::Url::parse_with_params("http://form/", form).map_err(|error| unusable(&error))?;
    Ok(url.query().unwrap_or_default().to_owned())
}

fn unreadable(why: &str) -> TargetFault {
    let message = format!("oauth: credentials_url {why}");
    TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), message)
}

/// The text behind `data:`.
fn inline(data: &str) -> Option<String> {
    let (kind, text) = data.split_once(',')?;
    if !kind.ends_with(";base64") {
        return None;
    }
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// The words of an issuer that refuses a client are in its body, with status 400 or 401.
fn read<T: serde::de::DeserializeOwned>(answer: &Answer, who: &str) -> Result<T, TargetFault> {
    if answer.status == StatusCode::OK {
        // It may hold a token, so nothing of it is told.
        return serde_json::from_str(&answer.text()).map_err(|_| down(format!("{who} answered with something else")));
    }
    // Others of its statuses may have such a body too, as 429 of a limiter in front of it.
    let refuses = matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if let Ok(Refused { error, error_description }) = serde_json::from_str(&answer.text())
        && refuses
    {
        let more = error_description.map(|text| format!(" ({text})")).unwrap_or_default();
        return Err(refused(format!("{who} refuses the client: {error}{more}")));
    }
    let fault = http::status_fault(answer.status, &answer.headers, &answer.words());
    Err(TargetFault { message: format!("{who}: {}", fault.message).into(), ..fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_leaves_without_the_tls_of_its_issuer() {
        let check = |issuer: &str, endpoint: &str, expect: bool| {
            let found = stays_secret(issuer, endpoint);
            assert_eq!(found.is_ok(), expect, "{issuer} {endpoint} {found:?}");
        };
        check("https://i/realm", "https://elsewhere/token", true);
        check("HTTPS://i", "HTTPS://i/token", true);
        check("http://i/realm", "http://i/token", true);
        check("http://i/realm", "https://i/token", true);
        check("https://i/realm", "http://i/token", false);
        check("HTTPS://i/realm", "HTTP://i/token", false);
        check("https://i/realm", "none", false);
    }
}
