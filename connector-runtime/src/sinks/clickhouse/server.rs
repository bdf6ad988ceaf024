//! Requests to the HTTP interface: questions about the table, and inserts.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap};
use tokio_util::sync::CancellationToken;

use super::answer;
use super::config::Config;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{SinkContext, unusable};
use crate::sinks::shared::http::{self, Answer, HttpTarget};

/// The server prints the row that it cannot read, and the one before it; a table may have many columns.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// The name of the user when only a password is given.
const DEFAULT_USER: &str = "default";
/// The answer is sent when all is done, so that its status is the whole truth where the server can hold it back.
const WAIT: (&str, &str) = ("wait_end_of_query", "1");

/// What a query of the URL must not have: a login, which servers write into their logs, and what the sink says itself
/// with every insert.
const NOT_IN_URL: [&str; 8] =
    ["user", "password", "query", "compress", "decompress", "session_id", "insert_deduplication_token", WAIT.0];

pub(super) struct Server {
    target: HttpTarget,
    timeout: Duration,
    pub(super) aborted: CancellationToken,
}

/// A setting for one insert.
pub(super) type Setting = (&'static str, String);

impl Server {
    pub(super) async fn open(config: &Config, context: &SinkContext) -> Result<Self, TargetFault> {
        refuse_query(&config.url)?;
        let url = http::endpoint(http::without_login(&config.url)?, &[], &[WAIT])?;
        let timeout = Duration::from_secs(config.timeout_secs);
        let (tls, deny_networks) = (config.tls.clone(), context.deny_networks.clone());
        let connections_max = usize::try_from(config.pool_size).unwrap_or(1);
        let target = http::open_keeping(connections_max, url, timeout, tls, deny_networks, headers(config)?).await?;
        Ok(Self { target, timeout, aborted: CancellationToken::new() })
    }

    /// Asks for a result in the format TabSeparated.
    pub(super) async fn ask(&self, statement: &str) -> Result<String, TargetFault> {
        let request = self.target.client.post(self.target.url.clone()).body(statement.to_owned());
        let answer = self.exchange(request).await?;
        match answer::exception(&answer) {
            Some(fault) => Err(fault),
            None => Ok(answer.text()),
        }
    }

    /// Rows that are compressed with gzip.
    pub(super) async fn insert(
        &self,
        statement: &str,
        settings: &[Setting],
        rows: Vec<u8>,
    ) -> Result<Answer, TargetFault> {
        let request = self.target.client.post(self.with(statement, settings));
        self.exchange(request.header(CONTENT_ENCODING, "gzip").body(rows)).await
    }

    fn with(&self, statement: &str, settings: &[Setting]) -> Url {
        let mut url = self.target.url.clone();
        url.query_pairs_mut().append_pair("query", statement).extend_pairs(settings);
        url
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Answer, TargetFault> {
        let answer = http::exchange(request, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await;
        answer.map_err(|unanswered| unanswered.fault)
    }

    /// Waits for something of this node's own, as long as a request may take and no longer than the sink lives.
    pub(super) async fn wait<T>(&self, what: &str, wait: impl Future<Output = T>) -> Result<T, TargetFault> {
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => {
                Err(TargetFault::new(TargetFaultKind::Interrupted, "the request was aborted"))
            }
            waited = tokio::time::timeout(self.timeout, wait) => waited.map_err(|_| {
                let says = format!("{what} within {} ms", self.timeout.as_millis());
                TargetFault::new(TargetFaultKind::Down, says)
            }),
        }
    }
}

fn refuse_query(url: &str) -> Result<(), TargetFault> {
    let url = Url::parse(url).map_err(|error| unusable(&error))?;
    let Some((name, _)) = url.query_pairs().find(|(name, _)| NOT_IN_URL.contains(&&**name)) else { return Ok(()) };
    let says =
        format!("the query of the server's address has {name}, which has a field of its own or is not to be said");
    Err(TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), says))
}

/// The login goes into a header and never into the URL, which servers write into their logs.
fn headers(config: &Config) -> Result<HeaderMap, TargetFault> {
    let mut headers = HeaderMap::new();
    let password = config.password.reveal();
    if config.username.is_empty() && password.is_empty() {
        return Ok(headers);
    }
    let user = if config.username.is_empty() { DEFAULT_USER } else { &config.username };
    headers.insert(AUTHORIZATION, http::basic(user, password).map_err(|error| unusable(&error))?);
    Ok(headers)
}
