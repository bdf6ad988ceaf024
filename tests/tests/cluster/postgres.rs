//! Rows in PostgreSQL: each once, through a kill of the server, and a poison row as each failure strategy says.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use api_types::dead_letter::DeadLetterRecord;
use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::postgres::{ID_COLUMN, Postgres, TABLE, postgres_connector};
use tests::publisher::{self, Published, Publisher, PublisherOptions};
use tests::{records, wait};

use crate::LIMIT;

const MESSAGES: u64 = 10_000;
/// Of those that are published while the server is killed.
const PER_SECOND: u64 = 700;
const POISON: &str = "meter-617";
const RETRIES: u64 = 3;

#[tokio::test]
async fn rows_arrive_exactly_once_and_wait_for_a_killed_server() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut postgres = Postgres::start().await?;
    postgres.sql_of_role(TABLE).await?;
    postgres.sql_of_role(ID_COLUMN).await?;
    let config = postgres.config(&json!({ "id_column": "id", "enable_batch_insert": true, "batch_size": 500 }));
    let mut connector = postgres_connector("rows", "rows/#", &config);
    connector["failure_strategy"] = json!({ "strategy": "discard_after_retry", "retry_total_times": 1, "wait_time_ms": 1, "on_target_down": "wait" });
    cluster.create_running(0, &connector).await?;

    let began = Instant::now();
    let calm = publisher::finish_all(publishers(&cluster, "calm", MESSAGES, None), LIMIT).await?;
    arrived_exactly_once(&postgres, &calm, "calm").await?;
    println!("measured: {MESSAGES} messages are rows after {:.1} s", began.elapsed().as_secs_f64());

    let publishers = publishers(&cluster, "storm", MESSAGES, Some(PER_SECOND));
    wait::until(LIMIT, "some of them have arrived", async || {
        let arrived = postgres.count("mqtt_messages WHERE topic = 'rows/storm'").await?;
        ensure!(arrived > MESSAGES / 10, "{arrived}");
        Ok(())
    })
    .await?;
    postgres.kill()?;
    health_becomes(&cluster, "rows", "TARGET_UNREACHABLE").await?;
    let so_far: u64 = publishers.iter().map(Publisher::acknowledged).sum();
    println!("measured: killed and missed before message {so_far} of {MESSAGES}");
    postgres.start_again().await?;
    let storm = publisher::finish_all(publishers, LIMIT).await?;
    arrived_exactly_once(&postgres, &storm, "storm").await?;

    let ledger = cluster.drained(1, "rows", LIMIT).await?;
    ensure!(ledger.sent == 2 * MESSAGES && ledger.discarded == 0, "{ledger:?}");
    let detail = cluster.api(2).detail("rows").await?;
    ensure!(detail["health"] == "ok" && detail["discard_total"] == 0, "{detail}");
    postgres.finish();
    cluster.finish().await
}

/// One per node.
fn publishers(cluster: &Cluster, name: &str, messages: u64, per_second: Option<u64>) -> Vec<Publisher> {
    let ports = cluster.mqtt_ports();
    let count = ports.len() as u64;
    let start = |index: u64| {
        let mut ports = ports.clone();
        ports.rotate_left(index as usize);
        let share = messages / count + u64::from(index < messages % count);
        let mut options = PublisherOptions::new(&format!("{name}-{index}"), &format!("rows/{name}"), &ports, share);
        options.per_second = per_second.map(|rate| rate / count);
        Publisher::start(options)
    };
    (0..count).map(start).collect()
}

async fn arrived_exactly_once(postgres: &Postgres, published: &Published, name: &str) -> Result<()> {
    ensure!(published.sent_again == 0, "{} were sent again by their publisher", published.sent_again);
    let rows = format!("SELECT payload::json ->> 'message' FROM mqtt_messages WHERE topic = 'rows/{name}' ORDER BY 1");
    wait::until(LIMIT, "everything acknowledged is a row", async || {
        let found = postgres.count(&format!("mqtt_messages WHERE topic = 'rows/{name}'")).await?;
        ensure!(found >= published.acknowledged.len() as u64, "{found} of {}", published.acknowledged.len());
        Ok(())
    })
    .await?;
    let found = postgres.sql(&rows).await?;
    let mut found: Vec<&str> = found.lines().collect();
    // The database sorts by its own rules.
    found.sort_unstable();
    ensure!(found.iter().copied().eq(published.acknowledged.keys()), "{name}: {} rows, or others", found.len());
    Ok(())
}

