//! The harness itself, tried on servers that are known to work.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::mariadb::MariaDb;
use tests::mosquitto::{self, Broker, Subscriber};
use tests::mqtt_session::Version;
use tests::nginx::Nginx;
use tests::postgres::Postgres;
use tests::process::{self, Finished};
use tests::prometheus::{self, Prometheus};
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::{api, binary, wait};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn nginx_answers_by_path_and_logs_bodies() -> Result<()> {
    let mut nginx = Nginx::start().await?;
    let http = api::http_client()?;
    let body = r#"[{"id":"1-1-1","payload":{"message":"a \"quoted\" ü"}},{"id":"1-1-2","payload":1}]"#;
    for (url, status) in [(nginx.url(), 200), (nginx.refusing_url(), 400), (nginx.failing_url(), 503)] {
        let request = http.post(url).header("Idempotency-Key", "k-1").body(body);
        ensure!(request.send().await?.status() == status, "expected {status}");
    }
    let requests = wait::until(LIMIT, "three requests are logged", || async {
        let requests = nginx.requests()?;
        ensure!(requests.len() == 3, "{}", requests.len());
        Ok(requests)
    })
    .await?;
    ensure!(requests.iter().all(|one| one.body == body && one.method == "POST" && one.idempotency_key == "k-1"));
    let arrived = nginx.arrived()?;
    ensure!(arrived.envelopes.len() == 2 && arrived.messages.contains_key("a \"quoted\" ü"), "{arrived:?}");

    nginx.kill()?;
    ensure!(http.post(nginx.url()).body("[]").send().await.is_err(), "a killed target answered");
    nginx.restart().await?;
    http.post(nginx.url()).body("[]").send().await?.error_for_status()?;
    nginx.finish();
    Ok(())
}

