//! A target that goes and comes, and uploads that were left behind.

use std::time::Instant;

use ::tests::s3::Answered;
use ::tests::{ports, wait};
use api_types::ClusterId;
use rustix::process::Signal;

use super::held::Held;
use super::*;
use crate::sinks::s3::cleanup::Bounds;
use crate::sinks::s3::open_objects::OpenObjects;

const LIMIT: Duration = Duration::from_secs(60);
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

/// To a server whose parts are held back.
fn in_parts_to(held: &Held) -> Value {
    let mut more = in_parts();
    more["endpoint"] = held.url().into();
    more
}

/// In the middle of an upload, as a crash would: no part of it comes to the server, where it could be on its way when the
/// upload is removed.
async fn give_up(held: &Held, sink: &dyn Sink, records: &[Record]) {
    tokio::select! {
        outcomes = deliver(sink, records) => panic!("its parts are held back: {outcomes:?}"),
        () = held.holds(1) => {}
    }
    held.holds(0).await;
}

/// Nobody waits for what is removed.
async fn only_these_are_unfinished(server: &S3, expect: usize) {
    double::until("the others are removed", || server.unfinished(BUCKET).expect("counts") == expect).await;
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_removed_and_the_uploads_of_others_stay() {
    let server = server().await;
    let batch = large(12 << 20);
    let held = Held::before(&server.url()).await;
    for _ in 0..2 {
        give_up(&held, &*open(&server, &in_parts_to(&held)).await, &batch).await;
    }
    let strangers = ["mqtt/2023-11-14/backup.bin", "mqtt/other/2023-11-14/x", "elsewhere/x"];
    for key in strangers {
        server.begin_upload(BUCKET, key).await.expect("begins");
    }
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 5);
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 0, "nothing incomplete is an object");
    // The next owner gets the same batch.
    let sink = open_at(&node(), &server.config(BUCKET, &in_parts())).await;
    assert_eq!(deliver(&sink, &batch).await, vec![Outcome::Delivered; batch.len()]);
    assert!(has_looked(&sink).await);
    assert_eq!(server.unfinished(BUCKET).expect("counts"), strangers.len());
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 1);
    // Below the prefix, and for the key that an earlier sink may have begun; then it leaves the store alone.
    double::until("it has looked twice", || server.count("ListMultipartUploads").expect("counts") == 2).await;
    for count in 1..4 {
        assert_eq!(deliver(&sink, &records(count)).await, vec![Outcome::Delivered; records(count).len()]);
        assert!(!has_looked(&sink).await, "after {count} more");
    }
    assert_eq!(server.unfinished(BUCKET).expect("counts"), strangers.len());
    held.finish();
    server.finish();
}

#[tokio::test]
async fn an_upload_that_nobody_could_be_told_of_is_looked_for_later() {
    let mut server = server().await;
    let batch = large(12 << 20);
    let held = Held::before(&server.url()).await;
    let sink = open(&server, &in_parts_to(&held)).await;
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &batch), async {
        held.holds(1).await;
        server.kill().expect("kills");
        held.let_go();
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down, "{:?}", outcomes[0]);
    server.start_again().await.expect("starts again");
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 1, "nobody could be told");
    assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; batch.len()]);
    only_these_are_unfinished(&server, 0).await;
    held.finish();
    server.finish();
}

#[tokio::test]
async fn an_upload_that_was_given_up_half_way_is_removed_by_the_same_sink() {
    let server = server().await;
    let held = Held::before(&server.url()).await;
    let sink = open_at(&node(), &server.config(BUCKET, &in_parts_to(&held))).await;
    assert_eq!(deliver(&sink, &records(1)).await, [Outcome::Delivered]);
    assert!(has_looked(&sink).await);
    for lost in 1..3 {
        give_up(&held, &sink, &large(12 << 20)).await;
        assert_eq!(server.unfinished(BUCKET).expect("counts"), 1, "the {lost}. one was given up, and nobody told");
        assert_eq!(deliver(&sink, &records(1 + lost)).await, vec![Outcome::Delivered; records(1 + lost).len()]);
        assert!(has_looked(&sink).await);
        assert_eq!(server.unfinished(BUCKET).expect("counts"), 0);
    }
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 3);
    drop(sink);
    held.finish();
    server.finish();
}

