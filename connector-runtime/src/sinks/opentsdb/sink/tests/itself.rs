//! OpenTSDB says which points it refuses, and loses what HBase does not have. One server for all of it: it takes half a
//! minute to start.

use ::tests::opentsdb::OpenTsdb;

use super::*;

#[tokio::test]
async fn opentsdb_takes_what_it_can_store_and_names_what_it_refuses() {
    let mut server = OpenTsdb::start().await.expect("OpenTSDB starts");
    the_example_of_the_page_works(&server).await;
    everything_is_there(&server).await;
    refused_points_end_alone(&server).await;
    a_record_of_many_requests_with_a_refused_point_ends(&server).await;
    a_request_is_cut_to_what_it_reads(&server).await;
    nothing_is_lost_when_hbase_is_killed(&mut server).await;
    server.finish();
}

/// With the payload that stands below it.
async fn the_example_of_the_page_works(server: &OpenTsdb) {
    let page = include_str!("../../../../../../docs/connectors/opentsdb.md");
    let block = |heading: &str| {
        let (_, section) = page.split_once(&format!("## {heading}\n")).expect("a section");
        let (_, block) = section.split_once("```json\n").expect("an example");
        let (block, _) = block.split_once("```").expect("its end");
        serde_json::from_str::<Value>(block).expect("is JSON")
    };
    let mut config = block("Example")["config"].clone();
    assert_eq!(config["server"], "http://localhost:4242");
    config["server"] = json!(server.url());
    let sink = node().open("points", "opentsdb", config).await.expect("opens");
    let outcomes = deliver(&*sink, &[record(1, block("What is written").to_string())]).await;
    assert_eq!(outcomes, [Outcome::Delivered]);
    let series = server.series_of(0).await.expect("reads");
    let tags = tags(&[("room", "kitchen"), ("site", "north")]);
    let points = vec![(1_700_000_000_001, 21.5)];
    assert_eq!(series, [Series { metric: "sensor.celsius".into(), tags, points }]);
}

async fn everything_is_there(server: &OpenTsdb) {
    const COUNT: u64 = 2_000;
    let queue = MemoryQueue::with(
        (0..COUNT)
            .map(|number| message(number, &json!({"metric": "all.t", "value": number as f64 / 4.0, "site": "north"}))),
    );
    let started = std::time::Instant::now();
    let task = run(&queue, &server.url(), &json!({}));
    queue.all_committed().await;
    println!("measured: {COUNT} records, each stored by HBase, in {:?}", started.elapsed());
    assert_eq!(task.report().counters.send_success_total, COUNT);
    let expect: Vec<(u64, f64)> = (0..COUNT).map(|number| (1_700_000_000_000 + number, number as f64 / 4.0)).collect();
    assert!(server.points("all.t", "site", "north").await.expect("reads") == expect);
    // The digits go through as they came, and so do letters of any alphabet.
    let exact = r#"[{"metric":"exact","value":"9007199254740993","site":"Küche"},{"metric":"exact","value":1e-3}]"#;
    assert_eq!(deliver(&*open(&server.url(), &json!({})).await, &[record(1, exact)]).await, [Outcome::Delivered]);
    let points = server.points("exact", "source", "mqtt").await.expect("reads");
    assert_eq!(points, [(1_700_000_000_001, 0.001)]);
}

async fn refused_points_end_alone(server: &OpenTsdb) {
    for more in [json!({"details": true}), json!({"summary": true}), json!({})] {
        let metric = format!("poison.{}{}", more["details"] == true, more["summary"] == true);
        let queue = MemoryQueue::with((0..200).map(|number| {
            let site = if number == 117 { "no spaces" } else { "north" };
            message(number, &json!({"metric": metric, "value": number, "site": site}))
        }));
        let mut config = more.clone();
        // Only what is named is to be known at once: halves are asked one after the other.
        config["sync"] = json!(false);
        let task = run(&queue, &server.url(), &config);
        queue.all_committed().await;
        assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [117], "{more}");
        assert_eq!(task.report().counters.send_success_total, 199);
        if more["details"] == true {
            assert!(format!("{:?}", queue.ends()).contains("illegal character"), "{:?}", queue.ends());
        }
    }
    // A record is delivered when all of its points are.
    let sink = open(&server.url(), &json!({"details": true})).await;
    let records = [
        record(1, r#"[{"metric":"both","value":1},{"metric":"both too","value":2}]"#),
        record(2, r#"[{"metric":"both","value":3}]"#),
    ];
    let outcomes = deliver(&*sink, &records).await;
    assert!(matches!(&outcomes[0], Outcome::RecordFault(fault) if fault.message.contains("both too")), "{outcomes:?}");
    assert!(matches!(&outcomes[1], Outcome::Unclear(_)), "{outcomes:?}");
    assert_eq!(deliver(&*sink, &records[1..]).await, [Outcome::Delivered]);
}

/// Its other requests are held back by its own refused point, and that is its own fault.
async fn a_record_of_many_requests_with_a_refused_point_ends(server: &OpenTsdb) {
    let mut points = vec![json!({"metric": "many", "value": 0, "site": "no spaces"})];
    points.extend((1..600).map(|value| json!({"metric": "many", "value": value, "site": "north"})));
    let after = message(1, &json!({"metric": "many", "value": 1, "site": "south"}));
    let queue = MemoryQueue::with([message(0, &Value::Array(points)), after]);
    let task = run(&queue, &server.url(), &json!({"request_bytes": 1_024}));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [0]);
    assert_eq!(task.report().counters.send_success_total, 1);
}

async fn a_request_is_cut_to_what_it_reads(server: &OpenTsdb) {
    let records: Vec<Record> =
        (0..200).map(|number| record(number, format!(r#"{{"metric":"cut","value":{number}}}"#))).collect();
    let sink = open(&server.url(), &json!({})).await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 200]);
    // Above 8 KiB its HTTP server wants to read in parts, and is not allowed to.
    let sink = open(&server.url(), &json!({"request_bytes": 1 << 20})).await;
    let outcomes = deliver(&*sink, &records).await;
    let too_large = |outcome: &Outcome| matches!(outcome, Outcome::Unclear(fault) if &*fault.class == "too_large");
    assert!(outcomes.iter().all(too_large), "{outcomes:?}");
}

async fn nothing_is_lost_when_hbase_is_killed(server: &mut OpenTsdb) {
    let queue = MemoryQueue::with(
        (0..300).map(|number| message(number, &json!({"metric": "killed", "value": number, "site": "north"}))),
    );
    let task =
        run(&queue, &server.url(), &json!({"batch_records": 50, "timeout_secs": 5, "max_records_per_second": 100}));
    double::until("it is in the middle", || queue.position() >= 500).await;
    server.kill_hbase().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    assert!(queue.position() < 3_000, "{}", queue.position());
    // The TSD had points in memory, and goes away with them.
    server.kill().expect("kills");
    server.start_hbase_again().await.expect("starts again");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    assert_eq!((task.report().counters.send_success_total, queue.ends().len()), (300, 0));
    let expect: Vec<(u64, f64)> = (0..300).map(|number| (1_700_000_000_000 + number, number as f64)).collect();
    assert!(server.points("killed", "site", "north").await.expect("reads") == expect);
}
