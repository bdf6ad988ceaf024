//! What the failure strategies say, to the letter: which records end, how, and after which requests.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api_types::dead_letter::DeadLetterRecord;
use serde_json::{Value, json};
use tests::cluster::{Cluster, webhook_connector};
use tests::mosquitto::{self, Subscriber};
use tests::nginx::{Nginx, Request};
use tests::publisher::{self, PublisherOptions};
use tests::{records, wait};

use crate::{LIMIT, all_arrived};

/// Records of the batch with one poison record in it.
const RECORDS: usize = 1_000;
/// The requests that find one culprit among them: the batch, and two halves for each of ten levels.
const REQUESTS_TO_FIND: usize = 2 * 10 + 1;
/// Those of them that the culprit is in.
const REQUESTS_WITH_CULPRIT: usize = 10 + 1;
/// Longer than any machine takes to publish them.
const LINGER_MS: u64 = 60_000;
const RETRIES: usize = 2;
const RETRY_WAIT: Duration = Duration::from_millis(200);
const LETTERS: &str = "faults/letters";
const POISON: &str = r#"{"message":"poison-0","reading":"poison"}"#;

#[tokio::test]
async fn one_poison_record_among_a_thousand_ends_alone() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let nginx = Nginx::start().await?;
    let retried = |strategy: &str| json!({ "strategy": strategy, "retry_total_times": RETRIES, "wait_time_ms": RETRY_WAIT.as_millis() as u64 });
    let mut letters = retried("dead_message_queue");
    letters["topic_name"] = LETTERS.into();
    let strategies = [
        ("discard", json!({ "strategy": "discard" }), 0),
        ("retry", retried("discard_after_retry"), RETRIES),
        ("letters", letters, RETRIES),
    ];
    for (index, (name, strategy, _)) in strategies.iter().enumerate() {
        let mut connector = webhook_connector(name, "judge/#", "");
        // All of them in one batch, so that the number of requests is known: it is their number that seals it.
        let url = nginx.url_of(&format!("/judge/{name}"));
        connector["config"] =
            json!({ "url": url, "batch_records": RECORDS, "linger_ms": LINGER_MS }).to_string().into();
        connector["failure_strategy"] = strategy.clone();
        cluster.create_running(index, &connector).await?;
    }
    let (second, path) = cluster.file_connector("second", LETTERS);
    cluster.create_running(1, &second).await?;
    let mut subscriber = subscriber_elsewhere(&cluster).await?;

    let published = publish_with_poison(cluster.nodes[0].mqtt_port).await?;
    for (name, _, retries) in &strategies {
        let path = format!("/judge/{name}");
        let good = published.acknowledged.keys();
        let arrived = all_arrived(name, LIMIT, good, || nginx.arrived_at(&path)).await?;
        ensure!(arrived.messages.len() == RECORDS - 1 && arrived.redelivered() == 0, "{name}: not each once");
        let ledger = cluster.drained(1, name, LIMIT).await?;
        let ended = (ledger.sent, ledger.discarded, ledger.dead_lettered);
        let lettered = u64::from(*name == "letters");
        ensure!(ended == (RECORDS as u64 - 1, 1 - lettered, lettered), "{name}: {ledger:?}");
        let detail = cluster.api(2).detail(name).await?;
        ensure!(detail["send_fail_total"] == 1 && detail["retry_total"] == *retries, "{name}: {detail}");
        check_requests(name, &nginx.requests_to(&path)?, *retries)?;
    }
    let heard: Value = serde_json::from_str(&subscriber.next(LIMIT).await?)?;
    check_letter(&serde_json::from_value(heard.clone())?)?;
    wait::until(LIMIT, "the second connector has the letter", || async {
        let arrived = records::of_file(&path)?;
        ensure!(arrived.envelopes.len() == 1, "{} lines", arrived.envelopes.len());
        let envelope = &arrived.envelopes[0];
        ensure!(envelope["topic"] == LETTERS && envelope["payload"] == heard, "{envelope}");
        Ok(())
    })
    .await?;
    subscriber.stop().await?;
    nginx.finish();
    cluster.finish().await
}

