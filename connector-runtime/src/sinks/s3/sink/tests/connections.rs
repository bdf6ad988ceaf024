//! Where a sink may go, and how it speaks.

use std::collections::BTreeSet;

use ::tests::certificates::Certificates;
use ::tests::front::Passed;

use super::*;

#[tokio::test]
async fn a_denied_network_is_not_reached_by_address_or_name() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    let denied = TargetFaultKind::Misconfigured("TARGET_DENIED");
    let refused = denying.open("objects", "s3", server.config(BUCKET, &json!({}))).await.err().expect("is denied");
    assert_eq!(refused.kind, denied);
    let by_name = json!({"endpoint": format!("http://localhost:{}", server.port())});
    let sink = denying.open("objects", "s3", server.config(BUCKET, &by_name)).await.expect("looked up later");
    assert_eq!(kind(&deliver(&*sink, &records(1)).await[0]), denied);
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0);
    server.finish();
}

#[tokio::test]
async fn a_bucket_may_be_named_as_its_host_begins() {
    let server = server().await;
    server.make_bucket("127").await.expect("makes a bucket");
    let sink = node().open("objects", "s3", server.config("127", &json!({}))).await.expect("opens");
    assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
    assert_eq!(server.objects("127").expect("reads").len(), 1);
    server.finish();
}

#[tokio::test]
async fn tls_is_verified_and_a_server_may_have_another_name() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let certificates = Certificates::make(folder.path(), "DNS:store.example.org", "sluice").expect("makes them");
    let server = server_with(S3Options { certificates: Some(certificates.clone()), ..S3Options::default() }).await;
    let trusted = json!({"ca_cert_path": certificates.ca, "tls_server_name": "store.example.org"});
    for (more, expect) in [
        (trusted, None),
        (json!({"tls_verify": false}), None),
        (json!({"ca_cert_path": certificates.ca}), Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"))),
        (
            json!({"ca_cert_path": certificates.other_ca, "tls_server_name": "store.example.org"}),
            Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE")),
        ),
    ] {
        let outcomes = deliver(&*open(&server, &more).await, &records(1)).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{more}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{more}"),
        }
    }
    server.finish();
}

#[tokio::test]
async fn an_endpoint_is_asked_in_path_style_and_the_connection_is_used_again() {
    let server = server().await;
    let front = front(&server, "client_max_body_size 64m;", None).await;
    let sink = open(&server, &json!({"endpoint": format!("{}/", front.url())})).await;
    for count in 1..4 {
        assert_eq!(deliver(&*sink, &records(count)).await, vec![Outcome::Delivered; records(count).len()]);
    }
    let passed = front.passed_are(4).await.expect("three objects, and a look for unfinished uploads");
    assert_eq!((&*passed[0].method, passed[0].status), ("PUT", 200));
    assert!(passed[0].uri.starts_with(&format!("/{BUCKET}/mqtt/2023-11-14/")), "{}", passed[0].uri);
    assert!(passed[0].authorization.starts_with("AWS4-HMAC-SHA256 Credential=sluice/"), "{}", passed[0].authorization);
    assert!(passed[0].authorization.contains(&format!("/{REGION}/s3/aws4_request")), "{}", passed[0].authorization);
    let asked: Vec<&str> = passed.iter().filter(|one| one.method == "GET").map(|one| &*one.uri).collect();
    assert_eq!(asked, ["/lake?uploads=&max-uploads=1000&prefix=mqtt%2F"]);
    let connections: BTreeSet<u64> = passed.iter().map(|request| request.connection).collect();
    assert!(connections.len() <= 2, "no more than requests at the same time: {connections:?}");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn every_request_with_data_has_a_checksum_unless_the_store_refuses_them() {
    let server = server().await;
    let front = front(&server, "client_max_body_size 64m;", None).await;
    let batch = large(6 << 20);
    for (more, expect) in [(json!({}), true), (json!({"checksum": "none"}), false)] {
        let before = front.passed().expect("reads").len();
        let mut more = more;
        (more["endpoint"], more["part_bytes"]) = (front.url().into(), PART_BYTES.into());
        let sink = open(&server, &more).await;
        assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
        assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; batch.len()]);
        double::until("all are logged", || {
            front.passed().expect("reads")[before..].iter().any(|request| request.uri.contains("?uploadId="))
        })
        .await;
        let passed = front.passed().expect("reads").split_off(before);
        let has = |request: &Passed, header: &str| {
            let signed = request.authorization.split_once("SignedHeaders=").expect("is signed").1;
            signed.split([';', ',']).any(|name| name == header)
        };
        let data: Vec<&Passed> = passed.iter().filter(|request| request.method == "PUT").collect();
        assert_eq!(data.len(), 1 + 2, "an object, and two parts: {passed:?}");
        for request in data {
            assert_eq!(has(request, "x-amz-checksum-crc32c"), expect, "{request:?}");
        }
        let begun = passed.iter().find(|request| request.uri.ends_with("?uploads")).expect("an upload is begun");
        assert_eq!(has(begun, "x-amz-checksum-algorithm"), expect, "{begun:?}");
    }
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_success_of_somebody_else_confirms_nothing() {
    let server = server().await;
    let completing = "set $asked $request_method:$arg_uploadId; if ($asked ~ ^POST:.)";
    for (answers, bytes, words) in [
        ("return 200;".to_owned(), 10, "HTTP 200 OK: an answer without ETag"),
        (
            "return 200 '<html>sign in</html>';".to_owned(),
            10,
            "without ETag, as a store does not give it: <html>sign in",
        ),
        ("return 200;".to_owned(), 12 << 20, ""),
        ("if ($arg_partNumber) { return 200; }".to_owned(), 12 << 20, "without ETag"),
        (format!("{completing} {{ return 200 '<html>'; }}"), 12 << 20, "without CompleteMultipartUploadResult"),
    ] {
        let front = front(&server, &format!("{answers} client_max_body_size 64m;"), None).await;
        let sink = open(&server, &json!({"endpoint": front.url(), "part_bytes": PART_BYTES})).await;
        let batch = large(bytes);
        let outcomes = deliver(&*sink, &batch).await;
        assert_eq!(outcomes.len(), batch.len());
        for outcome in &outcomes {
            assert_eq!(kind(outcome), TargetFaultKind::Down, "{answers}: {outcome:?}");
            assert!(fault(outcome).message.contains(words), "{answers}: {outcome:?}");
        }
        front.finish();
    }
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0);
    server.finish();
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_proxy_that_takes_less_says_so() {
    let server = server().await;
    let elsewhere = front(&server, "location /lake/away/ { return 307 http://127.0.0.1:1/; }", None).await;
    for (root, bytes, expect, words) in [
        ("away", 10, TargetFaultKind::Misconfigured("TARGET_REDIRECTS"), "307"),
        ("small", 2 << 20, TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"), "413"),
    ] {
        let sink = open(&server, &json!({"endpoint": elsewhere.url(), "root": root})).await;
        let outcomes = deliver(&*sink, &large(bytes)).await;
        assert_eq!(kind(&outcomes[0]), expect, "{outcomes:?}");
        assert!(fault(&outcomes[0]).message.contains(words), "{outcomes:?}");
    }
    elsewhere.finish();
    server.finish();
}
