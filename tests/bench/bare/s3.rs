//! opendal in a loop: objects that are in memory, so many on their way at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use futures::stream::{self, TryStreamExt};
use http::{Request, Response};
use opendal::services::S3 as Service;
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, OperationContext, Operator};
use tests::api;
use tests::s3::{REGION, S3, SECRET, USER};

/// Writes each as one object; gives the seconds it took.
pub async fn write(server: &S3, bucket: &str, objects: BTreeMap<String, Vec<u8>>, window: usize) -> Result<f64> {
    let operator = &operator(server, bucket)?;
    let began = Instant::now();
    stream::iter(objects.into_iter().map(anyhow::Ok))
        .try_for_each_concurrent(window, |(key, bytes)| async move {
            operator.write_with(&key, bytes).content_type("application/json").await?;
            Ok(())
        })
        .await?;
    Ok(began.elapsed().as_secs_f64())
}

/// With the checksum that the sink sends.
fn operator(server: &S3, bucket: &str) -> Result<Operator> {
    let service = Service::default()
        .bucket(bucket)
        .region(REGION)
        .endpoint(&server.url())
        .access_key_id(USER)
        .secret_access_key(SECRET)
        .checksum_algorithm("crc32c")
        .disable_config_load();
    let transport = HttpTransporter::new(Transport(api::http_client_that_keeps_connections()?));
    Ok(Operator::new(service)?.with_context(OperationContext::new().with_http_transport(transport)))
}

/// opendal is built without a client of HTTP.
struct Transport(reqwest::Client);

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let no_answer = |error| Error::new(ErrorKind::Unexpected, "no answer").set_source(error);
        let (parts, body) = request.into_parts();
        let request = self.0.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body.to_bytes());
        let answer = request.send().await.map_err(no_answer)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = Buffer::from(answer.bytes().await.map_err(no_answer)?);
        let mut response = Response::new(HttpBody::new(stream::iter([Ok(body)]), None));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}
