//! A target that goes and comes, and a sink that has to stop.

use std::time::Instant;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything_once() {
    const COUNT: u64 = 3_000;
    let mut server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| message(number, &json!({ "n": number }))));
    let task = run(&queue, server.config(&json!({ "batch_size": 50 })));
    double::until("it is in the middle", || queue.position() > 300).await;
    server.kill().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    let at = queue.position() / 10;
    assert!((30..COUNT).contains(&at), "killed at {at} of {COUNT}");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    let mut found = ids(&server).await;
    found.dedup();
    assert_eq!(found.len() as u64, COUNT);
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    server.finish();
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for_and_has_everything_once() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let sent = numbered(0..100);
    server.signal(Signal::STOP).expect("stops");
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &sent), async {
        waits_at(&server).await;
        server.signal(Signal::CONT).expect("continues");
    });
    assert_eq!(outcomes, vec![Outcome::Delivered; 100]);
    assert_eq!(ids(&server).await.len(), 100);
    server.finish();
}

/// Something of ours has come to the server, which stands still.
async fn waits_at(server: &MongoDb) {
    let waits = wait::until(LIMIT, "the records wait at the server", async || {
        ensure!(ports::holds_unread(server.port()), "nothing has come");
        Ok(())
    });
    waits.await.expect("waits");
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let mut server = server().await;
    let sink = open(&server, &json!({ "server_selection_timeout_secs": 300, "connect_timeout_secs": 300 })).await;
    server.kill().expect("kills");
    // The first attempts may still meet the connections that were open.
    let missed = wait::until(LIMIT, "the connections are missed", async || {
        let outcomes = deliver(&*sink, &numbered(0..1)).await;
        ensure!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
        Ok(())
    });
    missed.await.expect("missed");
    let began = Instant::now();
    let outcomes = deliver(&*sink, &numbered(0..1)).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Down);
    println!("measured: a refused connection is told after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    server.finish();
}

#[tokio::test]
async fn after_an_abort_nothing_more_leaves() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    // More than the buffers on the way hold: the server has not seen the end of it.
    let large: Vec<Record> = records((0..300).map(|_| vec![b'x'; 100 << 10]));
    server.signal(Signal::STOP).expect("stops");
    let ((outcomes, ended), aborted) = tokio::join!(
        async {
            let outcomes = deliver(&*sink, &large).await;
            (outcomes, Instant::now())
        },
        async {
            waits_at(&server).await;
            let aborted = Instant::now();
            sink.abort();
            aborted
        }
    );
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Interrupted);
    println!("measured: aborted after {:?}", ended - aborted);
    assert!(ended - aborted < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted);
    server.signal(Signal::CONT).expect("continues");
    connections_become(server.port(), 0).await;
    assert_eq!(server.told("insert").expect("reads its log").len(), 0);
    assert_eq!(server.count(COLLECTION).await.expect("counts"), 0);
    let outcomes = deliver(&*sink, &large[..1]).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Interrupted, "an aborted sink stays aborted");
    server.finish();
}

#[tokio::test]
async fn what_is_under_way_when_the_sink_is_closed_is_nobodys_fault() {
    let server = server().await;
    for more in [json!({}), json!({ "max_pool_size": 1 })] {
        let sink = open(&server, &more).await;
        let (first, second) = (numbered(0..3), numbered(3..6));
        server.signal(Signal::STOP).expect("stops");
        let (first, second, ()) = tokio::join!(deliver(&*sink, &first), deliver(&*sink, &second), async {
            waits_at(&server).await;
            sink.close().await;
        });
        for outcome in [first, second].iter().flatten() {
            assert_eq!(fault(outcome).kind, TargetFaultKind::Interrupted, "{more} {outcome:?}");
        }
        let later = deliver(&*sink, &numbered(6..7)).await;
        assert_eq!(fault(&later[0]).kind, TargetFaultKind::Interrupted, "a closed sink stays closed");
        server.signal(Signal::CONT).expect("continues");
    }
    server.finish();
}

#[tokio::test]
async fn a_deliver_that_is_dropped_hands_nothing_to_the_next_one() {
    let server = server_with(MongoDbOptions { slow_ms: 300, ..MongoDbOptions::default() }).await;
    let sink = open(&server, &json!({ "max_pool_size": 1 })).await;
    let sent = numbered(0..3);
    tokio::select! {
        _ = deliver(&*sink, &sent) => panic!("it takes longer"),
        told = wait::until(LIMIT, "the insert has come", async || {
            ensure!(!server.told("insert")?.is_empty(), "not yet");
            Ok(())
        }) => told.expect("comes"),
    }
    // Its answer is not taken for this one's.
    assert_eq!(deliver(&*sink, &numbered(2..5)).await, vec![Outcome::Delivered; 3]);
    assert_eq!(ids(&server).await.len(), 5);
    server.finish();
}

/// A way to the server on which the answer to the first insert is lost.
async fn lossy_way(target: u16) -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("is bound").port();
    let accepts = tokio::spawn(async move {
        let lost = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut ways = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", target)).await.expect("connects");
            ways.push(AbortOnDropHandle::new(tokio::spawn(carry(client, server, Arc::clone(&lost)))));
        }
    });
    (port, AbortOnDropHandle::new(accepts))
}

async fn carry(mut client: TcpStream, mut server: TcpStream, lost: Arc<std::sync::atomic::AtomicBool>) {
    use std::sync::atomic::Ordering;
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut loses = false;
    loop {
        tokio::select! {
            Ok(length @ 1..) = client.read(&mut up) => {
                let inserts = up[..length].windows(8).any(|word| word == b"\x02insert\0");
                loses |= inserts && !lost.swap(true, Ordering::Relaxed);
                server.write_all(&up[..length]).await.expect("writes");
            }
            Ok(length @ 1..) = server.read(&mut down) => {
                if loses {
                    return;
                }
                client.write_all(&down[..length]).await.expect("writes");
            }
            else => return,
        }
    }
}

#[tokio::test]
async fn an_insert_whose_answer_is_lost_is_repeated_and_there_once() {
    let server = server().await;
    for (number, more) in [json!({}), json!({ "ordered_insert": true })].into_iter().enumerate() {
        let (port, _way) = lossy_way(server.port()).await;
        let mut config = server.config(&more);
        config["port"] = json!(port);
        let sink = node().open("documents", "mongodb", config).await.expect("opens");
        let begin = number as u64 * 100;
        let sent = numbered(begin..begin + 20);
        let outcomes = deliver(&*sink, &sent).await;
        assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Down), "{outcomes:?}");
        assert_eq!(ids(&server).await.len(), 20 * (number + 1), "they were taken");
        assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 20], "{more}");
        assert_eq!(ids(&server).await.len(), 20 * (number + 1), "{more}");
        sink.close().await;
    }
    server.finish();
}
