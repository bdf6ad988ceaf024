//! The HTTP that opendal and its signer use: this sink's own client, which knows denied networks, TLS and the abort.

use std::time::Duration;

use futures::stream;
use http::{Request, Response};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use reqwest::header::HOST;
use reqwest::{Client, Method, Url};
use tokio_util::sync::CancellationToken;

use super::fault;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{chain, unusable};
use crate::sinks::shared::cause::find;
use crate::sinks::shared::http::{self as shared, BodyEnd};

/// A page of a thousand unfinished uploads, each with a key of 1,024 bytes, is the longest answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

pub(super) struct Transport {
    pub(super) store: Client,
    /// The store, as requests name it.
    pub(super) bucket: Url,
    /// The name that its certificate must carry, in place of its host.
    pub(super) alias: Option<String>,
    /// For where AWS clients find credentials, which the node's operator says and no connector; `None` where the
    /// configuration has keys.
    pub(super) credentials: Option<Result<Client, TargetFault>>,
    pub(super) timeout: Duration,
    pub(super) aborted: CancellationToken,
}

/// Travels through opendal and its signer as the source of their own errors.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(super) struct Failed(pub(super) TargetFault);

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let answered = if self.is_for_store(request.uri()) {
            self.ask_store(request).await
        } else {
            self.ask_for_credentials(request).await
        };
        answered.map_err(|fault| Error::new(ErrorKind::Unexpected, "no use of the answer").set_source(Failed(fault)))
    }
}

impl Transport {
    fn is_for_store(&self, uri: &http::Uri) -> bool {
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("http") => Some(80),
            Some("https") => Some(443),
            Some(_) | None => None,
        });
        uri.host().is_some_and(|host| self.bucket.host_str().is_some_and(|own| own.eq_ignore_ascii_case(host)))
            && uri.scheme_str() == Some(self.bucket.scheme())
            && port == self.bucket.port_or_known_default()
    }

    /// Everything but a success is told by its meaning, before opendal makes an error of its own of it.
    async fn ask_store(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, TargetFault> {
        let may_take_it_back = request.method() == Method::POST;
        let answer = self.exchange(&self.store, request, self.alias.as_deref()).await?;
        let late = may_take_it_back && answer.status.is_success() && fault::is_refusal(answer.body());
        if late || !answer.status.is_success() {
            return Err(fault::of(answer.status, &answer.headers, &answer.text()));
        }
        match answer.end {
            BodyEnd::Whole => Ok(response(&answer)),
            BodyEnd::Cut | BodyEnd::Broken => {
                Err(TargetFault::new(TargetFaultKind::Down, "the store's answer broke off"))
            }
        }
    }

    async fn ask_for_credentials(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, TargetFault> {
        let client = match &self.credentials {
            Some(Ok(client)) => client,
            Some(Err(fault)) => return Err(fault.clone()),
            None => return Err(TargetFault::new(TargetFaultKind::Down, "a request to another host than the store's")),
        };
        self.exchange(client, request, None).await.map(|answer| response(&answer))
    }

    async fn exchange(
        &self,
        client: &Client,
        request: Request<Buffer>,
        alias: Option<&str>,
    ) -> Result<shared::Answer, TargetFault> {
        let (mut parts, body) = request.into_parts();
        let mut url = Url::parse(&parts.uri.to_string()).map_err(|error| unusable(&error))?;
        if let Some(name) = alias {
            url.set_host(Some(name)).map_err(|error| unusable(&error))?;
        }
        // The client knows the host that was signed for.
        parts.headers.remove(HOST);
        let request = client.request(parts.method, url).headers(parts.headers).body(body.to_bytes());
        let answer = shared::exchange(request, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await;
        answer.map_err(|unanswered| unanswered.fault)
    }
}

fn response(answer: &shared::Answer) -> Response<HttpBody> {
    let body = Buffer::from(answer.body().to_vec());
    let chunks = if body.is_empty() { Vec::new() } else { vec![Ok(body)] };
    let mut response = Response::new(HttpBody::new(stream::iter(chunks), None));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    response
}

/// What an error of opendal, of its signer or of this transport says of the target.
pub(super) fn fault_of(error: &(dyn std::error::Error + 'static)) -> TargetFault {
    if let Some(Failed(fault)) = find::<Failed>(error) {
        return fault.clone();
    }
    if let Some(error) = find::<reqsign_core::Error>(error) {
        let kind = match error.kind() {
            reqsign_core::ErrorKind::CredentialInvalid
            | reqsign_core::ErrorKind::PermissionDenied
            | reqsign_core::ErrorKind::ConfigInvalid => TargetFaultKind::Auth,
            reqsign_core::ErrorKind::RateLimited
            | reqsign_core::ErrorKind::RequestInvalid
            | reqsign_core::ErrorKind::Unexpected => TargetFaultKind::Down,
        };
        return TargetFault::new(kind, format!("no credentials: {}", chain(error)));
    }
    TargetFault::new(TargetFaultKind::Down, chain(error))
}
