//! HTTP towards a target: a client that goes where it may and nowhere else, and what an answer means.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HOST, HeaderMap, HeaderValue, InvalidHeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};
use tokio_util::sync::CancellationToken;

use super::cause::{connect_kind, find};
use super::dial::{self, DialError};
use super::network::Network;
use super::retry_after::retry_after;
use super::tls;
use crate::config::tls::TlsOptions;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{chain, tls_unusable, unusable};

/// An answer that is read for its words only.
pub(crate) const WORDS_BYTES_MAX: usize = 64 << 10;
/// Words of an answer that are kept.
const ANSWER_CHARS_MAX: usize = 512;
/// Many servers close idle connections after 5 s (Node.js, uvicorn and others by default). A POST that meets the close
/// on its way fails, and nobody knows whether it arrived: give such connections up before the server does.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const USER_AGENT: &str = concat!("sluice/", env!("CARGO_PKG_VERSION"));

/// A client for one URL.
pub(crate) struct HttpTarget {
    pub(crate) client: Client,
    pub(crate) url: Url,
}

/// A client for this URL, which sends these headers with every request.
pub(crate) async fn open(
    url: String,
    timeout: Duration,
    tls_options: TlsOptions,
    deny_networks: Arc<[Network]>,
    headers: HeaderMap,
) -> Result<HttpTarget, TargetFault> {
    open_with(None, url, timeout, tls_options, deny_networks, headers).await
}

/// The same over HTTP/1.1, where each request that is under way has a connection of its own, with a bound on the
/// connections that are kept for later requests.
#[cfg(feature = "clickhouse")]
pub(crate) async fn open_keeping(
    connections_max: usize,
    url: String,
    timeout: Duration,
    tls_options: TlsOptions,
    deny_networks: Arc<[Network]>,
    headers: HeaderMap,
) -> Result<HttpTarget, TargetFault> {
    open_with(Some(connections_max), url, timeout, tls_options, deny_networks, headers).await
}

async fn open_with(
    connections_max: Option<usize>,
    url: String,
    timeout: Duration,
    tls_options: TlsOptions,
    deny_networks: Arc<[Network]>,
    headers: HeaderMap,
) -> Result<HttpTarget, TargetFault> {
    // Certificates are read from files.
    tokio::task::spawn_blocking(move || target(connections_max, &url, timeout, &tls_options, deny_networks, headers))
        .await
        .map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))?
}

/// A path below the URL of a server, which may have one of its own, or none, with this query.
#[cfg(any(
    feature = "clickhouse",
    feature = "elasticsearch",
    feature = "greptime",
    feature = "influxdb",
    feature = "opentsdb"
))]
pub(crate) fn endpoint(server: &str, path: &[&str], query: &[(&str, &str)]) -> Result<String, TargetFault> {
    let mut url = Url::parse(server).map_err(|error| unusable(&error))?;
    // Without one, the server's own stays as it is, with its slash at the end.
    if !path.is_empty()
        && let Ok(mut segments) = url.path_segments_mut()
    {
        segments.pop_if_empty().extend(path);
    }
    url.query_pairs_mut().extend_pairs(query);
    Ok(url.into())
}

/// A server's URL, refused with a user or password in it: they have fields of their own, and the client would send the
/// URL's in place of those.
#[cfg(any(
    feature = "clickhouse",
    feature = "elasticsearch",
    feature = "greptime",
    feature = "influxdb",
    feature = "s3"
))]
pub(crate) fn without_login(server: &str) -> Result<&str, TargetFault> {
    let url = Url::parse(server).map_err(|error| unusable(&error))?;
    if url.username().is_empty() && url.password().is_none() {
        return Ok(server);
    }
    let says = "the server's address has a user or password in it: they have fields of their own";
    Err(TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), says))
}

/// An address as a URL: `https://` where its scheme or the switch says so, else `http://`.
#[cfg(any(feature = "elasticsearch", feature = "greptime"))]
pub(crate) fn server(address: &str, enable_tls: bool) -> String {
    let address = address.trim();
    let scheme = |name: &str| address.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if scheme("https://") {
        return address.to_owned();
    }
    let bare = if scheme("http://") { &address["http://".len()..] } else { address };
    format!("{}://{bare}", if enable_tls { "https" } else { "http" })
}

/// `Authorization: Basic …`, which no log shows.
pub(crate) fn basic(user: &str, password: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// A header that no log shows.
pub(crate) fn secret(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

fn target(
    connections_max: Option<usize>,
    url: &str,
    timeout: Duration,
    tls_options: &TlsOptions,
    deny_networks: Arc<[Network]>,
    mut headers: HeaderMap,
) -> Result<HttpTarget, TargetFault> {
    let mut url = Url::parse(url).map_err(|error| unusable(&error))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    // An address in the URL never goes through the resolver.
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
        && dial::is_denied(address, &deny_networks)
    {
        return Err(DialError::Denied(host).fault());
    }
    let is_tls = url.scheme() == "https";
    let mut tls = if is_tls {
        tls::client_config(tls_options).map_err(|error| tls_unusable(&error))?
    } else {
        // Never used, but the client would look for a process-wide provider otherwise.
        tls::client_config(&without_verification(tls_options)).map_err(|error| unusable(&error))?
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let mut builder = Client::builder();
    if connections_max.is_some() {
        tls.alpn_protocols.clear();
        builder = builder.http1_only();
    }
    let mut alias = None;
    if let Some(name) = tls_options.tls_server_name.as_deref().filter(|name| is_tls && *name != host) {
        // The name that is verified is the URL's: put it there, resolve it to the real host, keep the real `Host`.
        // HTTP/2 would take its authority from the URL, so it stays at 1.1.
        let authority = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let authority = HeaderValue::from_str(&authority).map_err(|error| unusable(&error))?;
        headers.entry(HOST).or_insert(authority);
        url.set_host(Some(name)).map_err(|error| unusable(&error))?;
        alias = Some((name.to_owned(), host));
        tls.alpn_protocols.clear();
        builder = builder.http1_only();
    }
    let client = builder
        .tls_backend_preconfigured(tls)
        .dns_resolver(Arc::new(GuardedResolver { deny_networks, alias }))
        // A proxy would resolve names itself, past the deny list.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(connections_max.unwrap_or(usize::MAX))
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .build()
        .map_err(|error| unusable(&error))?;
    Ok(HttpTarget { client, url })
}

fn without_verification(options: &TlsOptions) -> TlsOptions {
    TlsOptions {
        tls_verify: false,
        client_cert_path: None,
        client_cert: None,
        client_key_path: None,
        client_key: None,
        ..options.clone()
    }
}

/// What a target said.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    #[cfg_attr(
        not(any(feature = "clickhouse", feature = "elasticsearch", feature = "opentsdb", feature = "s3")),
        allow(dead_code)
    )]
    pub(crate) end: BodyEnd,
    body: Vec<u8>,
}

