//! Bad requests over the wire: each is answered in the envelope with the right status and the field's name, and the
//! cluster is as it was.

use anyhow::{Context, Result, ensure};
use tests::api::Answer;
use tests::cluster::{Cluster, ClusterOptions, webhook_connector};

use crate::bad_requests::{self, BODY_BYTES_MAX, Bad};

#[tokio::test]
async fn bad_requests_are_refused_by_name_and_change_nothing() -> Result<()> {
    let set = vec![format!("api.body_bytes_max={}KiB", BODY_BYTES_MAX / 1024)];
    let cluster = Cluster::with(ClusterOptions { set, ..ClusterOptions::default() }).await?;
    cluster.api(0).create(&webhook_connector("taken", "taken/#", "http://127.0.0.1:9/")).await?.data()?;
    let before = cluster.api(0).names().await?;
    let revision = cluster.api(0).row("taken").await?["revision"].clone();

    let table = bad_requests::table();
    ensure!(table.len() >= 80, "the table has {} requests", table.len());
    let mut wrong = Vec::new();
    for (number, bad) in table.iter().enumerate() {
        let api = cluster.api(number % cluster.nodes.len());
        let answer = api.send(bad.method.clone(), &bad.path, bad.content_type, bad.body.clone()).await;
        if let Err(error) = answer.and_then(|answer| check(bad, &answer)) {
            wrong.push(format!("{}: {error:#}", bad.what));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} were answered wrongly:\n{}", wrong.len(), table.len(), wrong.join("\n"));

    for node in &cluster.nodes {
        ensure!(node.api().names().await? == before, "{} lists other connectors", node.name);
        ensure!(node.api().row("taken").await?["revision"] == revision);
    }
    println!("{} bad requests were refused", table.len());
    cluster.finish().await
}

fn check(bad: &Bad, answer: &Answer) -> Result<()> {
    let message = answer.failure(bad.status, bad.reason)?;
    ensure!(message.contains(bad.names), "the message does not name {}: {message}", bad.names);
    match bad.status {
        // A query has fields as well.
        422 | 400 if bad.status == 422 || bad.reason == "INVALID_QUERY" => {
            let errors = answer.body["data"]["errors"].as_array().context("no data.errors")?;
            let named = errors.iter().any(|error| error["field"] == bad.names && error["problem"].is_string());
            ensure!(named, "no error has field {}: {errors:?}", bad.names);
        }
        405 => {
            let allow = answer.allow.as_deref().context("no Allow header")?;
            ensure!(allow.contains("GET") || allow.contains("POST"), "Allow: {allow}");
        }
        _ => ensure!(answer.body["data"].is_null(), "data is not null: {}", answer.body),
    }
    Ok(())
}
