//! Against HTTP servers that somebody else wrote: Python's and nginx.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::status::Health;
use api_types::{ClusterId, Incarnation, Message};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup, policy, until};
use crate::sinks::opened::{TestNode, deliver, record};

/// A child process that ends with its test.
struct Server {
    child: Child,
    port: u16,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn python(arguments: &[&Path]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/http_target.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut output = BufReader::new(child.stdout.take().expect("is piped"));
        let mut port = String::new();
        output.read_line(&mut port).expect("prints its port");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                log.lock().expect("no panic").push(serde_json::from_str(&line).expect("prints JSON"));
            }
        });
        Self { child, port: port.trim().parse().expect("is a port"), requests }
    }

    fn nginx(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let configuration = format!(
            "daemon off; master_process off; pid {0}/pid; error_log stderr crit;
             events {{}}
             http {{
               access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
               uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; client_max_body_size 2k;
               server {{
                 listen 127.0.0.1:{port};
                 location /ok {{ return 204; }}
                 location /busy {{ add_header Retry-After 7 always; return 503; }}
                 location /protected {{ auth_basic sluice; auth_basic_user_file {0}/users;
                                       proxy_pass http://127.0.0.1:{port}/ok; }}
               }}
             }}",
            folder.display()
        );
        std::fs::write(folder.join("nginx.conf"), configuration).expect("writes");
        // The password is "pass word": of htpasswd's {PLAIN} form.
        std::fs::write(folder.join("users"), "dev:{PLAIN}pass word\n").expect("writes");
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "nginx does not listen");
            std::thread::yield_now();
        }
        Self { child, port, requests: Arc::default() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// As soon as there are `count`.
    async fn requests(&self, count: usize) -> Vec<Value> {
        let requests = || self.requests.lock().expect("no panic").clone();
        until("the requests are logged", || requests().len() >= count).await;
        assert_eq!(requests().len(), count);
        requests()
    }
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn open(config: Value) -> Box<dyn Sink> {
    node().open("hook", "webhook", config).await.expect("opens")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

#[tokio::test]
async fn a_batch_is_one_request_and_always_an_array() {
    let server = Server::python(&[]);
    let sink = open(json!({"url": server.url("/ok"), "headers": {"X-Site": "north", "Sluice-Epoch": "1",
                                                                    "Sluice-Connector": "mine"}}))
    .await;
    let records = [record(1, "{\"t\":1}"), record(2, "text"), record(3, b"\xff".to_vec())];
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 3]);
    assert_eq!(deliver(&*sink, &records[..1]).await, vec![Outcome::Delivered]);
    let requests = server.requests(2).await;
    let body: Value = serde_json::from_str(requests[0]["body"].as_str().expect("text")).expect("is JSON");
    assert_eq!(body.as_array().map(Vec::len), Some(3));
    assert_eq!((&body[0]["id"], &body[0]["payload"]), (&json!("1-7-1"), &json!({"t": 1})));
    assert_eq!(body[2]["payload_base64"], json!("/w=="));
    let headers = &requests[0]["headers"];
    assert_eq!(requests[0]["method"], "POST");
    assert_eq!(
        (&headers["content-type"], &headers["x-site"], &headers["idempotency-key"]),
        (&json!("application/json"), &json!("north"), &json!("1-7-1-4"))
    );
    assert_eq!(headers["sluice-epoch"], "7", "the task's, whatever the user's headers say");
    let connector = format!("{}/{}", ClusterId(7), Incarnation(7));
    assert_eq!(headers["sluice-connector"], connector, "one of its own for each connector of each cluster");
    assert!(headers.get("webhook-signature").is_none());
    let body: Value = serde_json::from_str(requests[1]["body"].as_str().expect("text")).expect("is JSON");
    assert_eq!(body.as_array().map(Vec::len), Some(1), "one record is an array too");
}

#[tokio::test]
async fn modes_and_bodies_are_as_configured() {
    let records = [record(1, "{\"t\":1}"), record(2, "text")];
    for (config, bodies, content_type) in [
        (
            json!({"mode": "ndjson", "payload_format": "raw", "method": "put"}),
            vec!["{\"t\":1}\n\"text\"\n"],
            "application/x-ndjson",
        ),
        (json!({"payload_format": "raw"}), vec!["[{\"t\":1},\"text\"]"], "application/json"),
        (json!({"mode": "single", "payload_format": "raw"}), vec!["{\"t\":1}", "text"], "application/octet-stream"),
        (
            json!({"mode": "single", "body": "{\"who\":\"${client_id}\",\"at\":${timestamp}}"}),
            vec!["{\"who\":\"device-1\",\"at\":1700000000001}", "{\"who\":\"device-2\",\"at\":1700000000002}"],
            "application/json",
        ),
    ] {
        let server = Server::python(&[]);
        let mut config = config;
        config["url"] = json!(server.url("/ok"));
        let sink = open(config.clone()).await;
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2], "{config}");
        let requests = server.requests(bodies.len()).await;
        let got: Vec<&str> = requests.iter().filter_map(|request| request["body"].as_str()).collect();
        assert_eq!(got, bodies, "{config}");
        for request in &requests {
            assert_eq!(request["headers"]["content-type"], content_type, "{config}");
            let method = if config.get("method").is_some() { "PUT" } else { "POST" };
            assert_eq!(request["method"], method, "{config}");
        }
    }
}