#[tokio::test]
async fn what_a_replaced_sink_still_writes_is_left_to_it() {
    let server = server().await;
    let (node, held) = (node(), Held::before(&server.url()).await);
    let config = server.config(BUCKET, &in_parts_to(&held));
    let (replaced, next) = (open_at(&node, &config).await, open_at(&node, &config).await);
    let batch = large(12 << 20);
    let mut writing = Box::pin(deliver(&replaced, &batch));
    tokio::select! {
        outcomes = &mut writing => panic!("its parts are held back: {outcomes:?}"),
        () = held.holds(1) => {}
    }
    assert_eq!(deliver(&next, &records(1)).await, [Outcome::Delivered]);
    assert!(has_looked(&next).await);
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 1, "the replaced one still writes it");
    held.let_go();
    assert_eq!(writing.await, vec![Outcome::Delivered; batch.len()]);
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 2);
    held.finish();
    server.finish();
}

#[tokio::test]
async fn no_object_waits_for_what_is_looked_for_beside_it() {
    let server = server().await;
    // Takes connections and answers nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let silent_at = silent.local_addr().expect("has an address");
    let held = format!(
        "if ($args ~ ^uploads=) {{ rewrite ^ /held last; }} location = /held {{ proxy_pass http://{silent_at}; }}"
    );
    let front = front(&server, &held, None).await;
    let sink = open(&server, &json!({"endpoint": front.url(), "max_open_objects": 1, "timeout_secs": 300})).await;
    let started = Instant::now();
    for count in 1..4 {
        assert_eq!(deliver(&*sink, &records(count)).await, vec![Outcome::Delivered; records(count).len()]);
    }
    silent.set_nonblocking(true).expect("is set");
    double::until("it is asked for unfinished uploads", || silent.accept().is_ok()).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 3);
    drop(sink);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_store_that_does_not_tell_is_not_asked_for_ever() {
    let server = server().await;
    for (status, is_asked_again) in [(403, false), (503, true)] {
        let refusing = format!(
            "if ($args ~ ^uploads=) {{ return {status}; }} if ($arg_partNumber = 2) {{ return 500; }} \
             client_max_body_size 64m;"
        );
        let front = front(&server, &refusing, None).await;
        let mut more = in_parts();
        more["endpoint"] = front.url().into();
        let sink = open_at(&node(), &server.config(BUCKET, &more)).await;
        let delivered_and_looked = async |count| {
            assert_eq!(deliver(&sink, &records(count)).await, vec![Outcome::Delivered; records(count).len()]);
            has_looked(&sink).await
        };
        assert!(delivered_and_looked(1).await);
        for count in 2..5 {
            assert!(!delivered_and_looked(count).await, "{status}: not after every object");
        }
        let outcomes = deliver(&sink, &large(20 << 20)).await;
        assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down, "{:?}", outcomes[0]);
        assert!(!delivered_and_looked(5).await, "{status}: nor at once after an upload that failed");
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(1)).await;
        tokio::time::resume();
        assert_eq!(delivered_and_looked(6).await, is_asked_again, "{status}: a minute later");
        let asked = || front.passed().expect("reads").iter().filter(|request| request.method == "GET").count();
        double::until("all are logged", || asked() == 1 + usize::from(is_asked_again)).await;
        front.finish();
    }
    server.finish();
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page_and_goes_on_where_the_last_round_ended() {
    let server = server().await;
    let node = node();
    let context = node.context();
    let config = Config::with(&server.config(BUCKET, &json!({})));
    let keys = Arc::new(Keys::new(&config, context.cluster, Incarnation(7)).expect("can be made"));
    let store = Arc::new(Store::open(&config, context).await.expect("opens"));
    let own: Vec<String> = (0..9).map(|number| keys.of(&record(number, ""), &record(number, ""))).collect();
    let strangers = ["mqtt/2023-11-13/first", "mqtt/2023-11-14/in-between", "mqtt/2023-11-15/last"];
    for key in own.iter().map(String::as_str).chain(strangers) {
        server.begin_upload(BUCKET, key).await.expect("begins");
    }
    let open = OpenObjects::default();
    let bounded = |bounds| Cleanup::new(Arc::clone(&store), Arc::clone(&keys), open.clone(), false).within(bounds);
    let left = || server.unfinished(BUCKET).expect("counts");
    let pages = || server.count("ListMultipartUploads").expect("counts");
    let cleanup = bounded(Bounds { uploads: 2, pages: 3, removed: 100 });
    let writing = open.open(&own[8]);
    assert!(cleanup.is_due() && left() == 12);
    // A page has a stranger and one to remove; at last the stranger and the one that is being written; and what is behind.
    for expect in [9, 6, 4, 4] {
        cleanup.round().await;
        assert_eq!(left(), expect);
        assert!(!cleanup.is_due(), "a round that does not come to its end is followed by a pause");
    }
    assert_eq!(
        pages(),
        3 + 3 + 3 + (1 + 2),
        "the last round goes on where the one before has ended, and looks once more"
    );
    drop(writing);
    cleanup.round().await;
    assert_eq!((pages(), left()), (12, 4), "it has looked at everything");
    for key in &own[..3] {
        server.begin_upload(BUCKET, key).await.expect("begins");
    }
    let next = bounded(Bounds { uploads: 1_000, pages: 50, removed: 2 });
    for expect in [5, 3] {
        next.round().await;
        assert_eq!(left(), expect);
    }
    let begun: Vec<Answered> = server.answered().expect("reads");
    assert!(begun.iter().all(|one| one.status < 300), "{begun:?}");
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

/// It lists no uploads below a prefix.
#[tokio::test]
async fn minio_is_cleaned_of_what_a_crash_left_and_of_what_was_given_up() {
    let Some(minio) = Minio::start().await.expect("MinIO starts") else { return };
    minio.make_bucket(BUCKET).await.expect("makes a bucket");
    let held = Held::before(&minio.url()).await;
    let config = minio.config(BUCKET, &in_parts_to(&held));
    let batch = large(12 << 20);
    let key = &format!("mqtt/2023-11-14/{}-1-7-0-1-7-{}.json", ClusterId(7), batch.len() - 1);
    let unfinished = async || minio.unfinished(BUCKET, key).await.expect("counts");
    let are_left = async |expect: usize| {
        let counts = wait::until(LIMIT, "as many are unfinished", async || {
            let left = unfinished().await;
            anyhow::ensure!(left == expect, "{left} instead of {expect}");
            Ok(())
        });
        counts.await.expect("are as many");
    };
    let open = async |config: &Value| node().open("objects", "s3", config.clone()).await.expect("opens");
    give_up(&held, &*open(&config).await, &batch).await;
    let sink = open(&config).await;
    give_up(&held, &*sink, &batch).await;
    assert_eq!(unfinished().await, 2, "of a crash, and of a call that was dropped");
    held.let_go();
    assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; batch.len()]);
    are_left(0).await;
    let held_anew = Held::before(&minio.url()).await;
    let anew = minio.config(BUCKET, &in_parts_to(&held_anew));
    give_up(&held_anew, &*open(&anew).await, &batch).await;
    assert_eq!(deliver(&*open(&config).await, &batch).await.len(), batch.len());
    // A sink that is gone looks no more: the next one does.
    let next = open(&config).await;
    assert_eq!(deliver(&*next, &batch).await, vec![Outcome::Delivered; batch.len()]);
    are_left(0).await;
    assert_eq!(minio.keys(BUCKET).await.expect("lists"), [key.as_str()]);
    held.finish();
    held_anew.finish();
    minio.finish();
}

