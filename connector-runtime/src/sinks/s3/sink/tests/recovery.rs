//! A target that goes and comes, and uploads that were left behind.

use std::time::Instant;

use ::tests::ports;
use rustix::process::Signal;

use super::*;

const COUNT: u64 = 20_000;

#[tokio::test]
async fn a_server_that_is_paused_and_then_killed_in_the_middle_has_everything_once() {
    let mut server = server().await;
    let queue = numbered(COUNT);
    let more = json!({"batch_records": 100, "timeout_secs": 2, "max_records_per_second": 8_000});
    let task = run(&queue, server.config(BUCKET, &more));
    let missed = || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE");
    double::until("it is in the middle", || queue.position() > 20_000).await;
    server.signal(Signal::STOP).expect("pauses");
    double::until("the target is missed", missed).await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("no answer within 2000 ms")));
    server.signal(Signal::CONT).expect("continues");
    let before = queue.position();
    double::until("it goes on", || queue.position() > before + 10_000).await;
    server.kill().expect("kills");
    double::until("the target is missed again", missed).await;
    let at = queue.position() / 10;
    assert!((2_000..COUNT).contains(&at), "killed at {at} of {COUNT}");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    all_are_there_once(&server, COUNT);
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    server.finish();
}

/// In parts of 5 MiB.
fn in_parts() -> Value {
    json!({"part_bytes": PART_BYTES, "timeout_secs": 30})
}

/// Ends it as a crash would: in the middle of an upload.
async fn leave_unfinished(server: &S3, records: &[Record]) {
    let sink = open(server, &in_parts()).await;
    let before = server.unfinished(BUCKET).expect("counts");
    tokio::select! {
        outcomes = deliver(&*sink, records) => panic!("was too fast: {outcomes:?}"),
        () = double::until("an upload is begun", || server.unfinished(BUCKET).expect("counts") > before) => {}
    }
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_removed_and_the_uploads_of_others_stay() {
    let server = server().await;
    let batch = large(40 << 20);
    leave_unfinished(&server, &batch).await;
    leave_unfinished(&server, &batch).await;
    let strangers = ["mqtt/2023-11-14/backup.bin", "mqtt/other/2023-11-14/x", "elsewhere/x"];
    for key in strangers {
        server.begin_upload(BUCKET, key).await.expect("begins");
    }
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 5);
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0, "nothing incomplete is an object");
    // The next owner gets the same batch.
    let sink = open(&server, &in_parts()).await;
    assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; batch.len()]);
    assert_eq!(server.unfinished(BUCKET).expect("counts"), strangers.len());
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 1);
    // It has looked once, and looks again only after an upload of its own has failed.
    assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
    assert_eq!(server.count("ListMultipartUploads").expect("counts"), 1);
    server.finish();
}

#[tokio::test]
async fn an_upload_that_nobody_could_be_told_of_is_looked_for_later() {
    let mut server = server().await;
    let batch = large(40 << 20);
    let sink = open(&server, &in_parts()).await;
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &batch), async {
        double::until("an upload is begun", || server.unfinished(BUCKET).expect("counts") > 0).await;
        server.signal(Signal::KILL).expect("kills");
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down, "{:?}", outcomes[0]);
    server.kill().expect("is dead");
    server.start_again().await.expect("starts again");
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 1, "nobody could be told");
    assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; batch.len()]);
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn an_upload_of_which_a_part_is_refused_is_taken_back() {
    let server = server().await;
    let batch = large(20 << 20);
    let refusing = "if ($arg_partNumber = 3) { return 403; } client_max_body_size 64m;";
    let front = front(&server, refusing, None).await;
    let mut more = in_parts();
    more["endpoint"] = front.url().into();
    let outcomes = deliver(&*open(&server, &more).await, &batch).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Permission, "{:?}", outcomes[0]);
    assert_eq!(server.count("UploadPart").expect("counts"), 2);
    assert_eq!(server.count("AbortMultipartUpload").expect("counts"), 1);
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 0);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn minio_takes_parts_as_well() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    minio.make_bucket(BUCKET).await.expect("makes a bucket");
    let batch = large(12 << 20);
    for compression in ["none", "zstd"] {
        let more = json!({"part_bytes": PART_BYTES, "compression": compression});
        let sink = node().open("objects", "s3", minio.config(BUCKET, &more)).await.expect("opens");
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; batch.len()], "{compression}");
        }
    }
    let keys = minio.keys(BUCKET).await.expect("lists");
    assert_eq!(keys.len(), 2, "{keys:?}");
    let plain = keys.iter().find(|key| key.ends_with(".json")).expect("is there");
    assert_eq!(array(minio.object(BUCKET, plain).await.expect("reads").as_bytes()).len(), batch.len());
    assert_eq!(minio.unfinished(BUCKET, plain).await.expect("counts"), 0);
    minio.finish();
}

#[tokio::test]
async fn a_slow_server_is_given_up_and_an_abort_is_at_once_and_for_good() {
    let server = server().await;
    let sink = open(&server, &json!({"timeout_secs": 300})).await;
    assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
    let impatient = open(&server, &json!({"timeout_secs": 1})).await;
    let batch = records(2);
    server.signal(Signal::STOP).expect("pauses");
    let started = Instant::now();
    assert_eq!(kind(&deliver(&*impatient, &batch).await[0]), TargetFaultKind::Down);
    let took = started.elapsed();
    assert!((1_000..10_000).contains(&took.as_millis()), "given up once: {took:?}");
    let (aborted_at, (outcomes, ended)) = tokio::join!(
        async {
            double::until("the request waits at the server", || ports::holds_unread(server.port())).await;
            let aborted = Instant::now();
            sink.abort();
            aborted
        },
        async { (deliver(&*sink, &batch).await, Instant::now()) }
    );
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    println!("measured: aborted after {:?}", ended - aborted_at);
    assert!(ended - aborted_at < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted_at);
    server.signal(Signal::CONT).expect("continues");
    let before = server.answered().expect("reads").len();
    assert_eq!(kind(&deliver(&*sink, &records(3)).await[0]), TargetFaultKind::Interrupted, "it stays aborted");
    let other = open(&server, &json!({})).await;
    assert_eq!(deliver(&*other, &records(4)).await, vec![Outcome::Delivered; 4]);
    assert!(server.answered().expect("reads").len() > before);
    let keys: Vec<String> = server.objects(BUCKET).expect("reads").into_keys().collect();
    assert!(!keys.iter().any(|key| key.ends_with("-1-7-2.json")), "sent after the abort: {keys:?}");
    server.finish();
}
