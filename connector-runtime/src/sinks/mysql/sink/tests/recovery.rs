//! A target that goes and comes, and a sink that has to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use ::tests::ports;
use api_types::Record;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup};

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything_once() {
    let mut server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    const COUNT: u64 = 3_000;
    let config = server.config(&json!({"id_column": "id", "batch_size": 50, "enable_batch_insert": true}));
    let sink = node().sink_for("rows", "mysql", config);
    let queue = MemoryQueue::numbered(COUNT);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it is in the middle", || queue.position() > 300).await;
    server.kill().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    let at = queue.position() / 10;
    assert!((30..COUNT).contains(&at), "killed at {at} of {COUNT}");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    let found = server.sql("SELECT count(*), count(DISTINCT id), count(DISTINCT payload) FROM mqtt_messages").await;
    assert_eq!(found.expect("reads"), format!("{COUNT}|{COUNT}|{COUNT}"));
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    server.finish();
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for_and_has_everything_once() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    let sink = open(&server, &json!({"id_column": "id"})).await;
    let records: Vec<Record> = (0..100).map(|number| record(number, "x")).collect();
    server.signal(Signal::STOP).expect("stops");
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
        let waits = wait::until(LIMIT, "the records wait at the server", async || {
            ensure!(ports::unread_bytes(server.port())? > 0, "nothing has come");
            Ok(())
        });
        waits.await.expect("waits");
        server.signal(Signal::CONT).expect("continues");
    });
    assert_eq!(outcomes, vec![Outcome::Delivered; 100]);
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 100);
    server.finish();
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let mut server = server().await;
    let sink = open(&server, &json!({"acquire_timeout_secs": 300, "connect_timeout_secs": 300})).await;
    server.kill().expect("kills");
    // The first attempts may still meet the connections that were open.
    let missed = wait::until(LIMIT, "the connections are missed", async || {
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        ensure!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
        Ok(())
    });
    missed.await.expect("missed");
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    server.finish();
}

#[tokio::test]
async fn an_abort_ends_a_transaction_and_nothing_of_it_stays() {
    let server = server().await;
    each_row_takes(&server, "0.2").await;
    for name in ["rows", "many"] {
        let sink = open(&server, &mode(name)).await;
        let records: Vec<Record> = (0..3).map(|number| record(number, "x")).collect();
        let (outcomes, aborted) = tokio::join!(
            async {
                let outcomes = deliver(&*sink, &records).await;
                (outcomes, Instant::now())
            },
            async {
                a_statement_waits(&server).await;
                let aborted = Instant::now();
                sink.abort();
                aborted
            }
        );
        let (outcomes, ended) = outcomes;
        assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted, "{name}");
        println!("measured: {name}: aborted after {:?}", ended - aborted);
        assert!(ended - aborted < crate::sink::ABORT_WITHIN * 10, "{name}: {:?}", ended - aborted);
        // The server goes on with its statement, and finds nobody who commits it.
        connections_become(&server, 0).await;
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0, "{name}");
        let outcomes = deliver(&*sink, &records).await;
        assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted, "{name}: an aborted sink stays aborted");
    }
    server.finish();
}

/// Runs `body` while somebody else has the table to himself.
async fn while_locked<T>(server: &MariaDb, body: impl Future<Output = T>) -> T {
    const HOLDS: &str = "FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO SLEEP(600)%'";
    let (ended, value) = tokio::join!(server.sql("LOCK TABLES mqtt_messages WRITE; DO SLEEP(600)"), async {
        let locked = wait::until(LIMIT, "the table is locked", async || {
            ensure!(server.sql(&format!("SELECT count(*) {HOLDS}")).await? == "1");
            Ok(())
        });
        locked.await.expect("locks");
        let value = body.await;
        let id = server.sql(&format!("SELECT id {HOLDS}")).await.expect("reads");
        server.sql(&format!("KILL {id}")).await.expect("ends the lock");
        value
    });
    assert!(ended.is_err(), "the lock was held to its end");
    value
}

#[tokio::test]
async fn a_deliver_that_is_dropped_leaves_no_half_batch() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1})).await;
    let records = [record(1, "x"), record(2, "y")];
    while_locked(&server, async {
        tokio::select! {
            _ = deliver(&*sink, &records) => panic!("the table is locked"),
            () = a_statement_waits(&server) => {}
        }
    })
    .await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2]);
    connections_become(&server, 1).await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 2);
    server.finish();
}

