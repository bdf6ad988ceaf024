//! Requests of a bare HTTP client: bodies made ahead, one request at a time on each connection, every answer read.

use std::time::Instant;

use anyhow::{Result, ensure};
use futures::stream::{self, TryStreamExt};
use tests::api;

pub struct Requests<'a> {
    pub url: &'a str,
    pub content_type: &'a str,
    pub login: Option<(&'a str, &'a str)>,
    pub bodies: Vec<String>,
    pub connections: usize,
}

/// Sends all of them, and gives the seconds it took.
pub async fn send(requests: Requests<'_>) -> Result<f64> {
    let Requests { url, content_type, login, bodies, connections } = requests;
    let http = &api::http_client_that_keeps_connections()?;
    let began = Instant::now();
    stream::iter(bodies.into_iter().map(anyhow::Ok))
        .try_for_each_concurrent(connections, |body| async move {
            let mut request = http.post(url).header("content-type", content_type).body(body);
            if let Some((user, password)) = login {
                request = request.basic_auth(user, Some(password));
            }
            let response = request.send().await?;
            let (status, text) = (response.status(), response.text().await?);
            ensure!(status.is_success(), "{status}: {text}");
            Ok(())
        })
        .await?;
    Ok(began.elapsed().as_secs_f64())
}