#[tokio::test]
async fn an_abort_between_two_parts_ends_the_object_without_another_request() {
    let server = server().await;
    let batch = large(40 << 20);
    let sink = open(&server, &in_parts()).await;
    let parts = || server.count("UploadPart").expect("counts");
    let (outcomes, before) = tokio::join!(deliver(&*sink, &batch), async {
        double::until("a part is there", || parts() > 0).await;
        sink.abort();
        parts()
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted, "{:?}", outcomes[0]);
    assert!(before < 5, "{before} parts of eight");
    // Whatever came to the server before this has been answered before it.
    let other = open(&server, &json!({"root": "after"})).await;
    assert_eq!(deliver(&*other, &records(1)).await, [Outcome::Delivered]);
    double::until("the other one has looked", || server.count("ListMultipartUploads").expect("counts") == 1).await;
    assert!(parts() <= before + 1, "only the part that was on its way: {before}, {}", parts());
    let more = ["CompleteMultipartUpload", "AbortMultipartUpload"];
    for answered in server.answered().expect("reads") {
        assert!(!more.contains(&&*answered.operation), "sent after the abort: {answered:?}");
    }
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 1, "the next owner removes it");
    let objects = server.objects(BUCKET).expect("reads");
    assert!(only(&objects).0.starts_with("after/"), "{:?}", objects.keys());
    server.finish();
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
    assert_eq!(kind(&deliver(&*sink, &records(3)).await[0]), TargetFaultKind::Interrupted, "it stays aborted");
    let other = open(&server, &json!({})).await;
    assert_eq!(deliver(&*other, &records(4)).await, vec![Outcome::Delivered; 4]);
    let keys: Vec<String> = server.objects(BUCKET).expect("reads").into_keys().collect();
    assert!(!keys.iter().any(|key| key.ends_with("-1-7-2.json")), "sent after the abort: {keys:?}");
    server.finish();
}
