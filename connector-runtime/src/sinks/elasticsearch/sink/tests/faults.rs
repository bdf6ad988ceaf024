//! What is refused, and who is blamed for it.

use super::*;

/// Indices that cannot be written to, by name.
async fn make_unusable(server: &Elasticsearch) {
    for (name, body) in [
        ("closed", json!({})),
        ("blocked", json!({"settings": {"index.blocks.write": true}})),
        ("flooded", json!({"settings": {"index.blocks.read_only_allow_delete": true}})),
        ("lonely", json!({"settings": {"index.default_pipeline": "nowhere"}})),
        ("routed", json!({"mappings": {"_routing": {"required": true}}})),
        ("behind-1", json!({"aliases": {"behind": {}}})),
        ("behind-2", json!({"aliases": {"behind": {}}})),
        (
            "series",
            json!({
                "settings": {
                    "index.mode": "time_series", "index.routing_path": ["client_id"],
                    "index.time_series.start_time": "2020-01-01T00:00:00Z",
                    "index.time_series.end_time": "2030-01-01T00:00:00Z",
                },
                "mappings": {"properties": {
                    "@timestamp": {"type": "date"}, "client_id": {"type": "keyword", "time_series_dimension": true},
                }},
            }),
        ),
    ] {
        server.make_index(name, &body).await.expect("makes it");
    }
    server.call("POST", "closed/_close", &Value::Null).await.expect("closes it");
}

#[tokio::test]
async fn a_target_that_wants_a_person_says_so() {
    let server = server().await;
    make_unusable(&server).await;
    let records = [record(1, "{\"n\":1}"), record(2, "{\"n\":2}")];
    for (index, more, expect, words) in [
        ("own", json!({"password": "wrong"}), TargetFaultKind::Auth, "unable to authenticate user [sluice]"),
        ("own", json!({"username": "nobody"}), TargetFaultKind::Auth, "unable to authenticate user [nobody]"),
        (
            "own",
            json!({"auth_type": "none", "username": null, "password": null}),
            TargetFaultKind::Auth,
            "missing authentication",
        ),
        ("own", json!({"username": STRANGER}), TargetFaultKind::Permission, "is unauthorized for user [stranger]"),
        ("theirs", json!({"username": LIMITED}), TargetFaultKind::Permission, "is unauthorized for user [limited]"),
        ("never-${topic[0]}", json!({}), TargetFaultKind::Missing, "no such index [never-plant]"),
        ("closed", json!({}), TargetFaultKind::Missing, "index_closed_exception"),
        ("behind", json!({}), TargetFaultKind::Missing, "no write index is defined for alias [behind]"),
        ("lonely", json!({}), TargetFaultKind::Missing, "pipeline with id [nowhere] does not exist"),
        ("blocked", json!({}), TargetFaultKind::Permission, "index [blocked] blocked by"),
        ("flooded", json!({}), TargetFaultKind::Full, "flood-stage"),
        ("routed", json!({}), REFUSES, "routing is required"),
        ("series", json!({}), REFUSES, "time_series mode"),
        ("Upper", json!({}), REFUSES, "must be lowercase"),
        ("own", json!({"url": format!("{}/deeper", server.url())}), REFUSES, "no handler found"),
    ] {
        let outcomes = deliver(&*open(&server, index, &more).await, &records).await;
        assert_eq!(kind(&outcomes[0]), expect, "{index} {more} {outcomes:?}");
        assert_eq!(kind(&outcomes[1]), expect);
        assert!(format!("{outcomes:?}").contains(words), "{outcomes:?}");
    }
    // The pattern that the case above relies on.
    assert_eq!(NEVER_MADE, "never-*");
    server.finish();
}

#[tokio::test]
async fn an_api_key_works_as_it_is_pasted_and_within_its_rights() {
    let server = server().await;
    let (key, id) = server.api_key("keyed-*").await.expect("makes a key");
    let with = |key: &str| json!({"auth_type": "apikey", "api_key": key, "username": null, "password": null});
    for pasted in [key.clone(), format!(" {key} ")] {
        let sink = open(&server, "keyed-${topic[0]}", &with(&pasted)).await;
        assert_eq!(deliver(&*sink, &[record(1, "{\"n\":1}")]).await, [Outcome::Delivered], "{pasted:?}");
    }
    assert_eq!(server.count("keyed-plant").await.expect("counts"), 1);
    let sink = open(&server, "other", &with(&key)).await;
    assert_eq!(kind(&deliver(&*sink, &[record(1, "{\"n\":1}")]).await[0]), TargetFaultKind::Permission);
    let sink = open(&server, "keyed-a", &with(&key)).await;
    server.revoke(&id).await.expect("revokes it");
    for sink in [sink, open(&server, "keyed-a", &with("AAAA")).await] {
        let outcomes = deliver(&*sink, &[record(1, "{\"n\":1}")]).await;
        assert_eq!(kind(&outcomes[0]), TargetFaultKind::Auth, "{outcomes:?}");
        assert!(!format!("{outcomes:?}").contains(&key), "no secret in a message");
    }
    server.finish();
}