/// Where the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    Whole,
    /// It has more than was to be read.
    Cut,
    /// The connection broke off.
    Broken,
}

impl Answer {
    #[cfg(all(test, feature = "elasticsearch"))]
    pub(crate) fn of(status: StatusCode, headers: HeaderMap, body: &[u8], end: BodyEnd) -> Self {
        Self { status, headers, body: body.to_vec(), end }
    }

    #[cfg(any(feature = "elasticsearch", feature = "s3"))]
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// As text; what is not UTF-8 is replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// For people.
    pub(crate) fn words(&self) -> String {
        shortened(&self.text())
    }
}

/// As much of a text as a person reads.
pub(crate) fn shortened(text: &str) -> String {
    text.trim().chars().take(ANSWER_CHARS_MAX).collect()
}

/// Why there is no answer.
pub(crate) struct Unanswered {
    pub(crate) fault: TargetFault,
    /// The connection could not be made or broke off: another one may do better.
    #[cfg_attr(not(any(feature = "elasticsearch", feature = "opentsdb")), allow(dead_code))]
    pub(crate) lost: bool,
}

/// Sends a request and reads what comes back, of its body no more than `answer_bytes_max`. Ends at once, and sends
/// nothing more, when the sink is aborted.
pub(crate) async fn exchange(
    request: RequestBuilder,
    timeout: Duration,
    answer_bytes_max: usize,
    aborted: &CancellationToken,
) -> Result<Answer, Unanswered> {
    let exchange = async {
        match request.send().await {
            Ok(response) => Ok(read(response, answer_bytes_max).await),
            Err(error) => {
                let timed_out = error.is_timeout();
                let fault = request_fault(error, timeout);
                let lost = !timed_out && fault.kind == TargetFaultKind::Down;
                Err(Unanswered { fault, lost })
            }
        }
    };
    tokio::select! {
        biased;
        () = aborted.cancelled() => {
            let fault = TargetFault::new(TargetFaultKind::Interrupted, "the request was aborted");
            Err(Unanswered { fault, lost: false })
        }
        answer = exchange => answer,
    }
}

async fn read(mut response: Response, bytes_max: usize) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    let end = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = bytes_max - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    break BodyEnd::Cut;
                }
            }
            Ok(None) => break BodyEnd::Whole,
            // It has said its status.
            Err(_) => break BodyEnd::Broken,
        }
    };
    Answer { status, headers, body, end }
}

/// What the statuses that say something about the target mean. The sink looks at those about records before.
pub(crate) fn status_fault(status: StatusCode, headers: &HeaderMap, words: &str) -> TargetFault {
    let asked = asked_to_wait(headers);
    let kind = match status.as_u16() {
        429 => TargetFaultKind::Throttled { retry_after: asked },
        408 | 425 | 500..=599 => match asked {
            Some(retry_after) => TargetFaultKind::Throttled { retry_after: Some(retry_after) },
            None => TargetFaultKind::Down,
        },
        401 | 407 => TargetFaultKind::Auth,
        403 => TargetFaultKind::Permission,
        404 | 410 => TargetFaultKind::Missing,
        300..=399 => TargetFaultKind::Misconfigured("TARGET_REDIRECTS"),
        _ => TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"),
    };
    TargetFault::new(kind, status_message(status, words))
}

/// How long the target wants to be left alone.
pub(crate) fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    asked.and_then(|value| retry_after(value, Utc::now()))
}

pub(crate) fn status_message(status: StatusCode, words: &str) -> String {
    if words.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {words}") }
}

/// No answer came. The URL stays out of the text: it may carry a secret.
fn request_fault(error: reqwest::Error, timeout: Duration) -> TargetFault {
    if error.is_timeout() {
        return TargetFault::new(TargetFaultKind::Down, format!("no answer within {} ms", timeout.as_millis()));
    }
    let error = error.without_url();
    if let Some(error @ DialError::Denied(_)) = find::<DialError>(&error) {
        return error.fault();
    }
    TargetFault::new(connect_kind(&error), chain(&error))
}

/// Looks at the addresses that are really connected to, so that no name can lead to a denied one.
struct GuardedResolver {
    deny_networks: Arc<[Network]>,
    /// A name that stands for another host.
    alias: Option<(String, String)>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let deny_networks = Arc::clone(&self.deny_networks);
        let host = match &self.alias {
            Some((alias, host)) if alias.eq_ignore_ascii_case(name.as_str()) => host.clone(),
            Some(_) | None => name.as_str().to_owned(),
        };
        Box::pin(async move {
            let allowed = dial::resolve(&host, 0, &deny_networks).await?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