#[tokio::test]
async fn content_types_are_the_users_or_the_publishers_when_a_header_can_hold_them() {
    let server = Server::python(&[]);
    let raw = json!({"url": server.url("/ok"), "mode": "single", "payload_format": "raw"});
    let mut named = raw.clone();
    named["headers"] = json!({"content-type": "application/cbor"});
    let mut expect = Vec::new();
    for (config, publisher, content_type) in [
        (&raw, "text/csv", "text/csv"),
        (&raw, "bad\nname", "application/octet-stream"),
        (&named, "text/csv", "application/cbor"),
    ] {
        let mut record = record(1, "x");
        record.message.content_type = Some(publisher.to_owned());
        assert_eq!(deliver(&*open(config.clone()).await, &[record]).await, [Outcome::Delivered], "{publisher}");
        expect.push(content_type);
    }
    let requests = server.requests(3).await;
    let got: Vec<&str> = requests.iter().filter_map(|request| request["headers"]["content-type"].as_str()).collect();
    assert_eq!(got, expect);
}

#[tokio::test]
async fn a_missing_template_value_is_that_records_fault_alone() {
    let server = Server::python(&[]);
    let sink = open(json!({"url": server.url("/ok"), "body": "{\"t\":${payload.t}}"})).await;
    let outcomes = deliver(&*sink, &[record(1, "{\"t\":1}"), record(2, "{}"), record(3, "{\"t\":3}")]).await;
    assert!(matches!(&outcomes[1], Outcome::RecordFault(fault) if fault.offline), "{outcomes:?}");
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    assert_eq!(server.requests(1).await[0]["body"], "[{\"t\":1},{\"t\":3}]");
    let outcomes = deliver(&*sink, &[record(4, "{}")]).await;
    assert!(matches!(&outcomes[0], Outcome::RecordFault(fault) if fault.offline));
    server.requests(1).await;
}

#[tokio::test]
async fn signatures_are_over_id_time_and_body() {
    let server = Server::python(&[]);
    let key = "a key of at least sixteen characters";
    let config =
        json!({"url": server.url("/ok"), "hmac_secret": key, "hmac_secret_previous": "the key that was there before"});
    let sink = open(config).await;
    deliver(&*sink, &[record(1, "x")]).await;
    let request = server.requests(1).await.remove(0);
    let header = |name: &str| request["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(header("webhook-id"), header("idempotency-key"));
    let age = now_ms() / 1000 - header("webhook-timestamp").parse::<u64>().expect("seconds");
    assert!(age < 60, "{age}");
    let signed =
        format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), request["body"].as_str().expect("text"));
    // Python's hmac is the judge.
    let program = "import base64,hashlib,hmac,sys; print('v1,'+base64.b64encode(hmac.new(sys.argv[1].encode(),sys.argv[2].encode(),hashlib.sha256).digest()).decode(),end='')";
    let signature = Command::new("python3").args(["-c", program, key, &signed]).output().expect("python3 runs");
    let signatures = header("webhook-signature");
    assert_eq!(signatures.split(' ').count(), 2);
    assert_eq!(signatures.split(' ').next(), std::str::from_utf8(&signature.stdout).ok());
}