async fn health_becomes(cluster: &Cluster, connector: &str, reason: &str) -> Result<()> {
    wait::until(LIMIT, &format!("{connector}: {reason}"), async || {
        let detail = cluster.api(0).detail(connector).await?;
        ensure!(detail["health_reason"] == reason, "{} {}", detail["health"], detail["health_reason"]);
        Ok(())
    })
    .await
}

/// Name of the connector, its strategy.
fn strategies() -> [(&'static str, Value); 3] {
    let retries = |strategy: &str| json!({ "strategy": strategy, "retry_total_times": RETRIES, "wait_time_ms": 200 });
    [
        ("discard", json!({ "strategy": "discard" })),
        ("discard_after_retry", retries("discard_after_retry")),
        ("dead_message_queue", retries("dead_message_queue")),
    ]
}

#[tokio::test]
async fn a_poison_row_ends_as_the_strategy_says() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let postgres = Postgres::start().await?;
    postgres
        .sql_of_role(&format!(
            "{TABLE}; ALTER TABLE mqtt_messages ADD CONSTRAINT sane CHECK (payload NOT LIKE '%\"{POISON}\"%')"
        ))
        .await?;
    let (letters, letters_path) = cluster.file_connector("letters", "dead_letter_queue");
    cluster.create_running(0, &letters).await?;
    for (name, strategy) in strategies() {
        postgres.sql_of_role(&format!("CREATE TABLE {name} (LIKE mqtt_messages INCLUDING CONSTRAINTS)")).await?;
        // Each way to write has its own way to find the row.
        let config = postgres.config(&json!({ "table": name, "enable_batch_insert": name != "discard" }));
        let mut connector = postgres_connector(name, "meters/#", &config);
        connector["failure_strategy"] = strategy;
        cluster.create_running(1, &connector).await?;
    }

    let options = PublisherOptions::new("meter", "meters/a", &cluster.mqtt_ports(), 1_000);
    let began = Instant::now();
    let published = publisher::publish(options, LIMIT).await?;
    for (name, _) in strategies() {
        let ledger = cluster.drained(2, name, LIMIT).await?;
        let letters = u64::from(name == "dead_message_queue");
        let expect = (999, 1 - letters, letters);
        ensure!((ledger.sent, ledger.discarded, ledger.dead_lettered) == expect, "{name}: {ledger:?}");
        let detail = cluster.api(0).detail(name).await?;
        let retries = if name == "discard" { 0 } else { RETRIES };
        ensure!(detail["retry_total"] == retries && detail["send_fail_total"] == 1, "{name}: {detail}");
        let found = postgres.sql(&format!("SELECT payload::json ->> 'message' FROM {name}")).await?;
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        let healthy = published.acknowledged.keys().filter(|message| *message != POISON);
        ensure!(found.iter().copied().eq(healthy), "{name}: {} rows, or others", found.len());
    }
    println!("measured: one poison row in each of three connectors, {:.1} s", began.elapsed().as_secs_f64());
    let letter = the_letter(&letters_path).await?;
    check_letter(&letter)?;
    ensure!(letter.error_class == "sqlstate_23514" && letter.original_data == payload(POISON), "{letter:?}");
    ensure!(letter.error_message.contains("violates check constraint \"sane\" (SQLSTATE 23514)"), "{letter:?}");
    postgres.finish();
    cluster.finish().await
}

fn payload(message: &str) -> Vec<u8> {
    json!({ "message": message }).to_string().into_bytes()
}

async fn the_letter(path: &std::path::Path) -> Result<DeadLetterRecord> {
    wait::until(LIMIT, "the dead letter", async || {
        let arrived = records::of_file(path)?;
        let letters: Vec<&Value> = arrived.payloads().collect();
        ensure!(letters.len() == 1, "{} letters", letters.len());
        serde_json::from_value(letters[0].clone()).context("a letter")
    })
    .await
}

fn check_letter(letter: &DeadLetterRecord) -> Result<()> {
    ensure!(letter.connector_name == "dead_message_queue" && letter.source_topic == "meters/#", "{letter:?}");
    ensure!(u64::from(letter.retry_times) == RETRIES, "{letter:?}");
    ensure!(letter.original_topic == "meters/a" && letter.connectors == ["dead_message_queue"], "{letter:?}");
    ensure!(letter.original_key.as_deref() == Some("meter"), "{letter:?}");
    ensure!(letter.record_id.split('-').count() == 3 && letter.user_properties.is_empty(), "{letter:?}");
    ensure!(letter.original_timestamp > 1_700_000_000 && letter.original_timestamp < 100_000_000_000, "{letter:?}");
    ensure!(letter.dead_letter_timestamp >= letter.original_timestamp, "{letter:?}");
    Ok(())
}
