//! There is no GreptimeDB to test with: InfluxDB, which takes the same lines, stands behind nginx, which has GreptimeDB's
//! paths. What the lines mean to GreptimeDB's own parser is tested with them (`sinks/shared/line_protocol/point`).

use std::path::PathBuf;
use std::sync::Arc;

use ::tests::front::{Front, FrontOptions};
use ::tests::influxdb::{DATABASE, InfluxDb, InfluxOptions, MEASUREMENT, PASSWORD, READER, USER};
use ::tests::ports;
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::{Message, Record};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::sink::{Outcome, TargetFaultKind};
use crate::sinks::opened::{TestNode, deliver, record};

struct Target {
    influxdb: InfluxDb,
    front: Front,
}

impl Target {
    async fn start() -> Self {
        Self::with(InfluxOptions::default(), FrontOptions::default()).await
    }

    async fn with(influxdb: InfluxOptions, front: FrontOptions) -> Self {
        let influxdb = InfluxDb::with(influxdb).await.expect("InfluxDB starts");
        let path = format!("location = /v1/influxdb/write {{ proxy_pass {}/write; }}", influxdb.url());
        let lines = format!("{path} {}", front.lines);
        let front = Front::start(FrontOptions { lines, ..front }).await.expect("nginx starts");
        Self { influxdb, front }
    }

    fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "server_addr": format!("127.0.0.1:{}", self.front.port()), "database": DATABASE, "user": USER,
            "password": PASSWORD,
        });
        for (field, value) in more.as_object().expect("an object") {
            config[field] = value.clone();
        }
        config
    }

    async fn open(&self, more: &Value) -> Box<dyn Sink> {
        node().open("rows", "greptime", self.config(more)).await.expect("opens")
    }

    fn run(&self, queue: &Arc<MemoryQueue>, more: &Value) -> RunningTask {
        let sink = node().sink_for("rows", "greptime", self.config(more));
        let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
        Setup { policy, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
    }

    fn finish(self) {
        self.front.finish();
        self.influxdb.finish();
    }
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

/// Of one moment, on five topics.
fn message(number: u64, payload: &Value) -> Message {
    Message { timestamp_ms: 1_700_000_000_123, payload: payload.to_string().into(), ..double::message(number) }
}

#[tokio::test]
async fn ten_thousand_records_go_into_the_tables_of_their_topics() {
    const COUNT: u64 = 10_000;
    let target = Target::start().await;
    let queue = MemoryQueue::with(
        (0..COUNT).map(|number| message(number, &json!({"n": number, "name": format!("r{number}")}))),
    );
    let task = target.run(&queue, &json!({"batch_records": 5_000}));
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, COUNT);
    let rows = target.influxdb.rows("SELECT * FROM /.*/").await.expect("reads");
    assert_eq!(rows.len() as u64, COUNT);
    let mut seen = std::collections::BTreeSet::new();
    for row in &rows {
        let number = row["n"].as_u64().expect("a number");
        assert!(seen.insert(number), "{number} twice");
        // Cut to the second, which is the default, and made unique by the place in the queue.
        assert_eq!(row["time"], 1_700_000_000_000_000_000 + number * 10);
        assert_eq!(row[MEASUREMENT], format!("t_{}", number % 5));
        assert_eq!(
            (&row["topic"], &row["client_id"]),
            (&json!(format!("t/{}", number % 5)), &json!(format!("c{}", number % 3)))
        );
        assert_eq!(row["name"], format!("r{number}"));
    }
    let passed = target.front.passed_are(2).await.expect("two requests");
    for request in &passed {
        assert_eq!((&*request.uri, &*request.method), ("/v1/influxdb/write?db=sluice&precision=ns", "POST"));
        assert_eq!((&*request.encoding, request.status), ("gzip", 204));
        assert!(request.authorization.starts_with("Basic "));
    }
    target.finish();
}

