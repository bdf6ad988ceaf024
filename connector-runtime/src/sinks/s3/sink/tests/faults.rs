//! A target that cannot take anything, in its own words.

use ::tests::s3::{STRANGER, STRANGERS_SECRET};

use super::*;

#[tokio::test]
async fn every_refusal_of_the_target_is_told_by_its_kind_and_words() {
    let server = server().await;
    for (more, expect, words) in [
        (json!({"bucket": "nobodys"}), TargetFaultKind::Missing, "NoSuchBucket: The specified bucket does not exist"),
        (json!({"secret_access_key": "wrong"}), TargetFaultKind::Auth, "SignatureDoesNotMatch"),
        (json!({"access_key_id": "nobody"}), TargetFaultKind::Auth, "403 Forbidden: InvalidAccessKeyId"),
        (json!({"session_token": "not-a-token"}), TargetFaultKind::Auth, "InvalidToken"),
        (
            json!({"access_key_id": STRANGER, "secret_access_key": STRANGERS_SECRET}),
            TargetFaultKind::Permission,
            "AccessDenied",
        ),
        (
            json!({"region": "eu-west-9"}),
            TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"),
            "AuthorizationHeaderMalformed",
        ),
        (json!({"endpoint": "http://127.0.0.1:1"}), TargetFaultKind::Down, "refused"),
    ] {
        for records in [records(2), large(6 << 20)] {
            let mut more = more.clone();
            more["part_bytes"] = PART_BYTES.into();
            let outcomes = deliver(&*open(&server, &more).await, &records).await;
            assert_eq!(outcomes.len(), records.len());
            for outcome in &outcomes {
                assert_eq!(kind(outcome), expect, "{more} {outcome:?}");
                assert!(fault(outcome).message.contains(words), "{more} {outcome:?}");
                assert!(!fault(outcome).message.contains("StringToSign"), "{outcome:?}");
            }
        }
    }
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0);
    server.finish();
}

#[tokio::test]
async fn a_connector_goes_on_by_itself_when_its_bucket_and_its_right_are_back() {
    let server = server().await;
    let queue = numbered(100);
    server.take_away(BUCKET).expect("takes it away");
    let task = run(&queue, server.config(BUCKET, &json!({"batch_records": 50})));
    let reason =
        |expect: &'static str| double::until(expect, || task.report().health_reason.as_deref() == Some(expect));
    reason("TARGET_MISSING").await;
    server.bring_back(BUCKET).expect("brings it back");
    queue.all_committed().await;
    server.set_readonly(BUCKET, true).await.expect("takes the right");
    queue.append((100..200).map(|number| message(number, format!("{{\"n\":{number}}}"))));
    reason("TARGET_PERMISSION").await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("explicit deny")));
    server.set_readonly(BUCKET, false).await.expect("gives it back");
    queue.all_committed().await;
    all_are_there_once(&server, 200);
    assert_eq!(task.report().counters.discard_total, 0);
    server.finish();
}

#[tokio::test]
async fn a_target_that_wants_less_is_asked_more_slowly_and_gets_everything() {
    let server = server_with(S3Options { requests_max: Some(1), ..S3Options::default() }).await;
    // It holds the one request that there may be.
    let busy = server.slow_upload(BUCKET, 64 << 20, 1 << 20).await.expect("begins");
    let sink = open(&server, &json!({})).await;
    let throttled = TargetFaultKind::Throttled { retry_after: None };
    let began = std::time::Instant::now();
    // Until the other request has reached it.
    let outcome = loop {
        let outcome = deliver(&*sink, &records(1)).await.remove(0);
        if outcome != Outcome::Delivered {
            break outcome;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it is never busy");
    };
    assert_eq!(kind(&outcome), throttled, "{outcome:?}");
    assert!(fault(&outcome).message.contains("SlowDown: Please reduce your request rate"), "{outcome:?}");
    let queue = numbered(2_000);
    let task = run(&queue, server.config(BUCKET, &json!({"batch_records": 100, "root": "all"})));
    double::until("it is told", || task.report().health_reason.as_deref() == Some("TARGET_THROTTLED")).await;
    drop(busy);
    queue.all_committed().await;
    let numbers: usize = server
        .objects(BUCKET)
        .expect("reads")
        .iter()
        .filter(|(key, _)| key.starts_with("all/"))
        .map(|(_, bytes)| array(bytes).len())
        .sum();
    assert_eq!((numbers, task.report().counters.discard_total), (2_000, 0));
    server.finish();
}

#[tokio::test]
async fn minio_has_the_same_words_for_an_unknown_key_and_a_missing_bucket() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    let config = minio.config(BUCKET, &json!({"access_key_id": "nobody"}));
    let sink = node().open("objects", "s3", config).await.expect("opens");
    let outcomes = deliver(&*sink, &records(1)).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Auth, "{outcomes:?}");
    assert!(fault(&outcomes[0]).message.contains("HTTP 403 Forbidden: InvalidAccessKeyId"), "{outcomes:?}");
    let sink = node().open("objects", "s3", minio.config(BUCKET, &json!({}))).await.expect("opens");
    assert_eq!(kind(&deliver(&*sink, &records(1)).await[0]), TargetFaultKind::Missing);
    minio.finish();
}