#[tokio::test]
async fn a_poison_record_among_a_thousand_ends_alone_and_costs_no_request() {
    let server = server().await;
    let front = front(&server, "").await;
    let queue = MemoryQueue::with(
        (0..1_000)
            .map(|number| message(number, &json!({"n": if number == 617 { json!("hot") } else { json!(number) }}))),
    );
    // So that the type is known before the poisoned one comes.
    server
        .make_index(
            "poisoned",
            &json!({"mappings": {"properties": {"payload": {"properties": {"n": {"type": "long"}}}}}}),
        )
        .await
        .expect("makes it");
    let task = run(&queue, server.config("poisoned", &json!({"url": front.url(), "batch_records": 250})));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [617]);
    let says = format!("{:?}", queue.ends());
    assert!(says.contains("document_parsing_exception") && says.contains("payload.n] of type [long]"), "{says}");
    assert_eq!(task.report().counters.send_success_total, 999);
    assert_eq!(server.count("poisoned").await.expect("counts"), 999);
    front.passed_are(4).await.expect("one request for each batch");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_document_that_does_not_fit_its_mapping_is_refused_in_the_servers_words() {
    let server = server().await;
    let fields = json!({"long": {"type": "long"}, "date": {"type": "date"}, "word": {"type": "keyword"}});
    let strict = json!({"mappings": {"dynamic": "strict", "properties": {"@timestamp": {"type": "date"}, "a": {"type": "long"}}}});
    server.make_index("strict", &strict).await.expect("makes it");
    let few = json!({"settings": {"index.mapping.total_fields.limit": 4}});
    server.make_index("few", &few).await.expect("makes it");
    server.make_index("typed", &json!({"mappings": {"properties": fields}})).await.expect("makes it");
    let long = format!("{{\"word\":\"{}\"}}", "x".repeat(33_000));
    for (index, payload, class, words) in [
        ("typed", "{\"long\":\"warm\"}", "document_parsing_exception", "field [long] of type [long]"),
        ("typed", "{\"long\":{\"a\":1}}", "document_parsing_exception", "Cannot parse object as number"),
        ("typed", "{\"date\":\"soon\"}", "document_parsing_exception", "failed to parse date field [soon]"),
        ("typed", "{\"long\":1,\"long\":2}", "document_parsing_exception", "Duplicate field 'long'"),
        ("typed", "{\"\":1}", "document_parsing_exception", "field name cannot be an empty string"),
        ("typed", "{\"_id\":1}", "document_parsing_exception", "is a metadata field"),
        ("typed", "{\"new\":123456789012345678901234567890}", "document_parsing_exception", "out of range of long"),
        ("typed", &long, "document_parsing_exception", "keyword"),
        ("strict", "{\"b\":1}", "strict_dynamic_mapping_exception", "dynamic introduction of [b]"),
        ("few", "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5}", "document_parsing_exception", "Limit of total fields [4]"),
    ] {
        let sink = open(&server, index, &json!({"payload_format": "raw"})).await;
        // Its neighbours do not suffer.
        let outcomes = deliver(&*sink, &[record(1, "{}"), record(2, payload), record(3, "{}")]).await;
        assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered), "{payload}");
        let Outcome::RecordFault(fault) = &outcomes[1] else { panic!("{payload}: {:?}", outcomes[1]) };
        assert_eq!((&*fault.class, fault.offline), (class, false), "{payload}");
        assert!(fault.message.contains(words) && fault.message.len() < 3_000, "{payload}: {}", fault.message);
    }
    server.finish();
}