#[tokio::test]
async fn a_large_body_is_logged_whole() -> Result<()> {
    let nginx = Nginx::start().await?;
    let text = "x".repeat(3_000_000);
    let body = format!(r#"[{{"id":"1-1-1","payload":"{text}"}}]"#);
    api::http_client()?.post(nginx.url()).body(body).send().await?.error_for_status()?;
    let logged = wait::until(LIMIT, "the body is logged", || async {
        let arrived = nginx.arrived()?;
        ensure!(arrived.envelopes.len() == 1, "nothing yet");
        Ok(arrived.envelopes[0]["payload"].as_str().map(str::len))
    });
    ensure!(logged.await? == Some(3_000_000));
    nginx.finish();
    Ok(())
}

#[tokio::test]
async fn postgres_keeps_its_rows_when_it_is_killed() -> Result<()> {
    let mut postgres = Postgres::start().await?;
    postgres.sql_of_role("CREATE TABLE t AS SELECT n, 'ü' AS text FROM generate_series(1, 3) n").await?;
    postgres.kill()?;
    ensure!(postgres.sql("SELECT 1").await.is_err(), "a killed server answered");
    postgres.start_again().await?;
    let rows = postgres.rows("SELECT * FROM t ORDER BY n").await?;
    ensure!(rows.len() == 3 && rows[2] == serde_json::json!({ "n": 3, "text": "ü" }), "{rows:?}");
    ensure!(postgres.count("t").await? == 3);
    let refused = postgres.sql_of_role("DROP DATABASE postgres").await;
    ensure!(refused.is_err(), "the role may do what it must not");
    postgres.finish();
    Ok(())
}

#[tokio::test]
async fn publishers_know_what_was_acknowledged() -> Result<()> {
    let broker = Broker::start().await?;
    for version in [Version::V4, Version::V5] {
        let mut subscriber = Subscriber::start(broker.port(), "sensor/#").await?;
        let options = PublisherOptions {
            version,
            ..PublisherOptions::new(&format!("pub-{version:?}"), "sensor/a", &[broker.port()], 500)
        };
        let published = publisher::publish(options, LIMIT).await?;
        ensure!(published.acknowledged.len() == 500, "{version:?}: {}", published.acknowledged.len());
        ensure!(published.sent_again == 0 && published.connections == 1);
        let first: serde_json::Value = serde_json::from_str(&subscriber.next(LIMIT).await?)?;
        ensure!(first["message"] == format!("pub-{version:?}-0"), "{first}");
        subscriber.stop().await?;
    }
    broker.finish();
    Ok(())
}

#[tokio::test]
async fn a_publisher_goes_on_after_its_broker_was_killed() -> Result<()> {
    let mut broker = Broker::start().await?;
    let mut options = PublisherOptions::new("pub", "sensor/a", &[broker.port()], 3_000);
    options.per_second = Some(2_000);
    let publisher = Publisher::start(options);
    wait::until(LIMIT, "a third is acknowledged", || async {
        ensure!(publisher.acknowledged() > 1_000, "{}", publisher.acknowledged());
        Ok(())
    })
    .await?;
    broker.kill_and_restart().await?;
    let published = publisher.finish(LIMIT).await?;
    ensure!(published.acknowledged.len() == 3_000 && published.connections >= 2, "{}", published.connections);
    broker.finish();
    Ok(())
}

#[tokio::test]
async fn a_stopped_publisher_has_nothing_under_way() -> Result<()> {
    let broker = Broker::start().await?;
    let publisher = Publisher::start(PublisherOptions::new("pub", "sensor/a", &[broker.port()], 1_000_000));
    wait::until(LIMIT, "something is acknowledged", || async {
        ensure!(publisher.acknowledged() > 0, "nothing");
        Ok(())
    })
    .await?;
    let published = publisher.stop(LIMIT).await?;
    ensure!((1..1_000_000).contains(&published.acknowledged.len()));
    broker.finish();
    Ok(())
}

/// Runs a load generator to its end.
async fn bench(arguments: &[&str]) -> Result<Finished> {
    let mut command = tokio::process::Command::new(binary::sluice()?);
    process::run(command.arg("bench").args(arguments), LIMIT).await
}

#[tokio::test]
async fn the_load_generator_counts_what_a_broker_acknowledges() -> Result<()> {
    let broker = Broker::start().await?;
    let port = broker.port().to_string();
    let load = ["publish", "--port", &port, "--connections", "3", "--window", "20", "--threads", "2"];
    for version in [&[][..], &["--v5"]] {
        let mut subscriber = Subscriber::start(broker.port(), "bench/1").await?;
        let finished = bench(&[&load[..], &["--messages", "1000"], version].concat()).await?.success()?;
        let result: serde_json::Value = serde_json::from_str(&finished.stdout)?;
        ensure!(result["acknowledged"] == 1000 && result["measured"] == 1000, "{result}");
        ensure!(result["ack_ms"]["p50"].as_f64().is_some_and(|ms| ms > 0.0), "{result}");
        // The second of three connections has 333 of 1000, after the 334 of the first.
        for number in 334..334 + 333 {
            let payload: serde_json::Value = serde_json::from_str(&subscriber.next(LIMIT).await?)?;
            ensure!(payload["number"] == 1_000_000_000 + number, "{payload} instead of {number}");
        }
        subscriber.stop().await?;
    }
    let timed = ["--seconds", "0.5", "--warm-up", "0.1", "--rate", "2000"];
    let finished = bench(&[&load[..], &timed].concat()).await?.success()?;
    let result: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let rate = result["per_second"].as_f64().unwrap_or_default();
    ensure!(rate > 0.0 && rate < 2_300.0, "{result}");
    broker.finish();
    Ok(())
}

#[tokio::test]
async fn the_load_generator_fails_where_nobody_listens() -> Result<()> {
    let port = tests::ports::free()?.to_string();
    let finished = bench(&["publish", "--port", &port, "--messages", "1", "--connections", "2"]).await?;
    ensure!(finished.code == Some(1) && finished.stderr.contains("refused"), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn the_follower_measures_lines_as_they_come() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("lines").display().to_string();
    let now_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
    let lines = format!("{{\"sent_us\":1}}\n{{\"sent_us\":{}}}\nnothing\n", now_us - 5_000_000);
    std::fs::write(&path, lines)?;
    let finished = bench(&["follow", "--file", &path, "--skip", "1", "--lines", "1"]).await?.success()?;
    let result: serde_json::Value = serde_json::from_str(finished.stdout.lines().last().unwrap_or_default())?;
    let ms = result["latency_ms"]["p50"].as_f64().unwrap_or_default();
    ensure!(result["lines"] == 1 && ms > 5_000.0 && ms < 5_000.0 + LIMIT.as_secs_f64() * 1e3, "{result}");
    Ok(())
}

#[tokio::test]
async fn mosquitto_pub_publishes() -> Result<()> {
    let broker = Broker::start().await?;
    let mut subscriber = Subscriber::start(broker.port(), "out/#").await?;
    mosquitto::publish(broker.port(), &["-t", "out/a", "-m", "hello", "-q", "1"]).await?.success()?;
    ensure!(subscriber.next(LIMIT).await? == "hello");
    broker.finish();
    Ok(())
}

#[tokio::test]
async fn promtool_tells_a_clean_page_from_a_bad_one() -> Result<()> {
    prometheus::check_metrics("# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n").await?;
    let bad = prometheus::check_metrics("# TYPE a counter\na 3\n").await;
    ensure!(bad.is_err_and(|error| error.to_string().contains("_total")));
    Ok(())
}

#[tokio::test]
async fn prometheus_answers_queries_about_what_it_scraped() -> Result<()> {
    // It scrapes itself through the name of another: any server with a metrics page will do.
    let inner = Prometheus::start(&[]).await?;
    let outer = Prometheus::start(&[inner.address()]).await?;
    wait::until(LIMIT, "a series is there", || async {
        let (sum, series) = outer.query_sum("prometheus_build_info").await?;
        ensure!(series == 1 && sum == 1.0, "{series} series");
        Ok(())
    })
    .await?;
    inner.finish();
    outer.finish();
    Ok(())
}

#[tokio::test]
async fn mariadb_keeps_its_rows_when_it_is_killed() -> Result<()> {
    let mut mariadb = MariaDb::start().await?;
    mariadb.sql_of_user("CREATE TABLE t AS SELECT 1 AS n, 'ü' AS text UNION SELECT 2, 'x'").await?;
    mariadb.kill()?;
    ensure!(mariadb.sql("SELECT 1").await.is_err(), "a killed server answered");
    mariadb.start_again().await?;
    ensure!(mariadb.sql_of_user("SELECT * FROM t ORDER BY n").await? == "1|ü\n2|x");
    ensure!(mariadb.count("t").await? == 2);
    let refused = mariadb.sql_of_user("DROP DATABASE mysql").await;
    ensure!(refused.is_err(), "the user may do what it must not");
    mariadb.finish();
    Ok(())
}
