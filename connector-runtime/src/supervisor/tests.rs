//! The supervisor with scripted sinks: starts, stops, restarts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::connector::{ConnectorSpec, Delivery, Desired, Placement, QueueOptions};
use api_types::failure::{FailurePolicy, FailureStrategy, OnTargetDown};
use api_types::heartbeat::StoppedTask;
use api_types::status::Health;
use api_types::topic::TopicFilter;
use api_types::{ClusterId, Connector, ConnectorName, Epoch, NodeName, RaftId, Revision};

use super::*;
use crate::pipeline::tests::double::{
    Answer, INCARNATION, MemoryQueue, ScriptedSink, Setup, down, interrupted, message, policy, sources, until,
};
use crate::registry::OrderClass;
use crate::sink::Outcome;
use crate::sinks::offered::TaskSink;

struct Scripted(ScriptedSink);

impl SinkMaker for Scripted {
    fn sink_for(&self, _connector: &Connector, _epoch: Epoch) -> TaskSink {
        TaskSink { opener: Arc::new(self.0.clone()), order: OrderClass::Queue, options: Setup::default().options() }
    }
}

fn desired(epoch: u64, revision: u64) -> Vec<DesiredTask> {
    let spec = ConnectorSpec {
        name: ConnectorName::from("scripted"),
        kind: "file".into(),
        config_sent: "{}".into(),
        config_effective: "{}".into(),
        filter: TopicFilter::parse("#").expect("is a filter"),
        failure: FailurePolicy::default(),
        queue: QueueOptions::default(),
        placement: Placement::default(),
        desired: Desired::Running,
        labels: BTreeMap::new(),
        description: String::new(),
        delivery: Delivery::AtLeastOnce,
    };
    let connector = Connector {
        incarnation: INCARNATION,
        revision: Revision(revision),
        spec,
        created_at_ms: 0,
        updated_at_ms: 0,
        deleting: false,
    };
    vec![DesiredTask { connector: Arc::new(connector), epoch: Epoch(epoch) }]
}

/// A policy that ends what fails once, also when the target is at fault.
fn desired_discarding() -> Vec<DesiredTask> {
    let mut tasks = desired(5, 1);
    for task in &mut tasks {
        let mut connector = Connector::clone(&task.connector);
        connector.spec.failure = policy(FailureStrategy::Discard, OnTargetDown::Strategy);
        task.connector = Arc::new(connector);
    }
    tasks
}

struct Running {
    supervisor: Supervisor,
    metrics: prometheus::Registry,
    lease: Lease,
}

fn start(queue: &Arc<MemoryQueue>, sink: &ScriptedSink) -> Running {
    let registry = prometheus::Registry::new();
    let metrics = RuntimeMetrics::new(false).expect("names are valid");
    metrics.register(&registry).expect("registers once");
    let lease = Lease::new(true);
    let options = RuntimeOptions {
        sources: sources(queue),
        lease: lease.clone(),
        fences: SecretFences { env_prefix: "SLUICE_SECRET_".into(), secret_dirs: Vec::new() },
        file_roots: Vec::new(),
        data_dir: PathBuf::from("/nowhere"),
        deny_networks: Vec::new(),
        memory_bytes_max: 64 << 20,
        stop_timeout: Duration::from_millis(500),
        metrics,
        cluster: ClusterId(1),
        node: NodeName::from("n1"),
        raft_id: RaftId(1),
    };
    let supervisor = Supervisor::with_sinks(options, Arc::new(Scripted(sink.clone())));
    Running { supervisor, metrics: registry, lease }
}

