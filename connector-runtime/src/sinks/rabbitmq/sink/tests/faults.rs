//! What is whose fault, in the server's own words.

use super::*;
use crate::sink::RecordFault;

fn with_topic(number: u64, topic: &str, payload: impl Into<Vec<u8>>) -> Record {
    let mut record = record(number, payload);
    record.message.topic = topic.into();
    record
}

fn refusal(outcome: &Outcome) -> &RecordFault {
    match outcome {
        Outcome::RecordFault(fault) => fault,
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no record fault"),
    }
}

#[tokio::test]
async fn an_unroutable_record_among_a_thousand_ends_alone() {
    let place = Place::new("unroutable").await;
    place.exchange("by_key", "direct").await;
    place.bind("by_key", QUEUE, "known").await;
    // The body of one that comes back spans several frames.
    let size = |number: u64| if number % 100 == 50 { 20_000 } else { 10 };
    let poisoned = |number: u64| number % 250 == 50 || (600..605).contains(&number);
    let records: Vec<Record> = (0..1_000)
        .map(|number| with_topic(number, if poisoned(number) { "unknown" } else { "known" }, vec![b'x'; size(number)]))
        .collect();
    for channel_max in [1, 8] {
        let more = json!({
            "exchange": "by_key", "routing_key": "${topic}", "channel_max": channel_max, "frame_max": 4_096,
        });
        let sink = place.open(&more).await;
        let outcomes = deliver(&*sink, &records).await;
        for (number, outcome) in (0..).zip(&outcomes) {
            if poisoned(number) {
                let fault = refusal(outcome);
                assert_eq!((&*fault.class, fault.offline), ("unroutable", false), "{number}");
                assert!(fault.message.contains("NO_ROUTE (code 312), exchange \"by_key\", routing key \"unknown\""));
            } else {
                assert_eq!(*outcome, Outcome::Delivered, "{number}");
            }
        }
    }
    let expect = 2 * (0..1_000).filter(|number| !poisoned(*number)).count();
    assert_eq!(place.messages_when(QUEUE, expect).await.len(), expect);
}

#[tokio::test]
async fn a_queue_that_rejects_when_it_is_full_holds_the_records_until_it_has_room() {
    let place = Place::new("full").await;
    place.exchange("small", "fanout").await;
    place.queue("three", json!({"x-max-length": 3, "x-overflow": "reject-publish"})).await;
    place.bind("small", "three", "").await;
    let sink = place.open(&json!({"exchange": "small", "channel_max": 1})).await;
    let records = numbered(5);
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(outcomes[..3], vec![Outcome::Delivered; 3]);
    for outcome in &outcomes[3..] {
        let fault = fault(outcome);
        assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Full, false));
        assert!(fault.message.contains("basic.nack"), "{fault:?}");
    }
    assert_eq!(payloads(&place.messages("three").await), ["0", "1", "2"]);
    place.server.delete(&["queues", &place.name, "three", "contents"]).await.expect("purges");
    assert_eq!(deliver(&*sink, &records[3..]).await, vec![Outcome::Delivered; 2]);
    assert_eq!(payloads(&place.messages("three").await), ["3", "4"]);
}

#[tokio::test]
async fn what_a_person_must_mend_is_found_when_it_opens() {
    let place = Place::new("to mend").await;
    place.server.add_user("stranger", "strange").await.expect("makes the user");
    let auth = TargetFaultKind::Auth;
    for (more, kind, words) in [
        (json!({"password": "wrong"}), auth, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"),
        (json!({"username": "nobody"}), auth, "ACCESS_REFUSED - Login was refused"),
        (json!({"virtual_host": "no such"}), TargetFaultKind::Missing, "NOT_ALLOWED - vhost no such not found"),
        (
            json!({"username": "stranger", "password": "strange"}),
            TargetFaultKind::Permission,
            "NOT_ALLOWED - access to vhost 'to mend' refused for user 'stranger'",
        ),
        (
            json!({"exchange": "no such"}),
            TargetFaultKind::Missing,
            "NOT_FOUND - no exchange 'no such' in vhost 'to mend'",
        ),
        (json!({"port": 1, "connection_timeout_secs": 2}), TargetFaultKind::Down, "cannot connect to 127.0.0.1:1"),
    ] {
        let fault = place.refused(&more).await;
        assert_eq!(fault.kind, kind, "{more} {fault:?}");
        assert!(fault.message.contains(words), "{more} {fault:?}");
        assert!(!fault.message.contains("wrong") && !fault.message.contains(PASSWORD), "{fault:?}");
    }
    place.connections_become(0).await;
}

#[tokio::test]
async fn a_limit_of_connections_is_waited_for() {
    let place = Place::new("limited").await;
    let limit = json!({"value": 1});
    place.server.put(&["vhost-limits", &place.name, "max-connections"], &limit).await.expect("limits");
    let first = place.open(&json!({})).await;
    place.connections_become(1).await;
    let fault = place.refused(&json!({})).await;
    assert_eq!(fault.kind, TargetFaultKind::Throttled { retry_after: None }, "{fault:?}");
    assert!(fault.message.contains("connection limit (1) is reached"), "{fault:?}");
    first.close().await;
    place.connections_become(0).await;
    place.open(&json!({})).await;
}

#[tokio::test]
async fn a_missing_right_costs_a_channel_and_is_used_as_soon_as_it_is_given() {
    let place = Place::new("rights").await;
    place.server.add_user("writer", "w").await.expect("makes the user");
    place.server.permit(&place.name, "writer", "^another$").await.expect("permits");
    let sink = place.open(&json!({"username": "writer", "password": "w", "channel_max": 2})).await;
    let records = numbered(20);
    for outcome in &deliver(&*sink, &records).await {
        let fault = fault(outcome);
        assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Permission, false));
        let words = "ACCESS_REFUSED - access to exchange 'mqtt_messages' in vhost 'rights' refused for user 'writer'";
        assert!(fault.message.contains(words), "{fault:?}");
    }
    place.server.permit(&place.name, "writer", ".*").await.expect("permits");
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 20]);
    assert_eq!(place.messages_when(QUEUE, 20).await.len(), 20);
    place.connections_become(1).await;
}

