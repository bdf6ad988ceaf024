//! What the broker refuses, in its own words.

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
async fn what_is_above_the_topics_limit_is_told_from_what_only_shares_its_entry() {
    let server = server().await;
    server.create_topic("small").await.expect("makes the topic");
    server.limit_entries("small", 1_000).await.expect("sets the limit");
    let sink = opened(server.config("small", &json!({}))).await;
    let probe = record(1, vec![b'x'; 2_000]);
    let limited = wait::until(LIMIT, "the limit holds", async || {
        let outcomes = deliver(&*sink, std::slice::from_ref(&probe)).await;
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
