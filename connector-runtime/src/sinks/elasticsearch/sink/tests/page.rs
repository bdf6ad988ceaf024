//! docs/connectors/elasticsearch.md, as somebody follows it.

use super::*;

/// What stands between these lines, each time.
fn blocks<'p>(page: &'p str, fence: &str) -> Vec<&'p str> {
    page.split(&format!("```{fence}\n")).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[tokio::test]
async fn the_example_of_the_page_works_with_the_key_and_the_template_of_the_page() {
    let server = narrow_server().await;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/connectors/elasticsearch.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let mut key = Value::Null;
    let calls = blocks(&page, "console");
    assert_eq!(calls.len(), 2);
    for call in calls {
        let (line, body) = call.split_once('\n').expect("a body");
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let answer =
            server.call(method, path, &serde_json::from_str(body).expect("is JSON")).await.expect("is accepted");
        key = if answer["encoded"].is_string() { answer["encoded"].clone() } else { key };
    }
    let example: Value = serde_json::from_str(blocks(&page, "json")[0]).expect("is JSON");
    let mut config = example["config"].clone();
    assert_eq!(config["api_key"], "${env:SLUICE_SECRET_ELASTIC}");
    config["api_key"] = key;
    config["url"] = server.url().into();
    config["ca_cert_path"] = json!(server.certificates().expect("speaks TLS").ca);
    let queue = MemoryQueue::with((0..100).map(|number| {
        let value = if number == 0 { json!(21) } else { json!(number as f64 + 0.5) };
        Message { topic: "Sensor/kitchen".to_owned(), ..message(number, &json!({ "t": value })) }
    }));
    run(&queue, config);
    queue.all_committed().await;
    let index = "mqtt-sensor-2023.11";
    let hits = server.hits(index, 1_000).await.expect("reads");
    assert_eq!(hits.len(), 100);
    let mapping = server.call("GET", &format!("{index}/_mapping"), &Value::Null).await.expect("reads");
    let properties = &mapping[index]["mappings"]["properties"];
    // Though 21 came first.
    assert_eq!(properties["payload"]["properties"]["t"]["type"], "double");
    assert_eq!((&properties["topic"]["type"], &properties["@timestamp"]["type"]), (&json!("keyword"), &json!("date")));
    // As the page shows a document.
    let begins = "{\"@timestamp\":\"2023-11-14T22:13:20.123Z\",\"id\":\"1-";
    assert!(hits.iter().all(|hit| hit.text().starts_with(begins)), "{}", hits[0].text());
    server.finish();
}