#[tokio::test]
async fn a_reconnect_never_repeats_half_a_batch() {
    let server = server().await;
    each_row_takes(&server, "0.05").await;
    for name in ["rows", "many"] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let sink = open(&server, &mode(name)).await;
        let records: Vec<Record> = (0..40).map(|number| record(number, "x")).collect();
        let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
            a_statement_waits(&server).await;
            // Some rows are written, and others on their way.
            server.sql("KILL CONNECTION USER sluice").await.expect("ends them");
        });
        assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down, "{name}");
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0, "{name}");
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 40], "{name}");
        let found = server.sql("SELECT count(*), count(DISTINCT timestamp) FROM mqtt_messages").await.expect("reads");
        assert_eq!(found, "40|40", "{name}");
        sink.close().await;
    }
    server.finish();
}

/// What becomes of a COMMIT on its way.
#[derive(Clone, Copy)]
enum AtCommit {
    /// It never arrives, and the way goes silent without an end: as from an owner that is paused at this moment.
    Silent,
    /// It arrives, and its answer does not come back.
    AnswerLost,
}

/// A way to the server that notices COMMIT, and counts how often its direction turns.
struct Way {
    port: u16,
    committed: CancellationToken,
    turns: Arc<AtomicUsize>,
    _accepts: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(server: &MariaDb, at_commit: Option<AtCommit>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("is bound").port();
        let (target, committed, turns) = (server.port(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (token, count) = (committed.clone(), Arc::clone(&turns));
        let accepts = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ways = Vec::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", target)).await.expect("connects");
                let carry = Self::carry(client, server, at_commit, token.clone(), Arc::clone(&count));
                ways.push(AbortOnDropHandle::new(tokio::spawn(carry)));
            }
        }));
        Self { port, committed, turns, _accepts: accepts }
    }

    async fn carry(
        mut client: TcpStream,
        mut server: TcpStream,
        at_commit: Option<AtCommit>,
        committed: CancellationToken,
        turns: Arc<AtomicUsize>,
    ) {
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let (is_up, lost) = (AtomicBool::new(true), AtomicBool::new(false));
        let turn = |up: bool| {
            if is_up.swap(up, Ordering::Relaxed) != up {
                turns.fetch_add(1, Ordering::Relaxed);
            }
        };
        loop {
            tokio::select! {
                Ok(length @ 1..) = client.read(&mut up) => {
                    turn(true);
                    let commits = up[..length].windows(7).any(|word| word == b"\x03COMMIT");
                    match at_commit.filter(|_| commits && !committed.is_cancelled()) {
                        None => {}
                        Some(AtCommit::Silent) => {
                            committed.cancel();
                            return std::future::pending().await;
                        }
                        Some(AtCommit::AnswerLost) => {
                            committed.cancel();
                            lost.store(true, Ordering::Relaxed);
                        }
                    }
                    server.write_all(&up[..length]).await.expect("writes");
                }
                Ok(length @ 1..) = server.read(&mut down) => {
                    turn(false);
                    if lost.load(Ordering::Relaxed) {
                        return;
                    }
                    client.write_all(&down[..length]).await.expect("writes");
                }
                else => return,
            }
        }
    }
}

#[tokio::test]
async fn statements_do_not_wait_for_the_answers_of_those_before() {
    let server = server().await;
    let way = Way::to(&server, None).await;
    let sink = open(&server, &json!({"port": way.port, "pool_size": 1})).await;
    let before = way.turns.load(Ordering::Relaxed);
    let records: Vec<Record> = (0..500).map(|number| record(number, "x")).collect();
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 500]);
    let turns = way.turns.load(Ordering::Relaxed) - before;
    println!("measured: the direction turned {turns} times for 500 statements");
    assert!(turns < 100, "{turns} turns for 500 statements");
    server.finish();
}