impl Running {
    fn metric(&self, name: &str) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics.iter().map(|metric| metric.get_counter().get_value()).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_caught_counted_and_the_task_restarted() {
    let queue = MemoryQueue::numbered(10);
    let sink = ScriptedSink::new(|call, _| match call.number {
        0..3 => Answer::Panic,
        _ => Answer::All(Outcome::Delivered),
    });
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired(5, 1));
    until("crash loop shows", || running.supervisor.reports().iter().any(|task| task.health == Health::CrashLoop))
        .await;
    let report = running.supervisor.reports().remove(0);
    assert_eq!(report.health_reason.as_deref(), Some("TASK_PANICKED"));
    assert_eq!(report.last_error.as_deref(), Some("the script says so"));
    queue.all_committed().await;
    until("it is well again", || running.supervisor.reports()[0].health == Health::Ok).await;
    let report = running.supervisor.reports().remove(0);
    assert_eq!((report.restarts_total, report.epoch), (3, Epoch(5)));
    assert_eq!(report.counters.send_success_total, 10, "counters are of this run");
    assert_eq!(running.metric("sluice_connector_restarts_total"), 3.0);
    assert_eq!(sink.delivered(), (0..10).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_not_wanted_stops_and_is_reported_until_heard() {
    let queue = MemoryQueue::numbered(1);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired(5, 1));
    queue.all_committed().await;
    running.supervisor.set_desired(Vec::new());
    let stopped = StoppedTask { incarnation: INCARNATION, epoch: Epoch(5) };
    until("it is reported", || running.supervisor.stopped() == [stopped]).await;
    assert!(running.supervisor.reports().is_empty());
    running.supervisor.changed().await;
    running.supervisor.set_desired(Vec::new());
    assert_eq!(running.supervisor.stopped(), [stopped]);
    running.supervisor.forget_stopped(&[stopped]);
    assert!(running.supervisor.stopped().is_empty());
    assert_eq!(running.metric("sluice_connector_send_success_total"), 1.0, "its counters stay");
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_or_revision_is_a_new_run_after_the_old_one() {
    for (epoch, revision) in [(6, 1), (5, 2)] {
        let queue = MemoryQueue::numbered(1);
        let sink = ScriptedSink::new(|_, _| Answer::After(Duration::from_millis(300), Outcome::Delivered));
        let running = start(&queue, &sink);
        running.supervisor.set_desired(desired(5, 1));
        until("a request is under way", || sink.calls().len() == 1).await;
        running.supervisor.set_desired(desired(epoch, revision));
        queue.all_committed().await;
        until("the new run is up", || running.supervisor.reports().iter().any(|task| task.epoch == Epoch(epoch))).await;
        until("its counters are its own", || {
            running.supervisor.reports().iter().any(|task| task.counters.send_success_total == 0)
        })
        .await;
        assert_eq!(sink.calls().len(), 1, "the request under way was finished and committed");
        queue.append([message(1)]);
        queue.all_committed().await;
        assert_eq!(sink.opens(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_bounded_and_cut_requests_are_counted() {
    let queue = MemoryQueue::numbered(10);
    let sink = ScriptedSink::new(|_, _| Answer::Never);
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired(5, 1));
    until("a request is under way", || sink.calls().len() == 1).await;
    let asked = tokio::time::Instant::now();
    running.supervisor.set_desired(Vec::new());
    until("it has stopped", || !running.supervisor.stopped().is_empty()).await;
    assert!((500..850).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
    assert_eq!(running.metric("sluice_connector_possible_duplicates_total"), 10.0);
    assert_eq!(queue.position(), 0);
}

#[tokio::test]
async fn a_task_that_cannot_be_joined_is_detached_and_counted() {
    // Blocks its thread, so the supervisor needs another one.
    let (release, blocked) = std::sync::mpsc::sync_channel::<()>(1);
    let blocked = std::sync::Mutex::new(blocked);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let queue = MemoryQueue::numbered(1);
            let sink = ScriptedSink::new(move |_, _| {
                let _ = blocked.lock().expect("one caller").recv_timeout(Duration::from_secs(60));
                Answer::All(Outcome::Delivered)
            });
            let running = start(&queue, &sink);
            running.supervisor.set_desired(desired(5, 1));
            until("the task is stuck", || sink.calls().len() == 1).await;
            assert!(running.supervisor.shutdown(Duration::from_secs(30)).await);
            assert_eq!(running.metric("sluice_tasks_detached_total"), 1.0);
            assert_eq!(sink.aborts(), 1);
            drop(release);
        });
    })
    .join()
    .expect("the task is detached");
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_keeps_the_task() {
    let queue = MemoryQueue::numbered(1);
    let sink =
        ScriptedSink::new(|call, _| if call.number == 0 { Answer::Never } else { Answer::All(Outcome::Delivered) });
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired(5, 1));
    until("a request is under way", || sink.calls().len() == 1).await;
    running.lease.set(false);
    until("the sink is aborted", || sink.aborts() > 0).await;
    assert_eq!(running.supervisor.reports().len(), 1);
    assert!(running.supervisor.stopped().is_empty());
    running.lease.set(true);
    queue.all_committed().await;
    assert_eq!(running.supervisor.reports()[0].epoch, Epoch(5));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_task_tries_again_while_it_is_wanted() {
    let queue = MemoryQueue::numbered(1);
    queue.fail(crate::pipeline::tests::double::Operation::Fetch, crate::source::SourceError::Fenced);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired(5, 1));
    until("fenced", || {
        running.supervisor.reports().iter().any(|task| task.health_reason.as_deref() == Some("EPOCH_FENCED"))
    })
    .await;
    assert!(sink.calls().is_empty());
    queue.all_committed().await;
    assert_eq!(running.metric("sluice_connector_restarts_total"), 0.0, "it did not crash");
}

#[tokio::test(start_paused = true)]
async fn shutdown_stops_all_tasks() {
    let queue = MemoryQueue::numbered(5);
    let sink = ScriptedSink::new(|_, _| Answer::All(down()));
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired(5, 1));
    until("it retries", || sink.calls().len() > 3).await;
    assert!(running.supervisor.shutdown(Duration::from_secs(5)).await);
    assert!(running.supervisor.reports().is_empty());
    assert_eq!(running.supervisor.stopped().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_flaps_ends_no_record() {
    let queue = MemoryQueue::numbered(3);
    let sink = ScriptedSink::new(|call, _| match call.number {
        0 => Answer::AtAbort(vec![interrupted(); 3]),
        _ => Answer::All(Outcome::Delivered),
    });
    let running = start(&queue, &sink);
    running.supervisor.set_desired(desired_discarding());
    until("a request is under way", || sink.calls().len() == 1).await;
    running.lease.set(false);
    until("the sink is aborted", || sink.aborts() > 0).await;
    running.lease.set(true);
    queue.all_committed().await;
    assert!(queue.ends().is_empty(), "{:?}", queue.ends());
    assert_eq!(sink.delivered(), [0, 1, 2]);
    let counters = running.supervisor.reports().remove(0).counters;
    assert_eq!((counters.send_fail_total, counters.discard_total, counters.send_success_total), (0, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_stop_or_shutdown_at_its_bound_ends_no_record() {
    for whole in [false, true] {
        let queue = MemoryQueue::numbered(3);
        let sink = ScriptedSink::new(|_, _| Answer::AtAbort(vec![interrupted(); 3]));
        let running = start(&queue, &sink);
        running.supervisor.set_desired(desired_discarding());
        until("a request is under way", || sink.calls().len() == 1).await;
        if whole {
            assert!(!running.supervisor.shutdown(Duration::from_millis(100)).await);
        } else {
            running.supervisor.set_desired(Vec::new());
        }
        until("the sink is aborted", || sink.aborts() > 0).await;
        until("the request is counted as cut off", || {
            running.metric("sluice_connector_possible_duplicates_total") == 3.0
        })
        .await;
        assert_eq!((queue.position(), queue.ends().len(), sink.calls().len()), (0, 0, 1), "whole: {whole}");
        assert_eq!(running.metric("sluice_connector_send_fail_total"), 0.0);
    }
}