/// 999 good messages with one that is not among them, all at one node.
async fn publish_with_poison(port: u16) -> Result<publisher::Published> {
    let half = |name: &str, count: usize| PublisherOptions::new(name, "judge/good", &[port], count as u64);
    let mut published = publisher::publish(half("before", RECORDS / 2), LIMIT).await?;
    let property = ["-D", "publish", "user-property", "plant", "north"];
    let message = ["-V", "mqttv5", "-i", "poisoner", "-q", "1", "-t", "judge/bad", "-m", POISON];
    mosquitto::publish(port, &[&message[..], &property[..]].concat()).await?.success()?;
    published.merge(publisher::publish(half("after", RECORDS / 2 - 1), LIMIT).await?);
    Ok(published)
}

/// Hears letters at a node that has none of the records. Known everywhere when this returns.
async fn subscriber_elsewhere(cluster: &Cluster) -> Result<Subscriber> {
    let mut subscriber = Subscriber::start(cluster.nodes[2].mqtt_port, "faults/#").await?;
    wait::until(LIMIT, "the subscription is known", async || {
        mosquitto::publish(cluster.nodes[0].mqtt_port, &["-q", "1", "-t", "faults/probe", "-m", "{}"])
            .await?
            .success()?;
        subscriber.next(Duration::from_secs(1)).await
    })
    .await?;
    Ok(subscriber)
}

fn check_requests(name: &str, requests: &[Request], retries: usize) -> Result<()> {
    let first = requests.first().context("no request")?;
    let records = serde_json::from_str::<Vec<Value>>(&first.body)?.len();
    ensure!(records == RECORDS, "{name}: the first batch has {records} records");
    let culprit: Vec<&Request> = requests.iter().filter(|request| request.body.contains("poison")).collect();
    println!("{name}: {} requests, {} of them with the culprit", requests.len(), culprit.len());
    ensure!(requests.len() <= REQUESTS_TO_FIND + retries, "{name}: {} requests", requests.len());
    ensure!(culprit.len() <= REQUESTS_WITH_CULPRIT + retries, "{name}: {} with the culprit", culprit.len());
    let alone = culprit.iter().filter(|request| !request.body.contains("good"));
    let attempts: Vec<u64> = alone.map(|request| request.at_ms).collect();
    check_spacing(name, &attempts, 1 + retries, RETRY_WAIT)
}

/// So many attempts, each not sooner than the wait after the one before.
fn check_spacing(name: &str, at_ms: &[u64], attempts: usize, wait: Duration) -> Result<()> {
    ensure!(at_ms.len() == attempts, "{name}: {} attempts instead of {attempts}", at_ms.len());
    let wait_ms = wait.as_millis() as u64;
    for pair in at_ms.windows(2) {
        let apart_ms = pair[1].saturating_sub(pair[0]);
        println!("measured: {name}: attempts {apart_ms} ms apart (promised {wait_ms} ms)");
        // Both ends are cut to whole milliseconds.
        ensure!(apart_ms + 1 >= wait_ms, "{name}: {apart_ms} ms after the attempt before");
        ensure!(apart_ms <= 10 * wait_ms, "{name}: {apart_ms} ms after the attempt before");
    }
    Ok(())
}

fn check_letter(letter: &DeadLetterRecord) -> Result<()> {
    ensure!(letter.connector_name == "letters" && letter.source_topic == "judge/#", "{letter:?}");
    ensure!(letter.error_message.contains("422") && letter.error_message.contains("nobody believes"), "{letter:?}");
    ensure!(letter.error_class == "http_422" && letter.retry_times as usize == RETRIES, "{letter:?}");
    ensure!(letter.original_key.as_deref() == Some("poisoner") && letter.original_topic == "judge/bad", "{letter:?}");
    ensure!(letter.original_data == POISON.as_bytes(), "{letter:?}");
    ensure!(letter.user_properties == [("plant".to_owned(), "north".to_owned())], "{letter:?}");
    ensure!(letter.connectors == ["letters"] && letter.record_id.split('-').count() == 3, "{letter:?}");
    ensure!(letter.original_timestamp > 1_700_000_000, "{letter:?}");
    ensure!(letter.dead_letter_timestamp >= letter.original_timestamp, "{letter:?}");
    Ok(())
}

