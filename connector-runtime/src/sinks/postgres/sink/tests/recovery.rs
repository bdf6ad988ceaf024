//! A target that goes and comes, and a sink that has to stop.

use std::time::Instant;

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
    server.sql_of_role(ID_COLUMN).await.expect("adds the column");
    const COUNT: u64 = 3_000;
    let config = server.config(&json!({"id_column": "id", "batch_size": 50, "enable_batch_insert": true}));
    let sink = node().sink_for("rows", "postgres", config);
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
async fn a_refused_connection_is_told_at_once() {
    let mut server = server().await;
    let sink = open(&server, &json!({"acquire_timeout_secs": 300, "connect_timeout_secs": 300})).await;
    server.kill().expect("kills");
    connections_are_missed(&*sink).await;
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    server.finish();
}

/// The first attempts may still meet the connections that were open.
async fn connections_are_missed(sink: &dyn Sink) {
    let missed = wait::until(LIMIT, "the connections are missed", async || {
        let outcomes = deliver(sink, &[record(1, "x")]).await;
        ensure!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
        Ok(())
    });
    missed.await.expect("missed");
}

#[tokio::test]
async fn an_abort_ends_a_transaction_and_nothing_of_it_stays() {
    let server = server().await;
    each_row_takes(&server, "0.2").await;
    for name in ["rows", "copy"] {
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
async fn while_locked<T>(server: &Postgres, body: impl Future<Output = T>) -> T {
    let is_locked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' AND wait_event = 'PgSleep'";
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'";
    let (ended, value) = tokio::join!(server.sql("BEGIN; LOCK TABLE mqtt_messages; SELECT pg_sleep(600)"), async {
        let locked = wait::until(LIMIT, "the table is locked", async || {
            ensure!(server.sql(is_locked).await? == "1");
            Ok(())
        });
        locked.await.expect("locks");
        let value = body.await;
        server.sql(end).await.expect("ends the lock");
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
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 2);
    server.finish();
}

/// A way to the server that goes silent, without an end, when a client says COMMIT: what it leaves behind is what an
/// owner leaves that is paused at this moment.
struct SilentAtCommit {
    port: u16,
    silent: CancellationToken,
    _accepts: AbortOnDropHandle<()>,
}

impl SilentAtCommit {
    async fn to(server: &Postgres) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("is bound").port();
        let (target, silent) = (server.port(), CancellationToken::new());
        let token = silent.clone();
        let accepts = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ways = Vec::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", target)).await.expect("connects");
                ways.push(AbortOnDropHandle::new(tokio::spawn(Self::carry(client, server, token.clone()))));
            }
        }));
        Self { port, silent, _accepts: accepts }
    }

    async fn carry(mut client: TcpStream, mut server: TcpStream, silent: CancellationToken) {
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                Ok(length @ 1..) = client.read(&mut up) => {
                    if up[..length].windows(7).any(|word| word == b"COMMIT\0") {
                        silent.cancel();
                        return std::future::pending().await;
                    }
                    server.write_all(&up[..length]).await.expect("writes");
                }
                Ok(length @ 1..) = server.read(&mut down) => {
                    client.write_all(&down[..length]).await.expect("writes");
                }
                else => return,
            }
        }
    }
}

