//! Two nodes.

use rustix::process::Signal;

use super::*;

type Pair = (Cassandra, Cassandra);

static PAIR: Mutex<Weak<Mutex<Pair>>> = Mutex::const_new(Weak::new());

/// The pair that tests take turns at, with a table of this name in both keyspaces.
async fn pair_with(table: &str) -> OwnedMutexGuard<Pair> {
    let pair = {
        let mut known = PAIR.lock().await;
        match known.upgrade() {
            Some(pair) => pair,
            None => {
                let (first, second) = two_nodes().await;
                let pair = Arc::new(Mutex::new((first.keep_nothing(), second.keep_nothing())));
                *known = Arc::downgrade(&pair);
                pair
            }
        }
    };
    let mut pair = pair.lock_owned().await;
    let (first, second) = &mut *pair;
    for node in [&mut *first, second] {
        node.revive().await.expect("goes on, whatever the test before has left");
    }
    make_tables(first, table).await;
    // A node that has stood still is believed to be there again.
    let sink = opened(first.config(table, &json!({ "keyspace": "twice", "consistency": "all" }))).await;
    delivered_at_last(&*sink, &numbered(0..20)).await;
    sink.close().await;
    pair
}

async fn make_tables(first: &Cassandra, table: &str) {
    first.run(&[&format!("CREATE TABLE IF NOT EXISTS twice.{table} ({COLUMNS})")]).await.expect("makes the table");
    first.make_table(table, COLUMNS).await.expect("makes the table");
}

/// With a keyspace whose rows are on both nodes, and one whose rows are on one each.
async fn two_nodes() -> Pair {
    let options = CassandraOptions {
        login: false,
        write_timeout: "2s",
        token: Some(i64::MIN + 1),
        ..CassandraOptions::default()
    };
    let first = Cassandra::with(options.clone()).await.expect("Cassandra starts");
    let second = CassandraOptions {
        address: "127.0.0.2",
        ports: Some(first.ports()),
        joins: Some("127.0.0.1"),
        token: Some(0),
        ..options
    };
    let second = Cassandra::with(second).await.expect("a second one starts");
    let both = wait::until(LIMIT, "they know each other", async || {
        for node in [&first, &second] {
            let peers = node.rows("SELECT peer FROM system.peers").await?;
            ensure!(peers.len() == 1, "{peers:?}");
        }
        Ok(())
    });
    both.await.expect("a ring");
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 2}";
    first.run(&[&format!("CREATE KEYSPACE twice WITH replication = {replication}")]).await.expect("makes it");
    (first, second)
}

/// Writes that a node has had as the coordinator, since it was started.
async fn coordinated(node: &Cassandra, table: &str) -> u64 {
    let query = format!(
        "SELECT count FROM system_views.coordinator_write_latency WHERE keyspace_name = '{KEYSPACE}' \
                         AND table_name = '{table}'"
    );
    node.rows(&query).await.expect("reads").first().map_or(0, |row| row["count"].as_u64().expect("a number"))
}

/// Writes of rows that a node keeps itself.
async fn kept(node: &Cassandra, table: &str) -> u64 {
    let query = format!(
        "SELECT count FROM system_views.local_write_latency WHERE keyspace_name = '{KEYSPACE}' \
                         AND table_name = '{table}'"
    );
    node.rows(&query).await.expect("reads").first().map_or(0, |row| row["count"].as_u64().expect("a number"))
}

#[tokio::test]
async fn rows_go_to_a_node_that_has_them() {
    const TABLE: &str = "near";
    let pair = pair_with(TABLE).await;
    let (first, second) = &*pair;
    let sink = opened(first.config(TABLE, &json!({}))).await;
    assert_eq!(deliver(&*sink, &numbered(0..1_000)).await, vec![Outcome::Delivered; 1_000]);
    let (mut all, mut shares) = (0, Vec::new());
    for node in [first, second] {
        let (coordinates, has) = (coordinated(node, TABLE).await, kept(node, TABLE).await);
        // Every row came to the node that keeps it, and to no other.
        assert_eq!(coordinates, has, "token-aware");
        all += has;
        shares.push(has);
    }
    println!("measured: {shares:?} rows on the nodes");
    assert!(all == 1_000 && shares.iter().all(|share| *share > 200), "{shares:?}");
    sink.close().await;
}

/// Though the other one names it.
#[tokio::test]
async fn a_node_whose_network_is_denied_is_not_reached() {
    const TABLE: &str = "denied";
    let pair = pair_with(TABLE).await;
    let (first, second) = &*pair;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.2/32"]);
    let sink = denying.open("rows", "cassandra", first.config(TABLE, &json!({}))).await.expect("opens");
    assert_eq!(deliver(&*sink, &numbered(0..1_000)).await, vec![Outcome::Delivered; 1_000]);
    assert_eq!((coordinated(first, TABLE).await, coordinated(second, TABLE).await), (1_000, 0));
    sink.close().await;
}

