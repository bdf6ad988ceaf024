//! A server that goes away, stands still, or has no room.

use std::collections::BTreeSet;

use ::tests::ports;
use ::tests::rabbitmq::VIRTUAL_HOST;

use super::*;

async fn server() -> Rabbitmq {
    Rabbitmq::start().await.expect("RabbitMQ starts")
}

async fn opened(server: &Rabbitmq, more: &Value) -> Box<dyn Sink> {
    open(server.config(VIRTUAL_HOST, more)).await
}

async fn wait_unread(server: &Rabbitmq, bytes: u64) {
    let unread = wait::until(LIMIT, "records are on their way", async || {
        let unread = ports::unread_bytes(server.port())?;
        ensure!(unread > bytes, "{unread} bytes");
        Ok(())
    });
    unread.await.expect("are on their way");
}

#[tokio::test]
async fn a_server_that_is_killed_keeps_what_it_has_confirmed() {
    const RECORDS: u64 = 8_000;
    let mut server = server().await;
    let more = json!({"delivery_mode": "Persistent", "connection_timeout_secs": 2, "max_records_per_second": 3_000});
    let sink = node().sink_for(NAME, "rabbitmq", server.config(VIRTUAL_HOST, &more));
    let queue = MemoryQueue::numbered(RECORDS);
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    let some = wait::until(LIMIT, "some are delivered", async || {
        let sent = task.report().counters.send_success_total;
        ensure!(sent > RECORDS / 10, "{sent}");
        Ok(sent)
    });
    let sent = some.await.expect("delivers");
    server.kill().expect("kills");
    assert!(sent < RECORDS, "all were sent before");
    let noticed = wait::until(LIMIT, "the loss is shown", async || {
        let reason = task.report().health_reason;
        ensure!(reason.as_deref() == Some("TARGET_UNREACHABLE"), "{reason:?}");
        Ok(())
    });
    noticed.await.expect("is shown");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, RECORDS);
    let messages = server.messages_when(VIRTUAL_HOST, QUEUE, RECORDS as usize).await.expect("arrive");
    let ids: BTreeSet<&str> = messages.iter().filter_map(|message| message.header("mqtt.id")).collect();
    println!("measured: {} repeats of {RECORDS}", messages.len() - ids.len());
    assert_eq!(ids.len(), RECORDS as usize);
    // At most what was on the wire when it was killed.
    assert!(messages.len() - ids.len() <= 4_096, "{} repeats", messages.len() - ids.len());
    server.finish();
}

