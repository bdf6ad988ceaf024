//! What the broker refuses, in its own words.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn topic_of(namespace: &str, name: &str) -> String {
    format!("public/{namespace}/{name}")
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_missing() {
    let server = server().await;
    server.create_deduplicating("public/strict").await.expect("makes the namespace");
    let never = json!({"allowAutoTopicCreation": false});
    server.set("public/strict/autoTopicCreation", never).await.expect("sets it");
    for (topic, kind, words) in [
        (topic_of("strict", "nothing"), TargetFaultKind::Missing, "topicnotfound"),
        (topic_of("nowhere", "nothing"), TargetFaultKind::Missing, "not found"),
        ("nobody/nowhere/nothing".to_owned(), TargetFaultKind::Missing, "not found"),
        ("a/b".to_owned(), TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"), "a/b"),
    ] {
        let fault = refused(server.config(&topic, &json!({}))).await;
        assert_eq!(fault.kind, kind, "{topic}: {}", fault.message);
        assert!(fault.message.to_lowercase().contains(words), "{topic}: {}", fault.message);
    }
    let topic = topic_of("strict", "there");
    server.create_topic(&topic).await.expect("makes the topic");
    let sink = opened(server.config(&topic, &json!({}))).await;
    delivered(&*sink, &numbered(1..=2)).await;
    server.delete_topic(&topic).await.expect("deletes");
    let missed = wait::until(LIMIT, "the topic is missed", async || {
        let outcomes = deliver(&*sink, &numbered(3..=4)).await;
        let fault = fault(&outcomes[0]);
        ensure!(fault.kind == TargetFaultKind::Missing, "{fault:?}");
        Ok(())
    });
    missed.await.expect("is missed");
    server.create_topic(&topic).await.expect("makes the topic again");
    delivers(&*sink, &numbered(3..=4)).await;
    assert_eq!(texts(&server, &topic).await, as_texts(3..=4));
}

#[tokio::test]
async fn what_is_above_the_brokers_limit_is_found_before_it_is_sent() {
    let settings = vec![("maxMessageSize".to_owned(), "20000".to_owned())];
    let server = Pulsar::with(PulsarOptions { settings, ..PulsarOptions::default() }).await.expect("Pulsar starts");
    let sink = opened(server.config("limited", &json!({}))).await;
    // All together are above the limit; three by themselves, one of them by its properties.
    let mut records: Vec<Record> = (1..=30).map(|number| record(number, vec![b'x'; 5_000])).collect();
    for place in [0, 17] {
        records[place].message.payload = vec![b'x'; 20_001].into();
    }
    records[29].message.user_properties = vec![("note".to_owned(), "y".repeat(20_000))];
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
    server.finish();
}

#[tokio::test]
async fn what_is_above_the_topics_limit_is_told_from_what_only_shares_its_entry() {
    let server = server().await;
    server.create_topic("small").await.expect("makes the topic");
    server.limit_entries("small", 1_000).await.expect("sets the limit");
    let sink = opened(server.config("small", &json!({}))).await;
    let probe = record(1, vec![b'x'; 2_000]);
    let limited = wait::until(LIMIT, "the limit holds", async || {
        let outcomes = deliver(&*sink, &[probe.clone()]).await;
        ensure!(matches!(outcomes[0], Outcome::RecordFault(_)), "{outcomes:?}");
        Ok(outcomes)
    });
    let outcomes = limited.await.expect("holds");
    assert_eq!(record_fault(&outcomes[0]), ("message_too_large", true));
    let Outcome::RecordFault(refusal) = &outcomes[0] else { unreachable!("was just looked at") };
    assert!(refusal.message.contains("Exceed maximum message size"), "{}", refusal.message);
    let before = messages(&server, "small").await.len();
    // Many small ones are taken, in entries that are small enough.
    delivered(&*sink, &numbered(2..=200)).await;
    let found = texts(&server, "small").await;
    assert_eq!(found[before..], as_texts(2..=200));
    let entries = server.entries("small").await.expect("reads");
    println!("measured: 199 records in {} entries of at most 1,000 bytes", entries.len() - before);
    assert!(entries.len() - before < 199, "{}", entries.len());
}

#[tokio::test]
async fn a_topic_that_was_terminated_takes_nothing() {
    let server = server().await;
    let sink = opened(server.config("terminated", &json!({}))).await;
    delivered(&*sink, &numbered(1..=1)).await;
    server.terminate("terminated").await.expect("terminates");
    let missed = wait::until(LIMIT, "it is told", async || {
        let outcomes = deliver(&*sink, &numbered(2..=2)).await;
        let fault = fault(&outcomes[0]);
        ensure!(fault.kind == TargetFaultKind::Missing, "{fault:?}");
        ensure!(fault.message.contains("terminated"), "{}", fault.message);
        Ok(())
    });
    missed.await.expect("is told");
}

#[tokio::test]
async fn a_schema_that_every_message_must_have_is_shown() {
    let server = server().await;
    server.create_deduplicating("public/typed").await.expect("makes the namespace");
    let topic = topic_of("typed", "numbers");
    server.create_topic(&topic).await.expect("makes the topic");
    server.set("public/typed/schemaValidationEnforced", json!(true)).await.expect("sets it");
    let schema = json!({"type": "JSON", "properties": {},
        "schema": r#"{"type":"record","name":"N","fields":[{"name":"n","type":"int"}]}"#});
    server.add_schema(&topic, schema).await.expect("adds a schema");
    let sink = opened(server.config(&topic, &json!({}))).await;
    let outcomes = deliver(&*sink, &numbered(1..=1)).await;
    let fault = fault(&outcomes[0]);
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"));
    assert!(fault.message.contains("IncompatibleSchema"), "{}", fault.message);
}

#[tokio::test]
async fn a_topic_without_room_is_full_until_it_has_some() {
    let server = server().await;
    server.create_deduplicating("public/narrow").await.expect("makes the namespace");
    let topic = topic_of("narrow", "backlog");
    server.create_topic(&topic).await.expect("makes the topic");
    server.subscribe(&topic, "nobody").await.expect("subscribes");
    let quota = json!({"limitSize": 1_000, "policy": "producer_exception"});
    server.set("public/narrow/backlogQuota", quota).await.expect("sets it");
    let sink = opened(server.config(&topic, &json!({}))).await;
    let mut next = 0;
    let full = wait::until(LIMIT, "it is full", async || {
        next += 1;
        let outcomes = deliver(&*sink, &[record(next, vec![b'x'; 2_000])]).await;
        let Outcome::TargetFault(fault) = &outcomes[0] else { anyhow::bail!("{outcomes:?}") };
        ensure!(fault.kind == TargetFaultKind::Full, "{fault:?}");
        Ok(fault.clone())
    });
    let full = full.await.expect("is full");
    assert!(full.message.contains("backlog quota"), "{}", full.message);
    server.unset("public/narrow/backlogQuota").await.expect("takes it back");
    delivers(&*sink, &[record(next, "x")]).await;
}

#[tokio::test]
async fn a_producer_that_is_fenced_stops_until_the_topic_is_free() {
    let server = server().await;
    let sink = opened(server.config("fenced", &json!({}))).await;
    delivered(&*sink, &numbered(1..=2)).await;
    let other = server.take_over("fenced").await.expect("takes the topic over");
    let fenced = wait::until(LIMIT, "the producer is fenced", async || {
        let outcomes = deliver(&*sink, &numbered(3..=4)).await;
        let fault = fault(&outcomes[0]);
        ensure!(fault.kind == TargetFaultKind::Permission, "{fault:?}");
        Ok(fault.clone())
    });
    let fenced = fenced.await.expect("is fenced");
    assert!(fenced.message.contains("exclusive producer"), "{}", fenced.message);
    other.end().await.expect("gives it back");
    delivers(&*sink, &numbered(3..=4)).await;
    assert_eq!(texts(&server, "fenced").await, as_texts(1..=4));
}

/// Passes connections on, under an address of its own. A broker that is alone tells clients to stay with the address by which
/// they came; `honest`: this is passed on as well, else each is told to go to the broker's own.
async fn relay(to: u16, honest: bool) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.2", 0)).await.expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(count @ 1..) = far_in.read(&mut bytes).await {
                    // The last field of the answer says it.
                    let names_it = bytes[..count].windows(9).any(|part| part == b"pulsar://");
                    if !honest && names_it && bytes[..count].ends_with(&[0x40, 1]) {
                        bytes[count - 1] = 0;
                    }
                    if near_out.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn no_address_in_a_denied_network_is_connected_to_whoever_names_it() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.1/32"]);
    let by = |port: u16| json!({"server": format!("pulsar://127.0.0.2:{port}"), "topic": "denied"});
    let (staying, leading) = (by(relay(server.port(), true).await), by(relay(server.port(), false).await));
    // The user's own address is fine, and the one that the broker names for the topic is not.
    for config in [server.config("denied", &json!({})), leading.clone()] {
        let fault = denying.open(NAME, "pulsar", config.clone()).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{config}: {fault:?}");
    }
    let sink = denying.open(NAME, "pulsar", staying).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    delivered(&*sink, &numbered(1..=1)).await;
    sink.close().await;
    let sink = opened(leading).await;
    delivers(&*sink, &numbered(2..=2)).await;
}

#[tokio::test]
async fn nobody_at_home_is_down_and_the_next_server_is_asked() {
    let server = server().await;
    let nobody = ports::free().expect("is free");
    let two = format!("pulsar://127.0.0.1:{nobody},127.0.0.1:{}", server.port());
    let sink = opened(json!({"server": two, "topic": "two-servers"})).await;
    delivered(&*sink, &numbered(1..=1)).await;
    let fault = refused(json!({"server": format!("pulsar://127.0.0.1:{nobody}"), "topic": "x"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Down);
    // Something else listens there.
    let other = refused(json!({"server": format!("pulsar://127.0.0.1:{}", server.admin_port()), "topic": "x",
                               "connection_timeout_secs": 5}))
    .await;
    assert_eq!(other.kind, TargetFaultKind::Down);
}