#[tokio::test]
async fn statuses_mean_what_the_table_says() {
    let server = Server::python(&[]);
    let later = |retry_after| TargetFaultKind::Throttled { retry_after };
    let seven = Some(Duration::from_secs(7));
    for (path, expect) in [
        ("/status/408", TargetFaultKind::Down),
        ("/status/425", TargetFaultKind::Down),
        ("/status/500", TargetFaultKind::Down),
        ("/status/503?header=Retry-After:%207", later(seven)),
        ("/status/429?header=Retry-After:%207", later(seven)),
        ("/status/429?header=Retry-After:%20Mon,%2023%20Nov%202020%2020:00:00%20GMT", later(Some(Duration::ZERO))),
        ("/status/429", later(None)),
        ("/status/401", TargetFaultKind::Auth),
        ("/status/403", TargetFaultKind::Permission),
        ("/status/404", TargetFaultKind::Missing),
        ("/status/410", TargetFaultKind::Missing),
        ("/status/405", TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
        ("/redirect", TargetFaultKind::Misconfigured("TARGET_REDIRECTS")),
        ("/cut", TargetFaultKind::Down),
    ] {
        let sink = open(json!({"url": server.url(path)})).await;
        let outcomes = deliver(&*sink, &[record(1, "x"), record(2, "y")]).await;
        assert_eq!(kind(&outcomes[0]), expect, "{path}");
        assert_eq!(outcomes[0], outcomes[1]);
    }
    for path in ["/status/400", "/status/413", "/status/422"] {
        let sink = open(json!({"url": server.url(path)})).await;
        let outcomes = deliver(&*sink, &[record(1, "x"), record(2, "y")]).await;
        let Outcome::Unclear(fault) = &outcomes[1] else { panic!("{path}: {outcomes:?}") };
        assert!(fault.message.contains("the target says so") && !fault.offline, "{fault:?}");
    }
    let sink = open(json!({"url": server.url("/big")})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "a long answer is not read");
}

#[tokio::test]
async fn a_slow_target_times_out_and_an_absent_one_is_down() {
    let server = Server::python(&[]);
    let sink = open(json!({"url": server.url("/slow/5000"), "timeout_ms": 100})).await;
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!((100..4000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let Outcome::TargetFault(fault) = &outcomes[0] else { unreachable!() };
    assert_eq!(&*fault.message, "no answer within 100 ms");

    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let sink = open(json!({"url": format!("http://user:geheim@127.0.0.1:{port}/?token=geheim")})).await;
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(fault.kind, TargetFaultKind::Down);
    assert!(fault.message.contains("refused") && !fault.message.contains("geheim"), "{}", fault.message);
}

#[tokio::test]
async fn single_mode_sends_nothing_past_a_record_that_failed() {
    let server = Server::python(&[]);
    let sink = open(json!({"url": server.url("/poison"), "mode": "single", "payload_format": "raw"})).await;
    let records = [record(1, "a"), record(2, "poison"), record(3, "c"), record(4, "d")];
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(outcomes[0], Outcome::Delivered);
    assert!(matches!(&outcomes[1], Outcome::RecordFault(fault) if &*fault.class == "http_400"));
    assert!(matches!((&outcomes[2], &outcomes[3]), (Outcome::Unclear(_), Outcome::Unclear(_))));
    let requests = server.requests(2).await;
    assert_eq!(requests[1]["headers"]["idempotency-key"], "1-7-2");
}

#[tokio::test]
async fn single_mode_is_stopped_between_two_requests() {
    let server = Server::python(&[]);
    let config = json!({"url": server.url("/slow/200"), "mode": "single", "payload_format": "raw"});
    let sink = node().sink_for("hook", "webhook", config);
    let queue = MemoryQueue::numbered(60);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    until("the second request is under way", || server.requests.lock().expect("no panic").len() >= 2).await;
    task.drain.cancel();
    task.end().await;
    let sent = server.requests.lock().expect("no panic").len() as u64;
    assert!((2..10).contains(&sent), "{sent} of 60 were sent");
    assert_eq!(queue.position(), sent * 10, "what was answered is committed, and is not sent again");
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used_again() {
    let server = Server::python(&[]);
    let sink = open(json!({"url": server.url("/ok")})).await;
    let records = [record(1, "x")];
    for idle_ms in [0, 3_000, 4_500] {
        // Only the client's clock: the server still holds the connection.
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(idle_ms)).await;
        tokio::time::resume();
        assert_eq!(deliver(&*sink, &records).await, [Outcome::Delivered]);
    }
    let requests = server.requests(3).await;
    let ports: Vec<&Value> = requests.iter().map(|request| &request["client_port"]).collect();
    assert_eq!(ports[0], ports[1]);
    assert_ne!(ports[1], ports[2]);
}

#[tokio::test]
async fn an_abort_ends_a_request_at_once() {
    let server = Server::python(&[]);
    let sink = open(json!({"url": server.url("/slow/30000"), "timeout_ms": 60_000})).await;
    let records = [record(1, "x")];
    let started = Instant::now();
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
        server.requests(1).await;
        sink.abort();
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = Server::python(&[]);
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "[::1]", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/ok", server.port);
        let fault = denying.open("hook", "webhook", json!({"url": url})).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{host}");
    }
    let url = format!("http://localhost:{}/ok", server.port);
    let sink = denying.open("hook", "webhook", json!({"url": url})).await.expect("a name is looked up later");
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Misconfigured("TARGET_DENIED"));
    server.requests(0).await;

    let sink = open(json!({"url": format!("http://localhost:{}/ok", server.port)})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
}

#[tokio::test]
async fn a_rotated_token_is_read_again() {
    let server = Server::python(&[]);
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("token"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let token = format!("${{file:{}}}", folder.join("token").display());
    let config = json!({"url": server.url("/bearer/new"), "auth_type": "bearer", "bearer_token": token});
    let sink = node.sink_for("hook", "webhook", config);
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    until("the target wants another token", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    assert_eq!(task.report().health, Health::Blocked);
    std::fs::write(folder.join("token"), "new").expect("writes");
    queue.all_committed().await;
    assert_eq!(task.report().health, Health::Ok);
}

#[tokio::test]
async fn a_poison_record_is_found_and_its_neighbours_arrive_once() {
    let server = Server::python(&[]);
    let config = json!({"url": server.url("/poison"), "payload_format": "raw", "batch_records": 1000});
    let sink = node().sink_for("hook", "webhook", config);
    let messages = (0..1000).map(|number| Message {
        payload: if number == 617 { "poison".into() } else { format!("r{number}").into() },
        ..double::message(number)
    });
    let queue = MemoryQueue::with(messages);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, deduplicates: true, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [617]);
    let arrived = || {
        let requests = server.requests.lock().expect("no panic").clone();
        let bodies = requests.into_iter().filter_map(|request| request["body"].as_str().map(str::to_owned));
        let accepted = bodies.filter(|body| !body.contains("poison"));
        accepted.flat_map(|body| serde_json::from_str::<Vec<String>>(&body).expect("is an array")).collect::<Vec<_>>()
    };
    until("the log has all of them", || arrived().len() >= 999).await;
    let expect: Vec<String> = (0..1000).filter(|number| *number != 617).map(|number| format!("r{number}")).collect();
    assert!(arrived() == expect, "each once and in order");
    let requests = server.requests.lock().expect("no panic").clone();
    assert!(requests.len() <= 21, "{} requests", requests.len());
    let keys: std::collections::BTreeSet<&str> =
        requests.iter().filter_map(|request| request["headers"]["idempotency-key"].as_str()).collect();
    assert_eq!(keys.len(), requests.len(), "every half is a batch of its own");
}

#[tokio::test]
async fn nginx_refuses_and_the_sink_understands() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let server = Server::nginx(temporary.path());
    let user = |password: &str| json!({"url": server.url("/protected"), "auth_type": "basic", "username": "dev", "password": password});
    for (config, expect) in [
        (json!({"url": server.url("/ok")}), None),
        (user("pass word"), None),
        (user("wrong"), Some(TargetFaultKind::Auth)),
        (json!({"url": server.url("/nothing-here")}), Some(TargetFaultKind::Missing)),
        (
            json!({"url": server.url("/busy")}),
            Some(TargetFaultKind::Throttled { retry_after: Some(Duration::from_secs(7)) }),
        ),
    ] {
        let sink = open(config.clone()).await;
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{config}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{config}"),
        }
    }
}

#[tokio::test]
async fn a_batch_too_large_for_nginx_is_halved_until_it_fits() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let server = Server::nginx(temporary.path());
    let sink = node().sink_for("hook", "webhook", json!({"url": server.url("/ok"), "batch_records": 200}));
    let messages = (0..200).map(|number| Message {
        payload: if number == 50 { vec![b'x'; 4096].into() } else { "small".into() },
        ..double::message(number)
    });
    let queue = MemoryQueue::with(messages);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    let task = Setup { policy, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [50]);
    assert_eq!(task.report().counters.send_success_total, 199);
}

