//! Every protocol version and quality of service in, and live subscriptions out, across nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::cluster::Cluster;
use tests::mosquitto::{self, Subscriber};
use tests::{records, wait};

use crate::{LIMIT, all_arrived};

/// A message that is on its way arrives within this; else it is published again.
const ROUND_TRIP: Duration = Duration::from_secs(1);

#[tokio::test]
async fn all_versions_and_qualities_of_service_are_delivered() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (file, path) = cluster.file_connector("versions", "in/+/#");
    cluster.create_running(0, &file).await?;
    let mut sent = Vec::new();
    for (index, version) in ["mqttv31", "mqttv311", "mqttv5"].into_iter().enumerate() {
        for qos in ["0", "1", "2"] {
            let name = format!("{version}-{qos}");
            let (topic, message) = (format!("in/{version}/{qos}"), json!({ "message": name }).to_string());
            let port = cluster.nodes[index].mqtt_port;
            mosquitto::publish(port, &["-V", version, "-q", qos, "-t", &topic, "-m", &message]).await?.success()?;
            sent.push(name);
        }
    }
    let arrived = all_arrived("versions", LIMIT, &sent, || records::of_file(&path)).await?;
    ensure!(arrived.envelopes.len() == 9 && arrived.repeated() == 0, "{} arrived", arrived.envelopes.len());
    for envelope in &arrived.envelopes {
        let name = envelope["payload"]["message"].as_str().unwrap_or_default();
        let (version, qos) = name.split_once('-').unwrap_or_default();
        ensure!(envelope["qos"].as_u64() == qos.parse().ok(), "{envelope}");
        ensure!(envelope["topic"] == format!("in/{version}/{qos}"), "{envelope}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn a_subscriber_hears_what_is_published_on_another_node() -> Result<()> {
    let cluster = Cluster::start().await?;
    for (here, there) in [(0, 0), (0, 1), (1, 2), (2, 0)] {
        let topic = format!("live/{here}/{there}");
        let mut subscriber = Subscriber::start(cluster.nodes[here].mqtt_port, &topic).await?;
        let port = cluster.nodes[there].mqtt_port;
        // The other nodes learn of the subscription a moment after the client: publish until it is heard.
        let heard = wait::until(LIMIT, &format!("{there} to {here}"), async || {
            mosquitto::publish(port, &["-q", "1", "-t", &topic, "-m", "hello"]).await?.success()?;
            subscriber.next(ROUND_TRIP).await
        })
        .await?;
        ensure!(heard == "hello");
        subscriber.stop().await?;
    }
    cluster.finish().await
}
