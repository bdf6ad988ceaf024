//! The HTTP that opendal uses: this sink's own client, which signs, and knows denied networks, TLS and the abort.

use std::time::Duration;

use ::http::request::Parts;
use ::http::{Request, Response};
use futures::stream;
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use reqwest::header::HOST;
use reqwest::{Client, Method, StatusCode, Url};
use tokio_util::sync::CancellationToken;

use super::fault;
use super::login::Login;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{chain, unusable};
use crate::sinks::shared::cause::find;
use crate::sinks::shared::http::{self, Answer, BodyEnd};

/// A page of a thousand unfinished uploads, each with a key of 1,024 bytes, is the longest answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

pub(super) struct Transport {
    pub(super) store: Client,
    /// The name that its certificate must carry, in place of its host.
    pub(super) alias: Option<String>,
    pub(super) login: Login,
    pub(super) timeout: Duration,
    pub(super) aborted: CancellationToken,
}

/// Travels through opendal, and through what signs, as the source of their own errors.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(super) struct Failed(pub(super) TargetFault);

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let answered = self.ask(request).await;
        answered.map_err(|fault| Error::new(ErrorKind::Unexpected, "no use of the answer").set_source(Failed(fault)))
    }
}

impl Transport {
    /// Everything but a success is told by its meaning, before opendal makes an error of its own of it.
    async fn ask(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, TargetFault> {
        let (mut parts, body) = request.into_parts();
        self.sign(&mut parts).await?;
        let mut url = Url::parse(&parts.uri.to_string()).map_err(|error| unusable(&error))?;
        if let Some(name) = &self.alias {
            url.set_host(Some(name)).map_err(|error| unusable(&error))?;
        }
        // The client knows the host that was signed for.
        parts.headers.remove(HOST);
        let (method, query) = (parts.method.clone(), parts.uri.query().unwrap_or_default().to_owned());
        let request = self.store.request(parts.method, url).headers(parts.headers).body(body.to_bytes());
        let answer = http::exchange(request, self.timeout, ANSWER_BYTES_MAX, &self.aborted).await;
        let answer = answer.map_err(|unanswered| unanswered.fault)?;
        if method == Method::DELETE && answer.status == StatusCode::NOT_FOUND && fault::is_gone(&answer.text()) {
            return Ok(response(StatusCode::NO_CONTENT, &answer));
        }
        let taken_back = method == Method::POST && answer.status.is_success() && fault::is_refusal(answer.body());
        if taken_back || !answer.status.is_success() {
            return Err(fault::of(answer.status, &answer.headers, &answer.text()));
        }
        match answer.end {
            BodyEnd::Whole => {}
            BodyEnd::Cut | BodyEnd::Broken => {
                return Err(TargetFault::new(TargetFaultKind::Down, "the store's answer broke off"));
            }
        }
        match fault::lacks(&method, &query, &answer.headers, answer.body()) {
            None => Ok(response(answer.status, &answer)),
            Some(lacks) => {
                let says = format!("an answer without {lacks}, as a store does not give it: {}", answer.words());
                Err(TargetFault::new(TargetFaultKind::Down, http::status_message(answer.status, &says)))
            }
        }
    }

    /// No longer than a request may take, however many wait for the same credentials.
    async fn sign(&self, request: &mut Parts) -> Result<(), TargetFault> {
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => Err(fault::aborted()),
            signed = tokio::time::timeout(self.timeout, self.login.sign(request)) => signed.unwrap_or_else(|_| {
                let says = format!("no credentials within {} ms", self.timeout.as_millis());
                Err(TargetFault::new(TargetFaultKind::Down, says))
            }),
        }
    }
}

fn response(status: StatusCode, answer: &Answer) -> Response<HttpBody> {
    let body = Buffer::from(answer.body().to_vec());
    let chunks = if body.is_empty() { Vec::new() } else { vec![Ok(body)] };
    let mut response = Response::new(HttpBody::new(stream::iter(chunks), None));
    *response.status_mut() = status;
    *response.headers_mut() = answer.headers.clone();
    response
}

/// What an error of opendal or of this transport says of the target.
pub(super) fn fault_of(error: &(dyn std::error::Error + 'static)) -> TargetFault {
    match find::<Failed>(error) {
        Some(Failed(fault)) => fault.clone(),
        None => TargetFault::new(TargetFaultKind::Down, chain(error)),
    }
}
