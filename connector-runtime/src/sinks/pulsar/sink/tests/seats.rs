//! What a seat does, with bounds that are a test's own, and a sink whose number of partitions is not as old as it seems.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::sinks::pulsar::config::Compression;
use crate::sinks::pulsar::message::Message;
use crate::sinks::pulsar::partition::partition_of;

/// Timeouts of 10 s, and no earlier owners.
pub(super) fn publishing(server: &Pulsar, topic: &str, pending_max: usize) -> Publishing {
    publishing_by(&format!("pulsar://127.0.0.1:{}", server.port()), Duration::from_secs(10), topic, pending_max)
}

fn publishing_by(url: &str, timeout: Duration, topic: &str, pending_max: usize) -> Publishing {
    let dialer = Dialer {
        trust: None,
        auth: Arc::new(Auth::None),
        deny_networks: Arc::new([]),
        connect_timeout: timeout,
        aborted: CancellationToken::new(),
    };
    let servers = servers(url, false).expect("are addresses");
    Publishing {
        cluster: Cluster::new(dialer, servers, topic.to_owned(), timeout),
        compression: Compression::None,
        send_timeout: timeout,
        pending: Semaphore::new(pending_max),
        pending_max,
        connector: NAME.to_owned(),
        earlier_owner_within: Duration::ZERO,
    }
}

fn sink(publishing: Publishing) -> PulsarSink {
    PulsarSink {
        publishing,
        format: PayloadFormat::Raw,
        cluster: ClusterId(7),
        seats: Mutex::default(),
        aborted: CancellationToken::new(),
        closing: CancellationToken::new(),
    }
}

fn messages(numbers: impl IntoIterator<Item = u64>) -> Vec<Message> {
    let message = |record| Message::new(&record, PayloadFormat::Raw).expect("can be carried");
    numbered(numbers).into_iter().map(message).collect()
}

async fn target_fault(seat: &mut Seat, publishing: &Publishing, number: u64) -> TargetFault {
    let outcomes = seat.deliver(publishing, &messages([number])).await;
    fault(&outcomes[0]).clone()
}

#[tokio::test]
async fn a_name_that_another_keeps_is_told_and_waited_for_again_when_it_was_free() {
    const BOUND: Duration = Duration::from_millis(100);
    let (server, topic, name) = (server().await, "kept-name", "one-name");
    let mut first = Seat::new(topic.to_owned(), name.to_owned());
    let of_first = publishing(&server, topic, 10);
    assert_eq!(first.deliver(&of_first, &messages([1])).await, [Outcome::Delivered]);
    let within = Publishing { earlier_owner_within: BOUND, ..publishing(&server, topic, 10) };
    let mut second = Seat::new(topic.to_owned(), name.to_owned());
    let started = tokio::time::Instant::now();
    let early = target_fault(&mut second, &within, 2).await;
    assert_eq!((early.kind, early.reopen), (TargetFaultKind::Interrupted, false), "{early:?}");
    let told = wait::until(LIMIT, "it is told", async || {
        let late = target_fault(&mut second, &within, 2).await;
        ensure!(late.kind == TargetFaultKind::Permission, "{late:?}");
        // A sink that is opened anew would not know since when.
        assert!(!late.reopen && late.message.contains("is already connected to topic"), "{late:?}");
        Ok(())
    });
    told.await.expect("is told");
    assert!(started.elapsed() > BOUND);
    // Another answer: the name is free, and something else is wrong.
    first.leave(&of_first).await;
    let other = server.take_over(topic).await.expect("takes the topic over");
    let kept_out = target_fault(&mut second, &within, 2).await;
    assert!(kept_out.message.contains("exclusive producer"), "{kept_out:?}");
    other.end().await.expect("gives it back");
    let has_it = wait::until(LIMIT, "the first has the name again", async || {
        let ends = first.deliver(&of_first, &messages([3])).await;
        ensure!(ends == [Outcome::Delivered], "{ends:?}");
        Ok(())
    });
    has_it.await.expect("has it again");
    let early = target_fault(&mut second, &within, 2).await;
    assert_eq!(early.kind, TargetFaultKind::Interrupted, "{early:?}");
    first.leave(&of_first).await;
    assert_eq!(second.deliver(&within, &messages([4])).await, [Outcome::Delivered]);
}

#[tokio::test]
async fn room_is_waited_for_no_longer_than_a_receipt() {
    let (server, topic) = (server().await, "no-room");
    let publishing = Publishing { send_timeout: Duration::from_secs(1), ..publishing(&server, topic, 5) };
    let mut seat = Seat::new(topic.to_owned(), "roomless".to_owned());
    let all = publishing.pending.acquire_many(5).await.expect("are free");
    let fault = target_fault(&mut seat, &publishing, 1).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
    assert!(fault.message.contains("max_pending_messages") && fault.message.contains("1 s"), "{fault:?}");
    drop(all);
    assert_eq!(seat.deliver(&publishing, &messages([1])).await, [Outcome::Delivered]);
}

