//! What stands in the target, and what is asked of it.

use super::*;

#[tokio::test]
async fn ten_thousand_records_are_there_with_times_values_and_tags() {
    const COUNT: u64 = 10_000;
    let server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| {
        let device = format!("d{}", number % 4);
        message(number, &json!({"metric": "plant.t", "value": number as f64 / 4.0, "site": "north", "device": device}))
    }));
    let started = std::time::Instant::now();
    let task = run(&queue, &server.url(), &json!({"batch_records": 1_000, "request_bytes": 1 << 20}));
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    assert_eq!(task.report().counters.send_success_total, COUNT);
    let series = server.series().await.expect("reads");
    assert_eq!(series.len(), 4);
    for (device, found) in (0..4).zip(&series) {
        let points: Vec<(u64, f64)> = (0..COUNT)
            .filter(|number| number % 4 == device)
            .map(|number| (1_700_000_000_000 + number, number as f64 / 4.0))
            .collect();
        let device = format!("d{device}");
        let expect =
            Series { metric: "plant.t".to_owned(), tags: tags(&[("device", &device), ("site", "north")]), points };
        assert!(*found == expect, "{device}");
    }
    server.finish();
}

#[tokio::test]
async fn fields_are_where_the_configuration_says() {
    let server = server().await;
    let own = json!({"metric_field": "what", "value_field": "how much", "tags_fields": ["who"]});
    let payload = r#"[{"what":"a","how much":"21.5","who":7},{"what":"b","how much":-3,"metric":"c","site":"x"}]"#;
    assert_eq!(deliver(&*open(&server.url(), &own).await, &[record(1, payload)]).await, [Outcome::Delivered]);
    let series = server.series().await.expect("reads");
    let at = 1_700_000_000_001;
    assert_eq!(
        series,
        [
            Series { metric: "a".into(), tags: tags(&[("who", "7")]), points: vec![(at, 21.5)] },
            Series { metric: "b".into(), tags: tags(&[("source", "mqtt")]), points: vec![(at, -3.0)] },
        ]
    );
    server.finish();
}

#[tokio::test]
async fn requests_are_no_larger_than_is_allowed() {
    let server = server().await;
    let front = front(&server).await;
    let records: Vec<Record> = (0..100)
        .map(|number| record(number, format!("{{\"metric\":\"t\",\"value\":{number},\"site\":\"n\"}}")))
        .collect();
    for (bytes, requests) in [(4_096, 2), (1_024, 8), (1 << 20, 1)] {
        let before = front.passed().expect("reads the log").len();
        let sink = open(&front.url(), &json!({"request_bytes": bytes})).await;
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 100]);
        let passed = front.passed_are(before + requests).await.expect("as many requests");
        for request in &passed[before..] {
            assert!(request.bytes <= bytes, "{request:?}");
            assert_eq!((&*request.method, request.status), ("POST", 204));
        }
    }
    assert_eq!(server.series().await.expect("reads")[0].points.len(), 100);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn the_query_says_what_is_asked_for() {
    let server = server().await;
    let front = front(&server).await;
    for (number, (more, query)) in [
        (json!({}), "sync=true&sync_timeout=27000"),
        (json!({"sync": false}), ""),
        (json!({"sync": false, "summary": true}), "summary=true"),
        (json!({"sync": false, "details": true}), "details=true"),
        (
            json!({"summary": true, "details": true, "timeout_secs": 10}),
            "summary=true&details=true&sync=true&sync_timeout=9000",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let sink = open(&front.url(), &more).await;
        assert_eq!(deliver(&*sink, &[record(1, r#"{"metric":"t","value":1}"#)]).await, [Outcome::Delivered], "{more}");
        let passed = front.passed_are(number + 1).await.expect("a request");
        assert_eq!(passed[number].uri.trim_end_matches('?'), format!("/api/put?{query}").trim_end_matches('?'));
    }
    front.finish();
    server.finish();
}

#[tokio::test]
async fn credentials_of_the_server_go_into_a_header() {
    let server = server().await;
    let front = front(&server).await;
    let url = front.url().replace("http://", "http://dev:p%40ss@");
    assert_eq!(
        deliver(&*open(&url, &json!({})).await, &[record(1, r#"{"metric":"t","value":1}"#)]).await,
        [Outcome::Delivered]
    );
    let passed = front.passed_are(1).await.expect("a request");
    assert_eq!(passed[0].authorization, "Basic ZGV2OnBAc3M=");
    assert!(!passed[0].uri.contains("p%40ss"), "{}", passed[0].uri);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn what_is_no_point_is_not_sent_and_its_neighbours_are() {
    let server = server().await;
    let front = front(&server).await;
    let sink = open(&front.url(), &json!({})).await;
    let payloads = [
        r#"{"metric":"t","value":1}"#,
        "off",
        r#"{"metric":"t","value":"hot"}"#,
        r#"{"value":1}"#,
        "\u{fffd}",
        r#"{"metric":"t","value":2}"#,
    ];
    let records: Vec<Record> = (1..).zip(payloads).map(|(number, payload)| record(number, payload)).collect();
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!((&outcomes[0], &outcomes[5]), (&Outcome::Delivered, &Outcome::Delivered));
    for outcome in &outcomes[1..5] {
        assert!(matches!(outcome, Outcome::RecordFault(fault) if fault.offline), "{outcome:?}");
    }
    assert_eq!(deliver(&*sink, &records[1..5]).await.len(), 4);
    front.passed_are(1).await.expect("nothing was left to send");
    assert_eq!(server.series().await.expect("reads")[0].points, [(1_700_000_000_001, 1.0), (1_700_000_000_006, 2.0)]);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn values_that_try_to_leave_their_place_arrive_as_values() {
    let server = server().await;
    let texts = [
        r#"x","value":2},{"metric":"stranger","value":1,"tags":{"a":"b"#,
        "x\r\nput stranger 1700000000 1 a=b\n",
        r#"x{a="b",c=~".*"} C:\temp\"#,
        "x?sync=false&extra_label=a=b#/../stranger",
        "Zürich – 東京 🚀 \u{202e}right to left",
    ];
    // A name with a line break is refused when the connector is made.
    let names: Vec<&str> = texts.into_iter().filter(|text| !text.contains('\n')).collect();
    let sink = open(&server.url(), &json!({"tags_fields": names.iter().chain(&["site"]).collect::<Vec<_>>()})).await;
    let payload = |text: &str| json!({"metric": text, "value": 1, "site": text, text: "named"}).to_string();
    let records: Vec<Record> = (1..).zip(texts).map(|(number, text)| record(number, payload(text))).collect();
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; texts.len()]);
    let series = |(number, text): (u64, &str)| {
        let mut pairs = vec![("site", text)];
        pairs.extend(names.iter().filter(|name| **name == text).map(|name| (*name, "named")));
        pairs.sort_unstable();
        Series { metric: text.into(), tags: tags(&pairs), points: vec![(1_700_000_000_000 + number, 1.0)] }
    };
    let mut expect: Vec<Series> = (1..).zip(texts).map(series).collect();
    expect.sort_by(|a, b| (&a.metric, &a.tags).cmp(&(&b.metric, &b.tags)));
    assert_eq!(server.series().await.expect("reads"), expect);
    server.finish();
}