#[tokio::test]
async fn what_cannot_be_written_to_waits_alone_until_it_can() {
    let server = server().await;
    let shut = |on: bool| json!({"index.blocks.write": on});
    let flooded = |on: bool| json!({"index.blocks.read_only_allow_delete": on});
    for (name, reason) in [("shut", "TARGET_PERMISSION"), ("flood", "TARGET_FULL"), ("never", "TARGET_MISSING")] {
        let (broken, beside) = (format!("{name}-broken"), format!("{name}-beside"));
        server.make_index(&beside, &json!({})).await.expect("makes it");
        match name {
            "shut" => server.make_index(&broken, &json!({ "settings": shut(true) })).await.expect("makes it"),
            "flood" => server.make_index(&broken, &json!({ "settings": flooded(true) })).await.expect("makes it"),
            _ => {}
        }
        // Every tenth record goes there.
        let queue = MemoryQueue::with((0..200).map(|number| {
            let site = if number % 10 == 0 { "broken" } else { "beside" };
            let user_properties = vec![("site".to_owned(), site.to_owned())];
            Message { user_properties, ..message(number, &json!({ "n": number })) }
        }));
        let config = server.config(&format!("{name}-${{user.site}}"), &json!({"batch_records": 50, "max_retries": 0}));
        let task = run(&queue, config);
        double::until("the others are there and it shows why", || {
            let report = task.report();
            report.counters.send_success_total == 180 && report.health_reason.as_deref() == Some(reason)
        })
        .await;
        match name {
            "shut" => server.call("PUT", &format!("{broken}/_settings"), &shut(false)).await.map(drop),
            "flood" => server.call("PUT", &format!("{broken}/_settings"), &flooded(false)).await.map(drop),
            _ => server.make_index(&broken, &json!({})).await,
        }
        .expect("mends it");
        queue.all_committed().await;
        let counters = task.report().counters;
        assert_eq!((counters.send_success_total, counters.discard_total), (200, 0), "{name}");
        assert_eq!((counters.retry_total % 5, counters.send_fail_total), (0, 20), "those alone are asked again");
        assert_eq!(server.count(&broken).await.expect("counts"), 20);
        numbers(&server, &format!("{name}-*"), 200).await;
    }
    server.finish();
}

#[tokio::test]
async fn what_stands_in_between_is_understood() {
    let server = server().await;
    let lines = "location /busy { add_header Retry-After 7 always; return 503; }
                 location /many { add_header Retry-After 7 always; return 429; }
                 location /login { return 200 'log in first'; }
                 location /empty { return 200 '{\"items\":[]}'; }
                 location /moved { return 302 http://127.0.0.1/; }
                 location /large { return 413; }";
    let front = front(&server, lines).await;
    let later = TargetFaultKind::Throttled { retry_after: Some(Duration::from_secs(7)) };
    for (path, expect) in [
        ("busy", Some(later)),
        // It has said when it is to be asked again.
        ("many", Some(later)),
        ("login", Some(REFUSES)),
        ("empty", Some(REFUSES)),
        ("moved", Some(TargetFaultKind::Misconfigured("TARGET_REDIRECTS"))),
        ("large", None),
    ] {
        let sink = open(&server, "between", &json!({"url": format!("{}/{path}/", front.url())})).await;
        let outcomes = deliver(&*sink, &[record(1, "{}"), record(2, "{}")]).await;
        match expect {
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{path}"),
            None => assert!(matches!(&outcomes[0], Outcome::Unclear(fault) if &*fault.class == "too_large"), "{path}"),
        }
        assert_eq!(outcomes[0], outcomes[1]);
    }
    front.passed_are(6).await.expect("six requests");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_request_is_repeated_as_often_as_is_allowed() {
    let server = server().await;
    // nginx closes the connection without an answer, or has no room and does not say for how long.
    let front = front(&server, "location /lost { return 444; } location /full { return 429; }").await;
    let mut asked = 0;
    for (path, expect) in [("lost", TargetFaultKind::Down), ("full", THROTTLED)] {
        for retries in [0, 2] {
            let more = json!({"url": format!("{}/{path}", front.url()), "max_retries": retries});
            let outcomes = deliver(&*open(&server, "repeated", &more).await, &[record(1, "{}")]).await;
            assert_eq!(kind(&outcomes[0]), expect);
            asked += retries + 1;
            front.passed_are(asked).await.expect("as many requests");
        }
    }
    // An abort ends the pauses in between.
    let more = json!({"url": format!("{}/full", front.url()), "max_retries": 10});
    let sink = open(&server, "repeated", &more).await;
    let records = [record(1, "{}")];
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
        front.passed_are(asked + 1).await.expect("one more request");
        sink.abort();
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    assert!(front.passed().expect("reads the log").len() <= asked + 3, "it went on asking");
    front.finish();
    server.finish();
}