/// As while a cluster gets a new release node by node. What counts is the table: all of them know it as it is.
#[tokio::test]
async fn several_versions_of_the_schema_with_the_same_table_hold_nobody_up() {
    const TABLE: &str = "versions";
    let pair = pair_with(TABLE).await;
    let (first, second) = &*pair;
    let versions = "SELECT schema_version FROM system.local";
    let version = second.rows(versions).await.expect("reads")[0]["schema_version"].clone();
    let version = version.as_str().expect("a version");
    let set = async |version: &str| {
        let statement = format!("UPDATE system.local SET schema_version = {version} WHERE key = 'local'");
        second.run(&[&statement]).await.expect("changes");
    };
    let sent = numbered(0..1_000);
    let sink = opened(first.config(TABLE, &json!({}))).await;
    set("00000000-0000-0000-0000-000000000001").await;
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 1_000]);
    let another = opened(first.config(TABLE, &json!({}))).await;
    assert_eq!(deliver(&*another, &sent).await, vec![Outcome::Delivered; 1_000]);
    another.close().await;
    set(version).await;
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 1_000]);
    sink.close().await;
}

/// What the other one has confirmed is delivered, though nobody can ask the silent one for its schema.
#[tokio::test]
async fn a_node_that_falls_silent_takes_nothing_back_that_the_other_one_has_confirmed() {
    const TABLE: &str = "silent";
    let pair = pair_with(TABLE).await;
    let (first, second) = &*pair;
    let sink = opened(first.config(TABLE, &json!({ "timeout_secs": 5 }))).await;
    let sent = numbered(0..100);
    delivered_at_last(&*sink, &sent).await;
    second.signal(Signal::STOP).expect("stops");
    let outcomes = deliver(&*sink, &sent).await;
    let delivered = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count();
    assert!((1..100).contains(&delivered), "{delivered} of 100: {outcomes:?}");
    for outcome in outcomes.iter().filter(|outcome| **outcome != Outcome::Delivered) {
        assert_eq!(fault(outcome).kind, TargetFaultKind::Down, "{outcome:?}");
    }
    second.signal(Signal::CONT).expect("continues");
    delivered_at_last(&*sink, &sent).await;
    sink.close().await;
}

/// Half of two is not most of them: the default waits, and says what the server says.
#[tokio::test]
async fn replicas_are_waited_for_unless_one_is_said_to_be_enough() {
    const TABLE: &str = "replicas";
    let pair = pair_with(TABLE).await;
    let (first, second) = &*pair;
    let sent = numbered(0..1_000);
    let both = first.config(TABLE, &json!({ "keyspace": "twice", "timeout_secs": 5 }));
    let more = json!({ "keyspace": "twice", "consistency": "local_one", "timeout_secs": 5 });
    let one = first.config(TABLE, &more);
    let (both, one) = (opened(both).await, opened(one).await);
    assert_eq!(deliver(&*both, &sent).await, vec![Outcome::Delivered; 1_000]);
    second.signal(Signal::STOP).expect("stops");
    let waits = wait::until(LIMIT, "a replica is missed", async || {
        let outcomes = deliver(&*both, &sent[..20]).await;
        let missed = outcomes.iter().any(|outcome| {
            matches!(outcome, Outcome::TargetFault(fault) if fault.message.contains("received only 1 responses")
                || fault.message.contains("Cannot achieve consistency level LOCAL_QUORUM"))
        });
        ensure!(missed && outcomes.iter().all(|outcome| *outcome != Outcome::Delivered), "{outcomes:?}");
        Ok(())
    });
    waits.await.expect("waits");
    // One is enough for who says so.
    delivered_at_last(&*one, &sent).await;
    second.signal(Signal::CONT).expect("continues");
    delivered_at_last(&*both, &sent).await;
    both.close().await;
    one.close().await;
}

#[tokio::test]
async fn a_node_that_is_killed_is_gone_round_and_comes_back() {
    const COUNT: u64 = 5_000;
    let (first, mut second) = two_nodes().await;
    make_tables(&first, TABLE).await;
    let queue = MemoryQueue::with((0..COUNT).map(numbered_message));
    let more = json!({ "keyspace": "twice", "consistency": "one", "batch_records": 100, "timeout_secs": 5 });
    let task = run(&queue, first.config(TABLE, &more));
    double::until("it is in the middle", || queue.position() > COUNT / 10).await;
    second.kill().expect("kills");
    queue.all_committed().await;
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    // Rows that are on one node each: those of the node that is left are taken, however many others there are.
    let sink = opened(first.config(TABLE, &json!({ "max_inserts_in_flight": 10, "timeout_secs": 30 }))).await;
    let taken = wait::until(LIMIT, "the rows of the other node are refused", async || {
        let outcomes = deliver(&*sink, &numbered(0..1_000)).await;
        let held = outcomes.iter().filter(|outcome| **outcome == Outcome::TargetFault(TargetFault::held())).count();
        ensure!(held == 0, "{held} are held back");
        Ok(outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count())
    });
    let taken = taken.await.expect("goes on");
    assert!((200..800).contains(&taken), "{taken}");
    sink.close().await;
    second.start_again().await.expect("starts again");
    let found = first.rows(&format!("SELECT count(*) AS n FROM twice.{TABLE}")).await.expect("reads");
    assert_eq!(found[0]["n"], json!(COUNT));
    first.finish();
    second.finish();
}
