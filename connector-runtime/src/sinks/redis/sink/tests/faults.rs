//! Whose fault it is, in the server's own words.

use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::status::Health;

use super::*;
use crate::pipeline::tests::double::policy;

#[tokio::test]
async fn one_poison_record_among_a_thousand_ends_alone() {
    let server = server().await;
    server.cli(&["SET", "key:617", "no list"]).await.expect("sets");
    let config = server.config(&json!({"command_template": "RPUSH key:{payload} {payload}"}));
    let sink = node().sink_for("lists", "redis", config);
    let queue = MemoryQueue::with((0..1_000).map(message));
    let setup = Setup { policy: policy(FailureStrategy::Discard, OnTargetDown::Wait), ..Setup::default() };
    let task = Setup { order: OrderClass::Lanes, ..setup }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().collect::<Vec<_>>(), [&617]);
    assert!(format!("{ends:?}").contains("redis_wrongtype"), "{ends:?}");
    assert_eq!(server.cli(&["DBSIZE"]).await.expect("reads"), "1000");
    let stats = server.cli(&["INFO", "commandstats"]).await.expect("reads");
    assert!(stats.contains("cmdstat_rpush:calls=1000,"), "each was sent once: {stats}");
    assert_eq!(task.report().health, Health::Ok);
    server.finish();
}

#[tokio::test]
async fn what_the_server_says_of_a_record_is_in_its_fault() {
    let server = server().await;
    server.cli(&["SET", "text", "x"]).await.expect("sets");
    for (template, payload, expect, word) in [
        ("LPUSH text {payload}", "x", "redis_wrongtype", "WRONGTYPE Operation against a key"),
        ("SET a", "x", "redis_err", "wrong number of arguments"),
        ("SET a b {payload}", "x", "redis_err", "syntax error"),
        ("INCRBY a {payload}", "x", "redis_err", "not an integer"),
        ("ZADD z {payload} m", "x", "redis_err", "not a valid float"),
        ("XADD s 0-0 f {payload}", "x", "redis_err", "ID"),
        ("EVAL {payload} 0", "return redis.error_reply('ERR as told')", "redis_err", "as told"),
    ] {
        let sink = open(&server, &json!({"command_template": template})).await;
        let outcomes = deliver(&*sink, &[record(1, payload)]).await;
        assert_eq!(class(&outcomes[0]), expect, "{template}: {outcomes:?}");
        let Outcome::RecordFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert!(fault.message.contains(word) && !fault.offline, "{template}: {fault:?}");
    }
    server.finish();
}

#[tokio::test]
async fn a_missing_value_is_found_without_asking() {
    let server = server().await;
    let sink = open(&server, &json!({"command_template": "RPUSH mqtt_messages ${payload.t}"})).await;
    let outcomes = deliver(&*sink, &[record(1, "{\"t\":1}"), record(2, "{}"), record(3, "{\"t\":3}")]).await;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    assert_eq!(class(&outcomes[1]), "missing_value");
    assert_eq!(server.list().await.expect("reads"), ["1", "3"]);
    server.finish();
}

#[tokio::test]
async fn what_is_wrong_with_the_login_is_told_when_it_is_opened() {
    let server = server().await;
    for (more, expect, word) in [
        (json!({"password": "wrong"}), TargetFaultKind::Auth, "WRONGPASS"),
        (json!({"username": "nobody"}), TargetFaultKind::Auth, "WRONGPASS"),
        (json!({"username": null}), TargetFaultKind::Auth, "WRONGPASS"),
        (json!({"username": null, "password": null}), TargetFaultKind::Auth, "NOAUTH"),
        (json!({"server": "127.0.0.1:1"}), TargetFaultKind::Down, "refused"),
        (json!({"mode": "cluster"}), TargetFaultKind::Misconfigured("TARGET_NOT_CLUSTER"), "cluster support disabled"),
        (
            json!({"mode": "sentinel", "sentinel_master_name": "m"}),
            TargetFaultKind::Misconfigured("TARGET_NOT_SENTINEL"),
            "unknown command",
        ),
    ] {
        let fault = refused(&server, &more).await;
        assert_eq!(fault.kind, expect, "{more} {fault:?}");
        assert!(fault.message.contains(word), "{more} {fault:?}");
    }
    let few = server_with(&[("databases", "1")]).await;
    let fault = refused(&few, &json!({"database": 3})).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing, "{fault:?}");
    server.cli(&["ACL", "DELUSER", "sluice"]).await.expect("deletes");
    server.cli(&["ACL", "SETUSER", "default", "nopass"]).await.expect("sets");
    let open = node().open("lists", "redis", server.config(&json!({"username": null, "password": null}))).await;
    assert_eq!(deliver(&*open.expect("opens"), &[record(1, "x")]).await, [Outcome::Delivered]);
    few.finish();
    server.finish();
}

