//! Random bytes at the MQTT and RPC ports: nothing crashes, nothing grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tests::cluster::Cluster;
use tests::{records, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{LIMIT, all_arrived, connect, publish_one};

const RUN: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_secs(3);
const CONNECTIONS: u64 = 8;
/// What the allocator and RocksDB may take meanwhile; a leak of one buffer per connection is far more.
const GROWTH_BYTES_MAX: u64 = 48 * 1024 * 1024;
const GROWTH_FILES_MAX: usize = 12;

const MQTT_CONNECT: &[u8] = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc";
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_break_and_grow_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (file, path) = cluster.file_connector("sound", "sound/#");
    cluster.create_running(0, &file).await?;
    let ports = [cluster.nodes[0].mqtt_port, cluster.nodes[0].rpc_port];

    // The first connections of a process fill caches and arenas: what counts is growth after that.
    throw(ports, WARM_UP, 1).await?;
    let before = settled(&cluster).await?;
    let connections = throw(ports, RUN, 2).await?;
    let after = settled(&cluster).await?;
    println!("measured: {connections} connections of garbage, {before:?} before, {after:?} after (bytes, open files)");
    ensure!(connections > 500, "only {connections} connections were made: this test shows nothing");
    ensure!(after.0 < before.0 + GROWTH_BYTES_MAX, "memory grew from {} to {}", before.0, after.0);

    let mut session = connect("sane", cluster.nodes[0].mqtt_port).await?;
    publish_one(&mut session, "sound/a", "still-here").await?;
    all_arrived("sound", LIMIT, [&"still-here".to_owned()], || records::of_file(&path)).await?;
    let listed = cluster.api(1).names().await?;
    ensure!(listed == ["sound"], "{listed:?}");
    cluster.finish().await
}

/// Resident bytes and open files, once the connections are gone.
async fn settled(cluster: &Cluster) -> Result<(u64, usize)> {
    let node = &cluster.nodes[0];
    let base = node.process()?.open_files()?;
    // Half-open connections end by the listener's own time limits.
    wait::until(LIMIT, "open files come down", || async {
        let files = node.process()?.open_files()?;
        ensure!(files <= base.min(120) + GROWTH_FILES_MAX, "{files} open files");
        Ok((node.process()?.resident_bytes()?, files))
    })
    .await
}

/// Connects again and again for a while; gives the number of connections.
async fn throw(ports: [u16; 2], time: Duration, seed: u64) -> Result<u64> {
    let made = Arc::new(AtomicU64::new(0));
    let mut throwers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let made = Arc::clone(&made);
        let port = ports[number as usize % ports.len()];
        let mut random = StdRng::seed_from_u64(seed * 1_000 + number);
        throwers.spawn(async move {
            let thrower = async {
                loop {
                    one_connection(port, &mut random).await.context("the listener does not accept any more")?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
            };
            match tokio::time::timeout(time, thrower).await {
                Ok(ended) => ended,
                Err(_) => anyhow::Ok(()),
            }
        });
    }
    while let Some(thrower) = throwers.join_next().await {
        thrower??;
    }
    Ok(made.load(Ordering::Relaxed))
}

/// One connection: perhaps a good beginning, then random bytes, then whatever comes back, for a moment.
async fn one_connection(port: u16, random: &mut StdRng) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut bytes = match random.random_range(0..4) {
        0 => MQTT_CONNECT.to_vec(),
        1 => HTTP2_PREFACE.to_vec(),
        2 => b"POST /raft/append HTTP/1.1\r\nHost: x\r\nContent-Length: 4294967295\r\n\r\n".to_vec(),
        _ => Vec::new(),
    };
    let good = bytes.len();
    bytes.resize(good + random.random_range(1..4_096), 0);
    random.fill_bytes(&mut bytes[good..]);
    // Refused, closed or reset: all of it is fine. Only the next connect must work.
    if stream.write_all(&bytes).await.is_ok() {
        let mut answer = [0; 1_024];
        let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await;
    }
    Ok(())
}