#[tokio::test]
async fn a_target_that_is_killed_and_comes_back_gets_everything_once() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let first = Server::nginx(temporary.path());
    let port = first.port;
    let sink = node().sink_for("hook", "webhook", json!({"url": first.url("/ok"), "batch_records": 10}));
    let queue = MemoryQueue::numbered(10);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    drop(first);
    queue.append((10..50).map(double::message));
    until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE")).await;
    let configuration = temporary.path().join("nginx.conf");
    let child = Command::new("nginx")
        .arg("-p")
        .arg(temporary.path())
        .arg("-c")
        .arg(configuration)
        .stderr(Stdio::null())
        .spawn();
    let _second = Server { child: child.expect("nginx starts again"), port, requests: Arc::default() };
    queue.all_committed().await;
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (50, 0));
    assert_eq!(task.report().health, Health::Ok);
}

/// A CA, and a certificate of it for `name`.
fn certificates(folder: &Path, name: &str) {
    let script = "
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
            -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server \
            -keyout server.key -out server.csr
        printf 'subjectAltName=%s\\nbasicConstraints=CA:FALSE\\n' \"$1\" > server.ext
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem";
    let output = Command::new("bash")
        .args(["-c", script, "certificates", name])
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = temporary.path();
    certificates(folder, "DNS:hooks.example.org");
    let server = Server::python(&[&folder.join("server.pem"), &folder.join("server.key")]);
    let url = format!("https://127.0.0.1:{}/ok", server.port);
    let ca = folder.join("ca.pem");
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    for (config, expect) in [
        (json!({"url": url}), untrusted),
        (json!({"url": url, "ca_cert_path": ca}), untrusted),
        (json!({"url": url, "ca_cert_path": ca, "tls_server_name": "hooks.example.org"}), None),
        (json!({"url": url, "ca_cert_path": ca, "tls_server_name": "other.example.org"}), untrusted),
        (json!({"url": url, "tls_server_name": "hooks.example.org"}), untrusted),
        (json!({"url": url, "tls_verify": false}), None),
    ] {
        let sink = open(config.clone()).await;
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{config}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{config} {outcomes:?}"),
        }
    }
    let request = server.requests(2).await.remove(0);
    assert_eq!(request["headers"]["host"], json!(format!("127.0.0.1:{}", server.port)));

    let missing = json!({"url": url, "ca_cert_path": folder.join("nowhere.pem")});
    let fault = node().open("hook", "webhook", missing).await.err().expect("no such file");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
}
