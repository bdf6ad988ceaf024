//! A master, its replica, and three sentinels that replace one by the other.

use std::collections::BTreeSet;

use ::tests::redis::{RedisSentinels, SENTINEL_PASSWORD};
use rustix::process::Signal;

use super::*;

async fn set() -> RedisSentinels {
    RedisSentinels::start().await.expect("starts")
}

/// Numbers of the list, without repeats.
async fn numbers(server: &Redis) -> BTreeSet<u64> {
    let list = server.list().await.expect("reads");
    list.iter().map(|text| text.parse().expect("is a number")).collect()
}

/// A replica must have it: what a master alone has confirmed goes with it.
fn careful() -> Value {
    json!({"wait_replicas": 1, "retry_interval_ms": 100})
}

#[tokio::test]
async fn a_master_that_was_replaced_and_comes_back_is_never_written_to() {
    let mut set = set().await;
    let old = set.servers[0].port();
    let queue = MemoryQueue::numbered(100);
    let task = start(&queue, set.config(&json!({})));
    queue.all_committed().await;
    assert_eq!(set.servers[0].count().await.expect("counts"), 100);
    set.servers[0].kill().expect("kills");
    let killed = Instant::now();
    queue.append((100..200).map(double::message));
    set.replaced(old).await.expect("is replaced");
    // It comes back as the master that it was, until a sentinel tells it otherwise.
    set.servers[0].start_again().await.expect("starts again");
    let role = set.servers[0].cli(&["ROLE"]).await.expect("asks");
    assert!(role.starts_with("master"), "it is not stale: {role}");
    queue.append((200..300).map(double::message));
    queue.all_committed().await;
    println!("measured: 300 records over a fail-over, {:?} after the kill", killed.elapsed());
    // In this order: once it is told that it is a replica it takes over the list of the new master, bit by bit.
    let stale = set.servers[0].count().await.expect("counts");
    let still = set.servers[0].cli(&["ROLE"]).await.expect("asks");
    if still.starts_with("master") {
        assert_eq!(stale, 100, "the stale master was written to");
    }
    assert_eq!(set.servers[1].count().await.expect("counts"), 300);
    assert_eq!(task.report().counters.discard_total, 0);
    set.finish();
}

#[tokio::test]
async fn a_paused_master_that_goes_on_after_it_was_replaced_confirms_nothing() {
    let set = set().await;
    let old = set.servers[0].port();
    let sink = node().open("lists", "redis", set.config(&json!({"retry_interval_ms": 100, "max_retries": 100}))).await;
    let sink = sink.expect("opens");
    assert_eq!(deliver(&*sink, &[record(0, "before")]).await, [Outcome::Delivered]);
    let replicated = wait::until(LIMIT, "the replica has it", async || {
        ensure!(set.servers[1].list().await? == ["before"], "not yet");
        Ok(())
    });
    replicated.await.expect("replicated");
    set.servers[0].signal(Signal::STOP).expect("pauses");
    let late = [record(1, "late")];
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &late), async {
        set.replaced(old).await.expect("is replaced");
        set.servers[0].signal(Signal::CONT).expect("goes on");
    });
    assert_eq!(outcomes, [Outcome::Delivered]);
    let found = set.servers[1].list().await.expect("reads");
    assert_eq!(found, ["before", "late"], "the new master has what was confirmed");
    set.finish();
}

#[tokio::test]
async fn what_a_replica_has_survives_a_killed_master() {
    let mut set = set().await;
    const COUNT: u64 = 5_000;
    let mut more = careful();
    more["max_records_per_second"] = json!(2_000);
    let queue = MemoryQueue::with((0..COUNT).map(message));
    let task = start(&queue, set.config(&more));
    double::until("it is in the middle", || queue.position() > 10_000).await;
    let old = set.servers[0].port();
    set.servers[0].kill().expect("kills");
    set.replaced(old).await.expect("is replaced");
    set.servers[0].start_again().await.expect("starts again");
    queue.all_committed().await;
    let found = numbers(&set.servers[1]).await;
    assert_eq!(found.len() as u64, COUNT, "lost: {:?}", (0..COUNT).find(|number| !found.contains(number)));
    assert_eq!(task.report().counters.discard_total, 0);
    set.finish();
}

#[tokio::test]
async fn too_few_sentinels_decide_nothing() {
    let mut set = set().await;
    let sink = node().open("lists", "redis", set.config(&json!({"max_retries": 0}))).await.expect("opens");
    set.sentinels[0].kill().expect("kills");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    set.sentinels[1].kill().expect("kills");
    let missed = wait::until(LIMIT, "the sentinels are missed", async || {
        let outcomes = deliver(&*sink, &[record(2, "x")]).await;
        ensure!(outcomes != [Outcome::Delivered], "what they said is fresh");
        Ok(outcomes)
    });
    let outcomes = missed.await.expect("missed");
    let fault = fault(&outcomes[0]);
    assert!(fault.kind == TargetFaultKind::Down && fault.message.contains("1 of 3 sentinels"), "{fault:?}");
    set.sentinels[1].start_again().expect("starts again");
    let back = wait::until(LIMIT, "a majority is back", async || {
        let outcomes = deliver(&*sink, &[record(3, "x")]).await;
        ensure!(outcomes == [Outcome::Delivered], "{outcomes:?}");
        Ok(())
    });
    back.await.expect("goes on");
    set.finish();
}

#[tokio::test]
async fn sentinels_have_a_login_of_their_own() {
    let guarded = set().await;
    for (more, expect, word) in [
        (json!({"sentinel_password": "wrong"}), TargetFaultKind::Auth, "WRONGPASS"),
        (json!({"sentinel_password": null}), TargetFaultKind::Auth, "WRONGPASS"),
        (json!({"sentinel_master_name": "other"}), TargetFaultKind::Missing, "other"),
        (json!({"password": "wrong"}), TargetFaultKind::Auth, "WRONGPASS"),
        (json!({"server": "127.0.0.1:1"}), TargetFaultKind::Down, "0 of 1 sentinels"),
    ] {
        let fault = node().open("lists", "redis", guarded.config(&more)).await.err().expect("does not open");
        assert_eq!(fault.kind, expect, "{more} {fault:?}");
        assert!(fault.message.contains(word), "{more} {fault:?}");
    }
    guarded.finish();
    let open = RedisSentinels::with(RedisOptions::default(), None).await.expect("starts");
    let sink = node().open("lists", "redis", open.config(&json!({"sentinel_password": null}))).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    // One password for all is enough.
    let same = json!({"sentinel_password": null, "username": null, "password": ::tests::redis::ADMIN_PASSWORD});
    let all =
        RedisSentinels::with(RedisOptions::default(), Some(::tests::redis::ADMIN_PASSWORD)).await.expect("starts");
    let sink = node().open("lists", "redis", all.config(&same)).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    all.finish();
    open.finish();
}

#[tokio::test]
async fn servers_and_sentinels_speak_tls_under_one_name() {
    let options = RedisOptions { tls_names: Some("DNS:db.example.org".into()), ..RedisOptions::default() };
    let set = RedisSentinels::with(options, Some(SENTINEL_PASSWORD)).await.expect("starts");
    let ca = set.servers[0].certificates().expect("has some").ca.clone();
    let mut more = json!({"tls_enabled": true, "ca_cert_path": ca, "tls_server_name": "db.example.org"});
    let sink = node().open("lists", "redis", set.config(&more)).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    more["tls_server_name"] = json!("other.example.org");
    let fault = node().open("lists", "redis", set.config(&more)).await.err().expect("is refused");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "{fault:?}");
    set.finish();
}
