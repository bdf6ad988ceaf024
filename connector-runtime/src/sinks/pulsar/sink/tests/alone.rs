//! Tests that stop a server, kill it, or count what it has: each has it for itself.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::seats::publishing;
use super::*;
use crate::sink::ABORT_WITHIN;
use crate::sinks::pulsar::message::Message;

/// The broker's limit, which is not the one that it has by itself.
const MESSAGE_BYTES_MAX: usize = 4_000_000;
const LARGE: usize = 2_000;

struct Alone(tokio::sync::Mutex<Pulsar>);

struct Turn<'a>(tokio::sync::MutexGuard<'a, Pulsar>);

async fn alone() -> Arc<Alone> {
    static SERVER: Shared<Alone> = Shared::new();
    let start = async || {
        let settings = vec![("maxMessageSize".to_owned(), MESSAGE_BYTES_MAX.to_string())];
        let options = PulsarOptions { settings, ..PulsarOptions::default() };
        let server = Pulsar::with(options).await.expect("Pulsar starts").keep_nothing();
        Alone(tokio::sync::Mutex::new(server))
    };
    SERVER.get(start).await
}

impl Alone {
    async fn turn(&self) -> Turn<'_> {
        let mut server = self.0.lock().await;
        // The test before this one may have failed half-way.
        if !server.is_running() {
            server.start_again().await.expect("starts again");
        }
        Turn(server)
    }
}

impl std::ops::Deref for Turn<'_> {
    type Target = Pulsar;

    fn deref(&self) -> &Pulsar {
        &self.0
    }
}

impl std::ops::DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Pulsar {
        &mut self.0
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Of one that is killed nobody wants to know.
        let _ = self.0.signal(Signal::CONT);
    }
}

fn large(numbers: std::ops::RangeInclusive<u64>) -> Vec<Message> {
    let message =
        |number| Message::new(&record(number, vec![b'x'; LARGE]), PayloadFormat::Raw).expect("can be carried");
    numbers.map(message).collect()
}

#[tokio::test]
async fn what_is_above_the_brokers_limit_is_found_before_it_is_sent() {
    let alone = alone().await;
    let server = alone.turn().await;
    let sink = opened(server.config("limited", &json!({}))).await;
    // All together are above the limit; three by themselves, one of them by its properties.
    let mut records: Vec<Record> = (1..=30).map(|number| record(number, vec![b'x'; MESSAGE_BYTES_MAX / 10])).collect();
    for place in [0, 17] {
        records[place].message.payload = vec![b'x'; MESSAGE_BYTES_MAX + 1].into();
    }
    records[29].message.user_properties = vec![("note".to_owned(), "y".repeat(MESSAGE_BYTES_MAX))];
    let outcomes = deliver(&*sink, &records).await;
    for (place, outcome) in outcomes.iter().enumerate() {
        if [0, 17, 29].contains(&place) {
            assert_eq!(record_fault(outcome), ("message_too_large", false), "{place}");
        } else {
            assert_eq!(*outcome, Outcome::Delivered, "{place}");
        }
    }
    assert_eq!(messages(&server, "limited").await.len(), 27);
    // One connection served all of it: the broker had nothing to hang up on.
    assert_eq!(server.stats("limited").await.expect("reads")["publishers"].as_array().map(Vec::len), Some(1));
    let compressing = opened(server.config("limited", &json!({"compression": "lz4"}))).await;
    let outcomes = deliver(&*compressing, &records[..1]).await;
    let kept_out = fault(&outcomes[0]).clone();
    assert_eq!(kept_out.kind, TargetFaultKind::Interrupted);
    sink.close().await;
    delivers(&*compressing, &records[..1]).await;
}

