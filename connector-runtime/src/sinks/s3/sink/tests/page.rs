//! docs/connectors/s3.md, as somebody follows it.

use ::tests::s3::SECRET;

use super::*;

#[tokio::test]
async fn the_example_of_the_page_works_and_makes_the_object_of_the_page() {
    let server = server().await;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/connectors/s3.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let block = |fence: &str| {
        let (_, rest) = page.split_once(&format!("```{fence}\n")).expect("a block");
        rest.split_once("```").expect("its end").0
    };
    let example: Value = serde_json::from_str(block("json")).expect("is JSON");
    let mut config = example["config"].clone();
    // AWS, and what is found on the node, are not to be had here.
    let own = server.config(BUCKET, &json!({"secret_access_key": SECRET}));
    for field in ["bucket", "endpoint", "access_key_id", "secret_access_key", "linger_ms"] {
        config[field] = own[field].clone();
    }
    let queue = numbered(3);
    run(&queue, config);
    queue.all_committed().await;
    let objects = server.objects(BUCKET).expect("reads");
    let (key, bytes) = only(&objects);
    let form = block("text").trim();
    let pieces = [
        ("{root}/", ""),
        ("{object_key_prefix}", "mqtt"),
        ("{UTC date of the first record}", "2023-11-14"),
        ("{cluster}", "00000000000000000000000000000007"),
        ("{first id}", "1-7-0"),
        ("{last id}", "1-7-20"),
        ("{file_extension}", "json"),
    ];
    let expect = pieces.iter().fold(form.to_owned(), |key, (name, value)| key.replace(name, value));
    assert_eq!(key, expect);
    let shown = block("jsonc").trim();
    let begins: Vec<&str> = shown.split("…").collect();
    assert!(String::from_utf8_lossy(bytes).starts_with(begins[0]), "{}", String::from_utf8_lossy(bytes));
    server.finish();
}
