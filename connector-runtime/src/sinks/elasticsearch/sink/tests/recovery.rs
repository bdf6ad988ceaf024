//! A target that goes and comes, and a sink that has to stop. These tests have a server that nobody else uses meanwhile.

use std::time::Instant;

use ::tests::ports;
use rustix::process::Signal;
use tokio::sync::OwnedMutexGuard;

use super::*;

const COUNT: u64 = 3_000;

/// One after the other.
struct Alone(Option<OwnedMutexGuard<Elasticsearch>>, Arc<Mutex<Elasticsearch>>);

impl Alone {
    async fn server() -> Self {
        static SERVER: Mutex<Weak<Mutex<Elasticsearch>>> = Mutex::const_new(Weak::new());
        let mut slot = SERVER.lock().await;
        let server = match slot.upgrade() {
            Some(server) => server,
            None => {
                let server = Arc::new(Mutex::new(Elasticsearch::start().await.expect("Elasticsearch starts")));
                *slot = Arc::downgrade(&server);
                server
            }
        };
        drop(slot);
        Self(Some(Arc::clone(&server).lock_owned().await), server)
    }

    fn finish(mut self) {
        self.0 = None;
        if let Some(server) = Arc::into_inner(self.1) {
            server.into_inner().finish();
        }
    }
}

impl Deref for Alone {
    type Target = Elasticsearch;

    fn deref(&self) -> &Elasticsearch {
        self.0.as_ref().expect("until it is finished")
    }
}

impl std::ops::DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut Elasticsearch {
        self.0.as_mut().expect("until it is finished")
    }
}

#[tokio::test]
async fn a_server_that_is_paused_and_then_killed_in_the_middle_has_everything_once() {
    let mut server = Alone::server().await;
    let queue = numbered(COUNT);
    let more = json!({"batch_records": 20, "timeout_secs": 2, "max_records_per_second": 2_000});
    let task = run(&queue, server.config("all", &more));
    let missed = || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE");
    double::until("it is in the middle", || queue.position() > 3_000).await;
    server.signal(Signal::STOP).expect("pauses");
    double::until("the target is missed", missed).await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("no answer within 2000 ms")));
    server.signal(Signal::CONT).expect("continues");
    let before = queue.position();
    double::until("it goes on", || queue.position() > before + 1_000).await;
    server.kill().expect("kills");
    double::until("the target is missed again", missed).await;
    let at = queue.position() / 10;
    assert!((400..COUNT).contains(&at), "killed at {at} of {COUNT}");
    let patient = open(&server, "all", &json!({"timeout_secs": 300})).await;
    let started = Instant::now();
    let outcomes = deliver(&*patient, &[record(1, "{}")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "a refused connection is told at once");
    let started = Instant::now();
    server.start_again().await.expect("starts again");
    println!("measured: back after {:?}", started.elapsed());
    queue.all_committed().await;
    numbers(&server, "all", COUNT).await;
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    server.finish();
}

#[tokio::test]
async fn a_slow_server_is_given_up_once_and_an_abort_is_at_once_and_for_good() {
    let server = Alone::server().await;
    let sink = open(&server, "slow", &json!({"timeout_secs": 300})).await;
    assert_eq!(deliver(&*sink, &[record(1, "{}")]).await, [Outcome::Delivered]);
    let impatient = open(&server, "slow", &json!({"timeout_secs": 1})).await;
    let dropped = open(&server, "slow", &json!({})).await;
    let records = [record(2, "{}")];
    server.signal(Signal::STOP).expect("pauses");
    let started = Instant::now();
    assert_eq!(kind(&deliver(&*impatient, &records).await[0]), TargetFaultKind::Down);
    let took = started.elapsed();
    assert!((1_000..3_500).contains(&took.as_millis()), "a late answer is not asked for again: {took:?}");
    let waits = || ports::holds_unread(server.port());
    let (aborted_at, (outcomes, ended)) = tokio::join!(
        async {
            double::until("the request waits at the server", waits).await;
            let aborted = Instant::now();
            sink.abort();
            aborted
        },
        async { (deliver(&*sink, &records).await, Instant::now()) }
    );
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    println!("measured: aborted after {:?}", ended - aborted_at);
    assert!(ended - aborted_at < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted_at);
    tokio::select! {
        outcomes = deliver(&*dropped, &records) => panic!("the server is paused: {outcomes:?}"),
        () = double::until("the request waits at the server", waits) => {}
    }
    server.signal(Signal::CONT).expect("continues");
    assert_eq!(kind(&deliver(&*sink, &records).await[0]), TargetFaultKind::Interrupted, "it stays aborted");
    assert_eq!(deliver(&*dropped, &records).await, [Outcome::Delivered], "what was dropped can be asked again");
    assert_eq!(server.count("slow").await.expect("counts"), 2);
    server.finish();
}

#[tokio::test]
async fn a_cluster_full_of_shards_or_read_only_is_not_the_records_fault() {
    let server = Alone::server().await;
    let sink = open(&server, "crowd-${topic[0]}", &json!({})).await;
    for (setting, value, expect, words) in [
        ("cluster.max_shards_per_node", json!(1), TargetFaultKind::Full, "maximum normal shards open"),
        ("cluster.blocks.read_only", json!(true), TargetFaultKind::Permission, "cluster read-only"),
    ] {
        server.set(setting, value).await.expect("sets it");
        let outcomes = deliver(&*sink, &[record(1, "{}")]).await;
        server.set(setting, Value::Null).await.expect("takes it back");
        assert_eq!(kind(&outcomes[0]), expect, "{outcomes:?}");
        assert!(format!("{outcomes:?}").contains(words), "{outcomes:?}");
    }
    assert_eq!(deliver(&*sink, &[record(1, "{}")]).await, [Outcome::Delivered]);
    server.finish();
}