#[tokio::test]
async fn an_owner_that_is_paused_in_a_transaction_does_not_hold_up_the_next_one() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    let way = Way::to(&server, Some(AtCommit::Silent)).await;
    // One connection, which the way has carried from its start.
    let paused = open(&server, &json!({"id_column": "id", "port": way.port, "pool_size": 1})).await;
    let records = [record(1, "x"), record(2, "y")];
    tokio::select! {
        _ = deliver(&*paused, &records) => panic!("its COMMIT did not arrive"),
        () = way.committed.cancelled() => {}
    }
    let idles = "SELECT count(*) FROM information_schema.INNODB_TRX WHERE trx_rows_modified = 2";
    assert_eq!(server.sql(idles).await.expect("reads"), "1", "the earlier owner has the rows");
    let next = open(&server, &json!({"id_column": "id"})).await;
    let started = Instant::now();
    let outcomes = deliver(&*next, &records).await;
    println!("measured: behind a paused owner: {:?}", started.elapsed());
    assert_eq!(outcomes, vec![Outcome::Delivered; 2]);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 2);
    server.finish();
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_repeated_as_a_whole() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    for batch_insert in [false, true] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let way = Way::to(&server, Some(AtCommit::AnswerLost)).await;
        let config = json!({"id_column": "id", "port": way.port, "enable_batch_insert": batch_insert});
        let sink = open(&server, &config).await;
        let records: Vec<Record> = (0..20).map(|number| record(number, "x")).collect();
        let outcomes = deliver(&*sink, &records).await;
        assert!(outcomes.iter().all(|outcome| kind(outcome) == TargetFaultKind::Down), "{outcomes:?}");
        let kept = wait::until(LIMIT, "the server has kept them", async || {
            ensure!(server.count("mqtt_messages").await? == 20);
            Ok(())
        });
        kept.await.expect("keeps");
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 20], "{batch_insert}");
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 20, "{batch_insert}");
    }
    server.finish();
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_called_off_at_the_server() {
    let server = server().await;
    each_row_takes(&server, "600").await;
    for name in ["rows", "many"] {
        let mut config = mode(name);
        config["min_pool_size"] = json!(0);
        let sink = open(&server, &config).await;
        let records = [record(1, "x"), record(2, "y")];
        for batch in [&records[..], &records[..1]] {
            let (outcomes, ()) = tokio::join!(deliver(&*sink, batch), async {
                a_statement_waits(&server).await;
                tokio::time::pause();
                tokio::time::advance(TRANSACTION_WITHIN).await;
                tokio::time::resume();
            });
            match (&outcomes[0], batch.len()) {
                (Outcome::TargetFault(fault), 1) => {
                    assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no answer within 60 s"));
                }
                // Each of them alone may be fast enough.
                (Outcome::Unclear(fault), 2) => assert_eq!(&*fault.class, "too_slow"),
                other => panic!("{name} {other:?}"),
            }
            connections_become(&server, 0).await;
        }
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn a_locked_table_is_the_targets_fault_however_many_records_wait() {
    let server = server().await;
    let sink = open(&server, &json!({"min_pool_size": 0})).await;
    let records: Vec<Record> = (0..20).map(|number| record(number, "x")).collect();
    while_locked(&server, async {
        let started = Instant::now();
        let outcomes = deliver(&*sink, &records).await;
        println!("measured: a locked table is told after {:?}", started.elapsed());
        let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!(fault.kind, TargetFaultKind::Down);
        assert!(fault.message.contains("1205"), "{}", fault.message);
        // Not each of them waits for the lock in turn, after nobody wants it any more.
        connections_become(&server, 0).await;
        assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    })
    .await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 20]);
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 20);
    server.finish();
}

#[tokio::test]
async fn a_deadlock_is_the_targets_fault_and_nothing_of_the_batch_stays() {
    let server = server().await;
    server.sql_of_user("ALTER TABLE mqtt_messages ADD PRIMARY KEY (record_key)").await.expect("alters");
    server
        .sql_of_user("INSERT INTO mqtt_messages VALUES ('device-1', 'old', 0), ('device-2', 'old', 0)")
        .await
        .expect("writes");
    // Whoever has changed more wins.
    server.sql_of_user("CREATE TABLE weight AS SELECT seq FROM seq_1_to_5000").await.expect("makes");
    let config = json!({"enable_upsert": true, "conflict_columns": "record_key", "min_pool_size": 0});
    let sink = open(&server, &config).await;
    let records = [record(3, "new"), record(2, "new"), record(1, "new")];
    let other = "BEGIN; UPDATE weight SET seq = seq + 1; \
                 UPDATE mqtt_messages SET timestamp = 1 WHERE record_key = 'device-1'; DO SLEEP(3); \
                 UPDATE mqtt_messages SET timestamp = 1 WHERE record_key = 'device-2'; COMMIT";
    let (ended, outcomes) = tokio::join!(server.sql(other), async {
        let sleeps = wait::until(LIMIT, "the other one sleeps", async || {
            let waits = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'";
            ensure!(server.sql(waits).await? == "1");
            Ok(())
        });
        sleeps.await.expect("sleeps");
        deliver(&*sink, &records).await
    });
    ended.expect("the other one goes on");
    let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(fault.kind, TargetFaultKind::Down);
    assert!(fault.message.contains("1213"), "{}", fault.message);
    let found = server.sql("SELECT record_key, timestamp FROM mqtt_messages ORDER BY 1").await.expect("reads");
    assert_eq!(found, "device-1|1\ndevice-2|1", "nothing of the batch, also not what came after the deadlock");
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 3]);
    assert_eq!(server.count("mqtt_messages WHERE timestamp > 1").await.expect("counts"), 3);
    server.finish();
}