#[tokio::test]
async fn an_owner_that_is_paused_in_a_transaction_does_not_hold_up_the_next_one() {
    let server = server().await;
    server.sql_of_role(ID_COLUMN).await.expect("adds the column");
    let way = SilentAtCommit::to(&server).await;
    // One connection, which the way has carried from its start.
    let paused = open(&server, &json!({"id_column": "id", "port": way.port, "pool_size": 1})).await;
    let records = [record(1, "x"), record(2, "y")];
    tokio::select! {
        _ = deliver(&*paused, &records) => panic!("its COMMIT did not arrive"),
        () = way.silent.cancelled() => {}
    }
    let idles = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
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
async fn the_server_misses_a_client_that_has_vanished() {
    let server = server().await;
    // psql cannot look into another session; a statement of this one can.
    let template = "INSERT INTO mqtt_messages SELECT $1::text, $2::text, $3::bigint, \
                    concat_ws(' ', current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'), \
                    current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout')) || \
                    left($4::text, 0), $5::bytea";
    let sink = open(&server, &json!({"sql_template": template})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    assert_eq!(server.sql("SELECT payload FROM mqtt_messages").await.expect("reads"), "10 5 4 30000");
    server.finish();
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_called_off_at_the_server() {
    let server = server().await;
    each_row_takes(&server, "600").await;
    for name in ["rows", "copy"] {
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
    let sink = open(&server, &json!({})).await;
    let records = [record(1, "x"), record(2, "y")];
    while_locked(&server, async {
        let started = Instant::now();
        let outcomes = deliver(&*sink, &records).await;
        println!("measured: a locked table is told after {:?}", started.elapsed());
        let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!(fault.kind, TargetFaultKind::Down);
        assert!(fault.message.contains("55P03"), "{}", fault.message);
    })
    .await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2]);
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 2);
    server.finish();
}

/// From now on a COMMIT that has written something waits for a standby that never comes.
async fn wait_for_a_standby(server: &Postgres) {
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.expect("sets");
    server.sql("SELECT pg_reload_conf()").await.expect("reloads");
    let set = wait::until(LIMIT, "the standby is missed", async || {
        ensure!(server.sql("SHOW synchronous_standby_names").await? == "nobody");
        Ok(())
    });
    set.await.expect("is set");
}

const WAITS_FOR_A_STANDBY: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

async fn a_commit_waits(server: &Postgres) {
    let waits = wait::until(LIMIT, "COMMIT waits for the standby", async || {
        ensure!(server.sql(WAITS_FOR_A_STANDBY).await? == "1");
        Ok(())
    });
    waits.await.expect("waits");
}

#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_not_called_off() {
    for name in MODES {
        let server = server().await;
        server.sql_of_role(ID_COLUMN).await.expect("adds the column");
        server.sql_of_role("ALTER TABLE mqtt_messages ALTER id DROP NOT NULL").await.expect("alters");
        let sink = open(&server, &mode(name)).await;
        wait_for_a_standby(&server).await;
        let records = [record(1, "x"), record(2, "y")];
        let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
            a_commit_waits(&server).await;
            tokio::time::pause();
            tokio::time::advance(TRANSACTION_WITHIN).await;
            tokio::time::resume();
        });
        let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{name} {outcomes:?}") };
        assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no answer to COMMIT within 60 s"), "{name}");
        assert_eq!(server.sql(WAITS_FOR_A_STANDBY).await.expect("reads"), "1", "{name}: it waits on");
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0, "{name}: nobody sees the rows");
        // The standby is given up by a person.
        server.sql("ALTER SYSTEM RESET synchronous_standby_names").await.expect("resets");
        server.sql("SELECT pg_reload_conf()").await.expect("reloads");
        let there = wait::until(LIMIT, "the rows are there", async || {
            ensure!(server.count("mqtt_messages").await? == 2);
            Ok(())
        });
        there.await.expect("are there");
        assert_eq!(deliver(&*sink, &[record(3, "z")]).await, [Outcome::Delivered], "{name}");
        sink.close().await;
        connections_become(&server, 0).await;
        server.finish();
    }
}

#[tokio::test]
async fn rows_that_are_there_without_the_standby_are_not_delivered() {
    for batch_insert in [false, true] {
        let server = server().await;
        server.sql_of_role(ID_COLUMN).await.expect("adds the column");
        let sink = open(&server, &json!({"id_column": "id", "enable_batch_insert": batch_insert})).await;
        wait_for_a_standby(&server).await;
        let records = [record(1, "x"), record(2, "y")];
        tokio::select! {
            _ = deliver(&*sink, &records) => panic!("no standby has the rows"),
            () = a_commit_waits(&server) => {}
        }
        // An operator, or a restart, calls the first COMMIT off.
        server
            .sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            .await
            .expect("calls off");
        let there = wait::until(LIMIT, "the rows are there", async || {
            ensure!(server.count("mqtt_messages").await? == 2);
            Ok(())
        });
        there.await.expect("are there");
        tokio::select! {
            outcomes = deliver(&*sink, &records) => panic!("{batch_insert}: no standby has the rows: {outcomes:?}"),
            () = a_commit_waits(&server) => {}
        }
        server.finish();
    }
}

#[tokio::test]
async fn connecting_to_a_locked_table_is_given_up_on_both_sides() {
    let server = server().await;
    while_locked(&server, async {
        let fault = refused(&server, &json!({"connect_timeout_secs": 1})).await;
        assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
        connections_become(&server, 0).await;
    })
    .await;
    let sink = open(&server, &json!({"connect_timeout_secs": 1})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    // The limit was for connecting only.
    each_row_takes(&server, "1.5").await;
    assert_eq!(deliver(&*sink, &[record(2, "x")]).await, [Outcome::Delivered]);
    server.finish();
}

#[tokio::test]
async fn a_server_that_is_silent_costs_no_more_than_the_time_to_connect() {
    let server = server().await;
    let sink = open(&server, &json!({"connect_timeout_secs": 1, "max_lifetime_secs": 1})).await;
    // Its kernel still takes connections.
    server.signal_all(Signal::STOP).expect("stops");
    // The connection that was open is too old now.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no connection within 1 s"));
    assert!((900..20_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    server.signal_all(Signal::CONT).expect("continues");
    let again = wait::until(LIMIT, "it is back", async || {
        let outcomes = deliver(&*sink, &[record(2, "x")]).await;
        ensure!(outcomes == [Outcome::Delivered], "{outcomes:?}");
        Ok(())
    });
    again.await.expect("is back");
    server.finish();
}