#[tokio::test]
async fn a_user_with_few_rights_delivers_what_it_may() {
    let rights = Some("~mqtt* +rpush +xadd".to_owned());
    let server = Redis::with(RedisOptions { rights, ..RedisOptions::default() }).await.expect("starts");
    let sink = open(&server, &json!({})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    for (template, word) in [("RPUSH other {payload}", "keys"), ("SET mqtt {payload}", "'set' command")] {
        let sink = open(&server, &json!({"command_template": template})).await;
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        let fault = fault(&outcomes[0]);
        assert_eq!(fault.kind, TargetFaultKind::Permission, "{fault:?}");
        assert!(fault.message.contains("NOPERM") && fault.message.contains(word), "{fault:?}");
    }
    // Taken away while the connector runs, and given back.
    let queue = MemoryQueue::numbered(3);
    let task = start(&queue, server.config(&json!({})));
    queue.all_committed().await;
    server.cli(&["ACL", "SETUSER", "sluice", "-rpush"]).await.expect("takes");
    queue.append((3..6).map(message));
    double::until("it is forbidden", || task.report().health_reason.as_deref() == Some("TARGET_PERMISSION")).await;
    server.cli(&["ACL", "SETUSER", "sluice", "+rpush"]).await.expect("gives");
    queue.all_committed().await;
    assert_eq!(task.report().counters.discard_total, 0);
    assert_eq!(server.count().await.expect("counts"), 7);
    server.finish();
}

#[tokio::test]
async fn an_unknown_command_and_a_missing_script_need_a_person() {
    let server = server().await;
    let sink = open(&server, &json!({"command_template": "LPUHS a {payload}"})).await;
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Misconfigured("TARGET_UNKNOWN_COMMAND"), "{outcomes:?}");

    let script = "return redis.call('RPUSH', KEYS[1], ARGV[1])";
    let sha = server.cli(&["SCRIPT", "LOAD", script]).await.expect("loads");
    server.cli(&["SCRIPT", "FLUSH"]).await.expect("forgets");
    let template = format!("EVALSHA {sha} 1 {KEY} {{payload}}");
    let sink = open(&server, &json!({"command_template": template})).await;
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Missing, "{outcomes:?}");
    server.cli(&["SCRIPT", "LOAD", script]).await.expect("loads");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    server.finish();
}

#[tokio::test]
async fn a_full_server_is_waited_for() {
    let server = server().await;
    let queue = MemoryQueue::numbered(3);
    let task = start(&queue, server.config(&json!({})));
    queue.all_committed().await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("fills");
    queue.append((3..6).map(message));
    double::until("it is full", || task.report().health_reason.as_deref() == Some("TARGET_FULL")).await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("OOM command not allowed")));
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("makes room");
    queue.all_committed().await;
    assert_eq!((server.count().await.expect("counts"), task.report().counters.discard_total), (6, 0));
    server.finish();
}

#[tokio::test]
async fn a_server_that_loads_is_busy_or_only_reads_is_waited_for() {
    let mut server = server_with(&[("key-load-delay", "1000"), ("busy-reply-threshold", "10")]).await;
    let fill = "for i = 1, 10000 do redis.call('SET', 'k' .. i, i) end";
    server.cli(&["EVAL", fill, "0"]).await.expect("fills");
    server.kill().expect("kills");
    server.start_without_waiting().expect("starts");
    // Loading takes 10 s.
    let sink = wait::until(LIMIT, "it lets in", async || {
        node().open("lists", "redis", server.config(&json!({}))).await.map_err(|fault| anyhow::anyhow!("{fault:?}"))
    });
    let sink = sink.await.expect("opens");
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    let loading = fault(&outcomes[0]);
    assert!(loading.kind == TargetFaultKind::Down && loading.message.contains("LOADING"), "{loading:?}");
    server.ready().await.expect("has loaded");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);

    let mut busy = Box::pin(server.cli(&["EVAL", "while true do end", "0"]));
    let told = async {
        let told = wait::until(LIMIT, "it is busy", async || {
            let outcomes = deliver(&*sink, &[record(2, "x")]).await;
            ensure!(outcomes != [Outcome::Delivered], "it still runs");
            Ok(outcomes)
        });
        told.await.expect("is told")
    };
    let outcomes = tokio::select! {
        ended = &mut busy => panic!("{ended:?}"),
        outcomes = told => outcomes,
    };
    assert!(fault(&outcomes[0]).message.contains("BUSY"), "{outcomes:?}");
    server.cli(&["SCRIPT", "KILL"]).await.expect("kills");
    let _ = busy.await;

    server.cli(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("is a replica");
    let outcomes = deliver(&*sink, &[record(3, "x")]).await;
    let read_only = fault(&outcomes[0]);
    assert!(read_only.kind == TargetFaultKind::Down && read_only.message.contains("READONLY"), "{read_only:?}");
    server.cli(&["REPLICAOF", "NO", "ONE"]).await.expect("is a master");
    assert_eq!(deliver(&*sink, &[record(3, "x")]).await, [Outcome::Delivered]);
    server.finish();
}

/// The server answers a payload that is too large for it and hangs up.
#[tokio::test]
async fn a_payload_that_makes_the_server_hang_up_ends_alone() {
    let server = server_with(&[("proto-max-bulk-len", "1048576")]).await;
    let sink = open(&server, &json!({"retry_interval_ms": 10})).await;
    let mut records: Vec<Record> = (0..20).map(|number| record(number, number.to_string())).collect();
    records[7] = record(7, vec![b'x'; 2 << 20]);
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(outcomes[..7], vec![Outcome::Delivered; 7]);
    assert_eq!(class(&outcomes[7]), "redis_err", "{outcomes:?}");
    assert!(format!("{:?}", outcomes[7]).contains("invalid bulk length"), "{outcomes:?}");
    assert!(outcomes[8..].iter().all(|outcome| kind(outcome) == TargetFaultKind::Interrupted), "{outcomes:?}");
    assert_eq!(deliver(&*sink, &records[8..]).await, vec![Outcome::Delivered; 12]);
    let expect: Vec<String> = (0..20).filter(|number| *number != 7).map(|number| number.to_string()).collect();
    assert_eq!(server.list().await.expect("reads"), expect, "each once, in order");
    server.finish();
}