#[tokio::test]
async fn the_least_configuration_of_the_document_works() {
    let open = InfluxOptions { open: true, ..InfluxOptions::default() };
    let target = Target::with(open, FrontOptions::default()).await;
    let least = json!({"server_addr": format!("localhost:{}", target.front.port()), "database": DATABASE});
    let sink = node().open("rows", "greptime", least).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "{\"t\":21.5}")]).await, [Outcome::Delivered]);
    let rows = target.influxdb.rows("SELECT t FROM plant_one").await.expect("reads");
    assert_eq!((&rows[0]["t"], &rows[0]["time"]), (&json!(21.5), &json!(1_700_000_000_000_000_001_u64)));
    let passed = target.front.passed_are(1).await.expect("a request");
    assert_eq!(passed[0].authorization, "");
    target.finish();
}

#[tokio::test]
async fn precision_table_and_integers_are_as_configured() {
    let target = Target::start().await;
    for (precision, unit, cut) in [
        ("Second", "s", 1_700_000_000_000_000_000_u64),
        ("Millisecond", "ms", 1_700_000_000_001_000_000),
        ("Microsecond", "us", 1_700_000_000_001_000_000),
        ("Nanosecond", "ns", 1_700_000_000_001_000_000),
    ] {
        // InfluxDB 1.6 knows `u` and `n` only, and takes what it does not know for nanoseconds.
        let stored = if unit == "us" { cut / 1_000 } else { cut };
        for (unique, unit, time) in [(true, "ns", cut + 1), (false, unit, stored)] {
            let table = format!("{precision}_{unique}_${{topic}}");
            let more = json!({"precision": precision, "unique_time": unique, "table": table, "integers": "integer"});
            assert_eq!(deliver(&*target.open(&more).await, &[record(1, "{\"v\":1}")]).await, [Outcome::Delivered]);
            let table = format!("{precision}_{unique}_plant_one");
            let rows = target.influxdb.rows(&format!("SELECT v FROM \"{table}\"")).await.expect("reads");
            assert_eq!((rows.len(), &rows[0]["time"]), (1, &json!(time)), "{table}");
            let keys = target.influxdb.rows(&format!("SHOW FIELD KEYS FROM \"{table}\"")).await.expect("reads");
            assert_eq!(keys[0]["fieldType"], "integer");
            let passed = target.front.passed().expect("reads the log");
            assert!(passed.last().is_some_and(|last| last.uri.ends_with(&format!("precision={unit}"))), "{passed:?}");
        }
    }
    let own = r#"{"time":1,"ts":2,"greptime_timestamp":3,"topic":4}"#;
    assert_eq!(deliver(&*target.open(&json!({"table": "own"})).await, &[record(1, own)]).await, [Outcome::Delivered]);
    let keys = target.influxdb.rows("SHOW FIELD KEYS FROM own").await.expect("reads");
    let names: Vec<&Value> = keys.iter().map(|key| &key["fieldKey"]).collect();
    assert_eq!(names, ["greptime_timestamp_", "time_", "topic_", "ts_"], "the database has columns of these names");
    target.finish();
}

#[tokio::test]
async fn a_target_that_wants_a_person_says_so() {
    let target = Target::start().await;
    for (more, expect) in [
        (json!({"password": "wrong"}), TargetFaultKind::Auth),
        (json!({"user": null, "password": null}), TargetFaultKind::Auth),
        (json!({"user": READER}), TargetFaultKind::Permission),
        (json!({"database": "nowhere", "user": "admin", "password": "admin"}), TargetFaultKind::Missing),
        (json!({"server_addr": format!("{}/deeper", target.front.url())}), TargetFaultKind::Missing),
    ] {
        let outcomes = deliver(&*target.open(&more).await, &[record(1, "x")]).await;
        assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}");
    }
    target.finish();
}

#[tokio::test]
async fn a_poison_record_among_a_thousand_ends_alone() {
    let target = Target::start().await;
    let queue = MemoryQueue::with(
        (0..1_000)
            .map(|number| message(number, &json!({"t": if number == 617 { json!("hot") } else { json!(number) }}))),
    );
    let task = target.run(&queue, &json!({"table": "readings"}));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [617]);
    assert_eq!(task.report().counters.send_success_total, 999);
    assert_eq!(target.influxdb.count("readings", "t").await.expect("counts"), 999);
    let passed = target.front.passed().expect("reads the log");
    assert!(passed.len() <= 21, "{} requests", passed.len());
    target.finish();
}