#[tokio::test]
async fn no_more_messages_wait_for_receipts_than_they_may() {
    const SEATS: usize = 4;
    const COUNT: usize = 10;
    let alone = alone().await;
    let server = alone.turn().await;
    // Room for one batch of the four, and then for all of them.
    for (topic, pending_max, under_way) in [("narrow", COUNT, 1), ("wide", 1_000, SEATS)] {
        let publishing =
            Publishing { send_timeout: Duration::from_secs(300), ..publishing(&server, topic, pending_max) };
        let mut seats: Vec<Seat> =
            (0..SEATS).map(|seat| Seat::new(topic.to_owned(), format!("{topic}-{seat}"))).collect();
        for seat in &mut seats {
            assert_eq!(seat.deliver(&publishing, &large(1..=2)).await, [Outcome::Delivered, Outcome::Delivered]);
        }
        server.signal(Signal::STOP).expect("stops");
        let before = ports::unread_bytes(server.port()).expect("counts");
        let records = large(11..=10 + COUNT as u64);
        let delivering = join_all(seats.iter_mut().map(|seat| seat.deliver(&publishing, &records)));
        let bytes = (under_way * COUNT * LARGE) as u64;
        let all_wait = async {
            let sent = wait::until(LIMIT, "what may be sent is sent", async || {
                let unread = ports::unread_bytes(server.port())? - before;
                ensure!(unread >= bytes, "{unread} bytes");
                Ok(unread)
            });
            let sent = sent.await.expect("is sent");
            assert!(sent < bytes + LARGE as u64 * COUNT as u64, "{topic}: {sent} bytes");
            assert_eq!(publishing.pending.available_permits(), pending_max - under_way * COUNT, "{topic}");
            server.signal(Signal::CONT).expect("continues");
        };
        let (ends, ()) = tokio::join!(delivering, all_wait);
        assert_eq!(ends, vec![vec![Outcome::Delivered; COUNT]; SEATS], "{topic}");
        assert_eq!(publishing.pending.available_permits(), pending_max, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_costs_no_more_than_the_timeouts() {
    let alone = alone().await;
    let server = alone.turn().await;
    let timeouts = |name: &str, other: u64| {
        let mut config = server.config("still", &json!({}));
        for timeout in ["connection_timeout_secs", "operation_timeout_secs", "send_timeout_secs"] {
            config[timeout] = if timeout == name { 1 } else { other }.into();
        }
        config
    };
    let sending = opened(timeouts("send_timeout_secs", 300)).await;
    let asking = opened(timeouts("operation_timeout_secs", 300)).await;
    delivered(&*sending, &numbered(1..=2)).await;
    server.signal(Signal::STOP).expect("stops");
    let started = Instant::now();
    let connecting = refused(timeouts("connection_timeout_secs", 300));
    let records = numbered(3..=4);
    let sent = deliver(&*sending, &records);
    let (connecting, sent, asked) = tokio::join!(connecting, sent, async {
        let mut records = numbered(1..=1);
        records[0].id.raft_id = RaftId(2);
        deliver(&*asking, &records).await
    });
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(60), "{took:?}");
    let says = [
        (&connecting, "within 1 s"),
        (fault(&sent[0]), "no receipt within 1 s"),
        (fault(&asked[0]), "no owner of the topic within 1 s"),
    ];
    for (fault, words) in says {
        assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    server.signal(Signal::CONT).expect("continues");
    delivers(&*sending, &records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_in_the_middle_and_comes_back_has_everything() {
    const COUNT: u64 = 10_000;
    let alone = alone().await;
    let mut server = alone.turn().await;
    server.create_deduplicating("public/killed").await.expect("makes the namespace");
    let more = json!({"connection_timeout_secs": 2, "max_records_per_second": 3_000});
    let topics = ["killed", "public/killed/killed"];
    let running: Vec<_> = topics
        .map(|topic| {
            let sink = node().sink_for(NAME, "pulsar", server.config(topic, &more));
            let queue = MemoryQueue::numbered(COUNT);
            let setup = Setup { order: sink.order, ..Setup::default() };
            let task = setup.start_with(&queue, sink.opener, sink.options);
            (topic, queue, task)
        })
        .into();
    let (_, _, first) = &running[0];
    let some = wait::until(LIMIT, "some are delivered", async || {
        let sent = first.report().counters.send_success_total;
        ensure!(sent > COUNT / 10, "{sent}");
        Ok(sent)
    });
    let sent = some.await.expect("delivers");
    server.kill().expect("kills");
    assert!(sent < COUNT, "all were sent before");
    let noticed = wait::until(LIMIT, "the loss is shown", async || {
        let reason = first.report().health_reason;
        ensure!(reason.as_deref() == Some("TARGET_UNREACHABLE"), "{reason:?}");
        Ok(())
    });
    noticed.await.expect("is shown");
    server.start_again().await.expect("starts again");
    for (topic, queue, task) in &running {
        queue.all_committed().await;
        assert_eq!(task.report().counters.send_success_total, COUNT);
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for text in texts(&server, topic).await {
            *times.entry(text).or_default() += 1;
        }
        let repeated = times.values().filter(|count| **count > 1).count();
        println!("measured: {topic}: killed at {sent}, {repeated} of {COUNT} stand there twice");
        assert_eq!(times.len() as u64, COUNT, "{topic}");
        // The one batch that was under way, where nobody drops it.
        let at_most = if topic.contains("public") { 0 } else { 100 };
        assert!(repeated <= at_most, "{topic}: {repeated} repeated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_sink_is_silent_at_once() {
    // All together more than the kernel takes for a process that reads nothing.
    const DISKS: u64 = 12;
    let alone = alone().await;
    let server = alone.turn().await;
    let sink = Arc::<dyn Sink>::from(opened(server.config("aborted", &json!({}))).await);
    let of_disk = |disk: u64, mut records: Vec<Record>| -> Vec<Record> {
        records.iter_mut().for_each(|record| record.id.raft_id = RaftId(disk));
        records
    };
    for disk in 1..=DISKS {
        delivered(&*sink, &of_disk(disk, numbered(1..=1))).await;
    }
    server.signal(Signal::STOP).expect("stops");
    let delivering: Vec<_> = (1..=DISKS)
        .map(|disk| {
            let large = (2..=5).map(|number| record(number, vec![b'x'; MESSAGE_BYTES_MAX / 5])).collect();
            let (sink, records) = (Arc::clone(&sink), of_disk(disk, large));
            tokio::spawn(async move { deliver(&*sink, &records).await })
        })
        .collect();
    let sent = wait::until(LIMIT, "some of it is sent", async || {
        ensure!(ports::holds_unread(server.port()), "nothing");
        Ok(())
    });
    sent.await.expect("is sent");
    let started = Instant::now();
    sink.abort();
    for delivering in delivering {
        let outcomes = delivering.await.expect("ends");
        assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Interrupted), "{outcomes:?}");
    }
    assert!(started.elapsed() < ABORT_WITHIN * 10, "{:?}", started.elapsed());
    let after = deliver(&*sink, &numbered(50..=50)).await;
    assert_eq!(fault(&after[0]).kind, TargetFaultKind::Interrupted);
    server.signal(Signal::CONT).expect("continues");
    connections_become(server.port(), 0).await;
    // An entry that was cut in the middle is none, and of those behind it nothing was sent.
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for found in messages(&server, "aborted").await {
        *counts.entry(found.producer).or_default() += 1;
    }
    assert_eq!(counts.len() as u64, DISKS);
    assert!(counts.values().all(|count| [1, 5].contains(count)), "{counts:?}");
    assert!(counts.values().sum::<u64>() < 5 * DISKS, "{counts:?}");
}

#[tokio::test]
async fn closing_gives_producers_and_connections_back() {
    let alone = alone().await;
    let server = alone.turn().await;
    for end in ["close", "drop"] {
        let sink = opened(server.config("closed", &json!({}))).await;
        delivers(&*sink, &numbered(1..=3)).await;
        assert_eq!(ports::connections_to(server.port()).expect("counts"), 1, "{end}");
        if end == "close" {
            sink.close().await;
            let after = deliver(&*sink, &numbered(4..=4)).await;
            assert_eq!(fault(&after[0]).kind, TargetFaultKind::Interrupted);
        } else {
            drop(sink);
        }
        connections_become(server.port(), 0).await;
        let gone = wait::until(LIMIT, "the producer is gone", async || {
            let stats = server.stats("closed").await?;
            ensure!(stats["publishers"].as_array().is_some_and(Vec::is_empty), "{}", stats["publishers"]);
            Ok(())
        });
        gone.await.expect("is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_half_way_does_no_harm_to_the_next() {
    let alone = alone().await;
    let server = alone.turn().await;
    server.create_deduplicating("public/halves").await.expect("makes the namespace");
    let topic = "public/halves/dropped";
    let sink = opened(server.config(topic, &json!({}))).await;
    delivered(&*sink, &numbered(1..=2)).await;
    server.signal(Signal::STOP).expect("stops");
    let records = numbered(3..=10);
    {
        let dropped = deliver(&*sink, &records);
        let sent = wait::until(LIMIT, "it is sent", async || {
            ensure!(ports::holds_unread(server.port()), "nothing");
            Ok(())
        });
        tokio::select! {
            outcomes = dropped => panic!("{outcomes:?}"),
            sent = sent => sent.expect("is sent"),
        }
    }
    server.signal(Signal::CONT).expect("continues");
    // With other bounds than those of what is still under way.
    delivers(&*sink, &numbered(3..=7)).await;
    delivers(&*sink, &numbered(8..=12)).await;
    assert_eq!(texts(&server, topic).await, as_texts(1..=12));
}