/// Per phase; all of one publisher at one node, so their order is known.
const MESSAGES: u64 = 40;
const DOWN_WAIT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn records_for_a_target_that_is_down_end_after_exactly_the_retries() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut nginx = Nginx::start().await?;
    let strategy = |strategy: &str, retries: usize| json!({ "strategy": strategy, "retry_total_times": retries, "wait_time_ms": DOWN_WAIT.as_millis() as u64 });
    let connectors = [
        ("answers_503", "down/#", nginx.url_of("/down/a"), strategy("discard_after_retry", 3)),
        ("letters_503", "down/#", nginx.url_of("/down/b"), strategy("dead_message_queue", 2)),
        ("killed", "gone/#", nginx.url_of("/accept/killed"), strategy("discard_after_retry", 2)),
        ("waits", "gone/#", nginx.url_of("/accept/waits"), Value::Null),
    ];
    for (index, (name, topic, url, strategy)) in connectors.iter().enumerate() {
        let mut connector = webhook_connector(name, topic, url);
        connector["failure_strategy"] = strategy.clone();
        cluster.create_running(index % 3, &connector).await?;
    }
    let port = cluster.nodes[1].mqtt_port;
    let publish = |name: &'static str, topic: &'static str| {
        publisher::publish(PublisherOptions::new(name, topic, &[port], MESSAGES), LIMIT)
    };

    publish("down", "down/a").await?;
    check_down(&cluster, &nginx, "answers_503", "/down/a", 3, (MESSAGES, 0)).await?;
    check_down(&cluster, &nginx, "letters_503", "/down/b", 2, (0, MESSAGES)).await?;

    nginx.kill()?;
    let mut published = publish("while-gone", "gone/a").await?;
    let ledger = cluster.drained(0, "killed", LIMIT).await?;
    ensure!((ledger.discarded, ledger.sent) == (MESSAGES, 0), "{ledger:?}");
    let detail = cluster.api(0).detail("killed").await?;
    ensure!(detail["retry_total"] == 2 * MESSAGES && detail["send_fail_total"] == MESSAGES, "{detail}");
    ensure!(cluster.api(0).ledger("waits").await?.pending == MESSAGES, "the waiting connector let records go");
    nginx.restart().await?;
    let back = publish("back", "gone/a").await?;
    let arrived = all_arrived("killed", LIMIT, back.acknowledged.keys(), || nginx.arrived_at("/accept/killed")).await?;
    ensure!(arrived.envelopes.len() as u64 == MESSAGES, "{} arrived", arrived.envelopes.len());
    published.merge(back);
    let all = published.acknowledged.keys();
    let arrived = all_arrived("waits", LIMIT, all, || nginx.arrived_at("/accept/waits")).await?;
    let order: Vec<String> = arrived.payloads().map(|payload| payload["message"].to_string()).collect();
    let sent = |name: &str| (0..MESSAGES).map(|number| format!("\"{name}-{number}\"")).collect::<Vec<_>>();
    ensure!(order == [sent("while-gone"), sent("back")].concat(), "out of order or twice: {order:?}");
    let ledger = cluster.drained(2, "waits", LIMIT).await?;
    ensure!(ledger.sent == 2 * MESSAGES, "{ledger:?}");
    nginx.finish();
    cluster.finish().await
}

/// Each batch was sent once and then once for each retry, and nothing more; each record ended as the strategy says.
async fn check_down(
    cluster: &Cluster,
    nginx: &Nginx,
    name: &str,
    path: &str,
    retries: usize,
    (discarded, dead_lettered): (u64, u64),
) -> Result<()> {
    let ledger = cluster.drained(0, name, LIMIT).await?;
    ensure!((ledger.discarded, ledger.dead_lettered) == (discarded, dead_lettered), "{name}: {ledger:?}");
    ensure!(ledger.queued == MESSAGES && ledger.sent == 0, "{name}: {ledger:?}");
    let detail = cluster.api(2).detail(name).await?;
    ensure!(detail["retry_total"] == MESSAGES * retries as u64, "{name}: {detail}");
    ensure!(detail["send_fail_total"] == MESSAGES, "{name}: {detail}");
    let mut batches: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    for request in nginx.requests_to(path)? {
        batches.entry(request.idempotency_key.clone()).or_default().push(request);
    }
    for (key, requests) in &batches {
        ensure!(requests.iter().all(|request| request.body == requests[0].body), "{name}: batch {key} changed");
        let at_ms: Vec<u64> = requests.iter().map(|request| request.at_ms).collect();
        check_spacing(name, &at_ms, 1 + retries, DOWN_WAIT)?;
    }
    Ok(())
}