#[tokio::test]
async fn an_exchange_that_is_deleted_under_way_is_missed_until_it_is_there_again() {
    let place = Place::new("deleted").await;
    let sink = place.open(&json!({})).await;
    assert_eq!(deliver(&*sink, &numbered(100)).await, vec![Outcome::Delivered; 100]);
    place.server.delete(&["exchanges", &place.name, EXCHANGE]).await.expect("deletes");
    for outcome in &deliver(&*sink, &numbered(100)).await {
        assert_eq!(fault(outcome).kind, TargetFaultKind::Missing);
        assert!(fault(outcome).message.contains("NOT_FOUND - no exchange 'mqtt_messages'"), "{outcome:?}");
    }
    place.exchange(EXCHANGE, "fanout").await;
    place.bind(EXCHANGE, QUEUE, "").await;
    assert_eq!(deliver(&*sink, &numbered(100)).await, vec![Outcome::Delivered; 100]);
}

#[tokio::test]
async fn a_message_that_the_server_finds_too_large_ends_alone() {
    let place = Place::new("large").await;
    // The limit of this server is 1,000,000.
    let sink = place.open(&json!({"channel_max": 1})).await;
    let mut records = numbered(40);
    records[17] = record(17, vec![b'x'; 1_000_001]);
    records[30] = record(30, vec![b'x'; 1_000_000]);
    let outcomes = deliver(&*sink, &records).await;
    let fault = refusal(&outcomes[17]);
    assert_eq!((&*fault.class, fault.offline), ("message_too_large", false));
    let words = "PRECONDITION_FAILED - message size 1000001 is larger than configured max size 1000000";
    assert!(fault.message.contains(words), "{fault:?}");
    for outcome in outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::RecordFault(_))) {
        if let Outcome::TargetFault(fault) = outcome {
            assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Interrupted, false));
        }
    }

    // So the pipeline discards this one, and asks for its neighbours again without counting it for them.
    let place = Place::new("large, by a pipeline").await;
    let sink = node().sink_for(NAME, "rabbitmq", place.config(&json!({"channel_max": 1})));
    let queue = MemoryQueue::with(records.into_iter().map(|record| record.message));
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.send_fail_total), (39, 1), "{counters:?}");
    let messages = place.messages_when(QUEUE, 39).await;
    let numbers: std::collections::BTreeSet<String> = payloads(&messages).into_iter().collect();
    assert_eq!(numbers.len(), 39);
}

#[tokio::test]
async fn properties_that_fit_into_no_frame_are_the_records_own_fault() {
    let place = Place::new("properties").await;
    let sink = place.open(&json!({"frame_max": 4_096})).await;
    let with_property = |number: u64, bytes: usize| {
        let mut record = record(number, "x");
        record.message.user_properties = vec![("p".into(), "v".repeat(bytes))];
        record
    };
    let outcomes = deliver(&*sink, &[with_property(1, 3_000), with_property(2, 5_000), with_property(3, 10)]).await;
    assert_eq!([&outcomes[0], &outcomes[2]], [&Outcome::Delivered; 2]);
    let fault = refusal(&outcomes[1]);
    assert_eq!((&*fault.class, fault.offline), ("properties_too_large", true));
    assert!(fault.message.ends_with("a frame has 4096 at most"), "{fault:?}");
    // The server itself would have closed the connection.
    assert_eq!(place.messages_when(QUEUE, 2).await.len(), 2);
    place.connections_become(1).await;
}