#[tokio::test]
async fn a_server_that_is_dead_is_not_asked_while_another_answers() {
    let (server, topic) = (server().await, "one-dead");
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let dead = silent.local_addr().expect("has an address").port();
    let tries = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&tries);
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((connection, _)) = silent.accept() {
            counting.fetch_add(1, Ordering::Relaxed);
            kept.push(connection);
        }
    });
    let url = format!("pulsar://127.0.0.1:{dead},127.0.0.1:{}", server.port());
    let publishing = publishing_by(&url, Duration::from_secs(3), topic, 10);
    let mut seat = Seat::new(topic.to_owned(), "patient".to_owned());
    assert_eq!(publishing.cluster.partitions().await, Ok(0));
    assert_eq!(tries.load(Ordering::Relaxed), 1);
    publishing.cluster.forget_partitions().await;
    assert_eq!(publishing.cluster.partitions().await, Ok(0));
    assert_eq!(seat.deliver(&publishing, &messages([1])).await, [Outcome::Delivered]);
    assert_eq!(tries.load(Ordering::Relaxed), 1, "the dead one was asked again");
}

#[tokio::test]
async fn producers_of_fewer_partitions_are_given_back() {
    let (server, topic) = (server().await, "growing");
    server.create_partitioned(topic, 2).await.expect("makes the topic");
    let sink = sink(publishing(&server, topic, 100));
    delivered(&sink, &numbered(1..=30)).await;
    server.grow_partitions(topic, 3).await.expect("adds one");
    // A minute later.
    sink.publishing.cluster.forget_partitions().await;
    delivered(&sink, &numbered(31..=60)).await;
    let expect = json!([format!("sluice-{}-1-7-3", ClusterId(7))]);
    for partition in 0..3 {
        let stats = server.stats(&format!("{topic}-partition-{partition}")).await.expect("reads");
        let names: Value =
            stats["publishers"].as_array().expect("are listed").iter().map(|one| one["producerName"].clone()).collect();
        assert_eq!(names, expect, "{partition}");
    }
    assert_eq!(sink.lock().len(), 3);
    let mut found = texts(&server, topic).await;
    found.sort_by_key(|text| text.parse::<u64>().unwrap_or(0));
    assert_eq!(found, as_texts(1..=60));
}

/// A key that belongs to one partition of two, and to another one of five.
fn key_that(of_two: u32, of_five: u32) -> String {
    let fits = |key: &String| partition_of(key, 2) == Some(of_two) && partition_of(key, 5) == Some(of_five);
    (0..).map(|number| format!("device-{number}")).find(fits).expect("there is one")
}

#[tokio::test]
async fn a_record_that_belongs_elsewhere_since_partitions_were_added_is_no_repeat() {
    let server = server().await;
    server.create_deduplicating("public/growing").await.expect("makes the namespace");
    let topic = "public/growing/moved";
    server.create_partitioned(topic, 2).await.expect("makes the topic");
    server.limit_entries(topic, 2_000).await.expect("sets the limit");
    let first = opened(server.config(topic, &json!({}))).await;
    let (moves, stays) = (key_that(0, 1), key_that(1, 1));
    let of = |number: u64| of_client(number, if number == 3 { &moves } else { &stays }, format!("{number}"));
    let mut records: Vec<Record> = (1..=20).map(of).collect();
    records[2].message.payload = vec![b'x'; 3_000].into();
    let limited = wait::until(LIMIT, "the limit holds", async || {
        let outcomes = deliver(&*first, &records).await;
        ensure!(matches!(outcomes[2], Outcome::RecordFault(_)), "{outcomes:?}");
        Ok(outcomes)
    });
    let outcomes = limited.await.expect("holds");
    assert_eq!(record_fault(&outcomes[2]), ("message_too_large", true));
    assert!(outcomes.iter().enumerate().all(|(place, end)| place == 2 || *end == Outcome::Delivered), "{outcomes:?}");
    first.close().await;
    // It is tried again where all that came after it stands already.
    server.grow_partitions(topic, 5).await.expect("adds some");
    server.unlimit_entries(topic).await.expect("takes the limit back");
    let second = opened(server.config(topic, &json!({}))).await;
    delivers(&*second, &records[2..3]).await;
    let found = super::messages(&server, topic).await;
    let of_three: Vec<_> = found.iter().filter(|found| found.key == moves).collect();
    assert_eq!(of_three.len(), 1, "{found:?}");
    assert_eq!((of_three[0].partition(), of_three[0].text().len()), (Some(1), 3_000));
}