#[tokio::test]
async fn a_batch_too_large_for_what_is_in_between_is_halved_until_it_fits() {
    let front = FrontOptions { lines: "client_max_body_size 700;".to_owned(), ..FrontOptions::default() };
    let target = Target::with(InfluxOptions::default(), front).await;
    // Numbers that cannot be compressed by much.
    let noise = |number: u64, count: u64| {
        (0..count).map(|at| json!((number * 7_919 + at * 104_729) as f64 * 0.618)).collect::<Vec<_>>()
    };
    let queue = MemoryQueue::with(
        (0..40).map(|number| message(number, &json!({"noise": noise(number, if number == 7 { 500 } else { 8 })}))),
    );
    let task = target.run(&queue, &json!({"table": "noise"}));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [7]);
    assert_eq!(task.report().counters.send_success_total, 39);
    assert_eq!(target.influxdb.count("noise", "noise").await.expect("counts"), 39);
    target.finish();
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything_once() {
    const COUNT: u64 = 2_000;
    let mut target = Target::start().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| message(number, &json!({"n": number}))));
    let task = target.run(&queue, &json!({"batch_records": 20, "table": "all"}));
    double::until("it is in the middle", || queue.position() > 3_000).await;
    target.influxdb.kill().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    assert!(queue.position() / 10 < COUNT);
    target.influxdb.start_again().await.expect("starts again");
    queue.all_committed().await;
    let rows = target.influxdb.rows("SELECT count(n), sum(n) FROM \"all\"").await.expect("reads");
    assert_eq!((&rows[0]["count"], rows[0]["sum"].as_u64()), (&json!(COUNT), Some(COUNT * (COUNT - 1) / 2)));
    target.finish();
}

#[tokio::test]
async fn tls_is_spoken_where_the_scheme_or_the_switch_says_so() {
    let front = FrontOptions {
        tls_names: Some("DNS:greptime.example.org,IP:127.0.0.1".to_owned()),
        client_certificate: true,
        ..FrontOptions::default()
    };
    let target = Target::with(InfluxOptions::default(), front).await;
    let certificates = target.front.certificates().expect("speaks TLS");
    let (port, ca) = (target.front.port(), &certificates.ca);
    let own = json!({"client_cert_path": certificates.client, "client_key_path": certificates.client_key});
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let plain = Some(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"));
    let name = "greptime.example.org";
    for (more, expect) in [
        (json!({"server_addr": format!("https://127.0.0.1:{port}"), "ca_cert_path": ca}), None),
        (json!({"server_addr": format!("HTTPS://127.0.0.1:{port}"), "ca_cert_path": ca}), None),
        (json!({"server_addr": format!("127.0.0.1:{port}"), "enable_tls": true, "ca_cert_path": ca}), None),
        (json!({"server_addr": format!("http://127.0.0.1:{port}"), "enable_tls": true, "ca_cert_path": ca}), None),
        (json!({"enable_tls": true, "ca_cert_path": ca, "tls_server_name": name}), None),
        (json!({"enable_tls": true, "ca_cert_path": ca, "tls_server_name": "other.example.org"}), untrusted),
        (json!({"enable_tls": true}), untrusted),
        (json!({"enable_tls": true, "tls_verify": false}), None),
        (json!({"server_addr": format!("127.0.0.1:{port}")}), plain),
    ] {
        let mut config = more.clone();
        for (field, value) in own.as_object().expect("an object") {
            config[field] = value.clone();
        }
        let records: Vec<Record> = vec![record(1, "x")];
        let outcomes = deliver(&*target.open(&config).await, &records).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{more}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}"),
        }
    }
    target.finish();
}

#[tokio::test]
async fn a_slow_server_is_given_up_and_an_abort_is_at_once() {
    let target = Target::start().await;
    target.influxdb.signal(rustix::process::Signal::STOP).expect("pauses");
    let started = std::time::Instant::now();
    let outcomes = deliver(&*target.open(&json!({"timeout_secs": 1})).await, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!((1_000..10_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let sink = target.open(&json!({"timeout_secs": 300})).await;
    let records = [record(2, "x")];
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
        double::until("the request waits at the server", || ports::holds_unread(target.influxdb.port())).await;
        sink.abort();
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    target.influxdb.signal(rustix::process::Signal::CONT).expect("continues");
    target.finish();
}