#[tokio::test]
async fn a_server_that_stands_still_costs_no_more_than_the_timeouts() {
    let server = server().await;
    let confirmed = opened(&server, &json!({"confirm_timeout_secs": 1, "heartbeat_secs": 0})).await;
    let beating = opened(&server, &json!({"confirm_timeout_secs": 300, "heartbeat_secs": 1})).await;
    let patient = opened(&server, &json!({"confirm_timeout_secs": 300, "heartbeat_secs": 0})).await;
    server.pause().expect("pauses");
    let records = numbered(10);
    let timed = async |sink: &dyn Sink| {
        let started = Instant::now();
        let outcomes = deliver(sink, &records).await;
        (outcomes, started.elapsed())
    };
    let (unconfirmed, unheard) = tokio::join!(timed(&*confirmed), timed(&*beating));
    for ((outcomes, took), words, least_ms) in [
        (unconfirmed, "no confirmation within 1 s", 900),
        // Two intervals without a word, of which some time had passed.
        (unheard, "not a word of the server within 2 s: heartbeats are missed", 900),
    ] {
        println!("measured: {words}: {took:?}");
        assert_eq!((fault(&outcomes[0]).kind, &*fault(&outcomes[0]).message), (TargetFaultKind::Down, words));
        assert!((least_ms..20_000).contains(&took.as_millis()), "{took:?}");
    }
    let config = server.config(VIRTUAL_HOST, &json!({"connection_timeout_secs": 1}));
    let started = Instant::now();
    let refused = node().open(NAME, "rabbitmq", config).await.err().expect("does not open");
    assert_eq!((refused.kind, &*refused.message), (TargetFaultKind::Down, "no connection within 1 s"));
    assert!((900..10_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());

    // Without heartbeats nothing but an answer is waited for.
    let late = [record(99, "late")];
    let (outcomes, ()) = tokio::join!(deliver(&*patient, &late), async {
        server.resume().expect("resumes");
    });
    assert_eq!(outcomes, [Outcome::Delivered]);
    for sink in [&confirmed, &beating] {
        delivers(&**sink, &records).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_server_without_memory_blocks_and_the_same_connection_goes_on_afterwards() {
    let server = server().await;
    let sink = opened(&server, &json!({"heartbeat_secs": 1, "confirm_timeout_secs": 3})).await;
    assert_eq!(deliver(&*sink, &numbered(1)).await, [Outcome::Delivered]);
    let name = server.connection(VIRTUAL_HOST).await.expect("is shown")["name"].clone();
    server.control(&["set_vm_memory_high_watermark", "absolute", "1"]).await.expect("raises the alarm");
    let started = Instant::now();
    // The first one is still taken.
    let blocked = wait::until(LIMIT, "the server blocks", async || {
        let outcomes = deliver(&*sink, &numbered(200)).await;
        ensure!(outcomes.iter().any(|outcome| *outcome != Outcome::Delivered), "all are delivered");
        Ok(outcomes)
    });
    let blocked = blocked.await.expect("is blocked");
    println!("measured: blocked after {:?}", started.elapsed());
    let refused = blocked.iter().find(|outcome| **outcome != Outcome::Delivered).expect("is refused");
    assert_eq!((fault(refused).kind, fault(refused).reopen), (TargetFaultKind::Full, false), "{refused:?}");
    assert!(fault(refused).message.contains("the server blocks publishers: low on memory"), "{refused:?}");
    // Nobody has to wait to hear it again, and nothing of it is sent.
    let unread = ports::unread_bytes(server.port()).expect("reads");
    let again = Instant::now();
    let outcomes = deliver(&*sink, &numbered(100)).await;
    assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Full), "{outcomes:?}");
    assert!(again.elapsed() < Duration::from_secs(10), "{:?}", again.elapsed());
    assert_eq!(ports::unread_bytes(server.port()).expect("reads"), unread);

    server.control(&["set_vm_memory_high_watermark", "absolute", "4GB"]).await.expect("ends the alarm");
    delivers(&*sink, &numbered(100)).await;
    assert_eq!(server.connection(VIRTUAL_HOST).await.expect("is shown")["name"], name);
    server.finish();
}

#[tokio::test]
async fn an_abort_answers_at_once_and_sends_nothing_more() {
    const COUNT: usize = 2_000;
    let server = server().await;
    for more in [json!({}), json!({"publisher_confirms": false})] {
        let before = server.messages(VIRTUAL_HOST, QUEUE).await.expect("reads").len();
        let sink = opened(&server, &more).await;
        server.pause().expect("pauses");
        let records: Vec<Record> = (0..COUNT as u64).map(|number| record(number, vec![b'x'; 50_000])).collect();
        let mut aborted = None;
        let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
            wait_unread(&server, 100_000).await;
            aborted = Some(Instant::now());
            sink.abort();
        });
        let took = aborted.expect("was aborted").elapsed();
        println!("measured: aborted within {took:?}");
        assert!(took < crate::sink::ABORT_WITHIN * 10, "{took:?}");
        let last = outcomes.last().expect("has outcomes");
        assert_eq!(fault(last).kind, TargetFaultKind::Interrupted);
        let later = deliver(&*sink, &records[..1]).await;
        assert_eq!((fault(&later[0]).kind, fault(&later[0]).reopen), (TargetFaultKind::Interrupted, true));
        server.resume().expect("resumes");
        connections_become(&server, VIRTUAL_HOST, 0).await;
        let messages = server.messages(VIRTUAL_HOST, QUEUE).await.expect("reads");
        // What the kernels of both ends hold may have arrived, and no more.
        assert!(messages.len() - before < COUNT / 2, "{} of {COUNT} left", messages.len() - before);
        server.delete(&["queues", VIRTUAL_HOST, QUEUE, "contents"]).await.expect("purges");
    }
    server.finish();
}

#[tokio::test]
async fn a_deliver_that_is_dropped_half_way_leaves_the_others_in_order() {
    let server = server().await;
    let sink = opened(&server, &json!({"channel_max": 1})).await;
    server.pause().expect("pauses");
    let records: Vec<Record> = (0..1_000).map(|number| record(number, vec![b'x'; 50_000])).collect();
    tokio::select! {
        _ = deliver(&*sink, &records) => panic!("nobody confirms"),
        () = wait_unread(&server, 100_000) => {}
    }
    server.resume().expect("resumes");
    let end = record(5_000, "end");
    assert_eq!(deliver(&*sink, &[end]).await, [Outcome::Delivered]);
    let messages = server.messages(VIRTUAL_HOST, QUEUE).await.expect("reads");
    assert_eq!(payloads(&messages[messages.len() - 1..]), ["end"]);
    // What was not on its way when nobody waited any more is not sent.
    assert!(messages.len() < 900, "{} messages", messages.len());
    let ids: Vec<u64> =
        messages.iter().filter_map(|message| message.header("mqtt.id")?.rsplit('-').next()?.parse().ok()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    server.finish();
}
