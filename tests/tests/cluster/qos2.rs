//! QoS 2 packet ids belong to a session. Every connection begins a new one, so an id that the last one left unreleased
//! names another message now.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, ClusterOptions};
use tests::records;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{LIMIT, all_arrived};

const CONNACK: u8 = 0x20;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_new_session_may_use_the_ids_that_the_last_one_left_open() -> Result<()> {
    let mut cluster = Cluster::with(ClusterOptions { nodes: 1, ..Default::default() }).await?;
    let (connector, path) = cluster.file_connector("twice_one", "qos2/#");
    cluster.create_running(0, &connector).await?;
    let port = cluster.nodes[0].mqtt_port;

    // 3.1.1 with and without "clean session", which changes nothing while there are no persistent sessions; and 5.
    let mut sent = Vec::new();
    for (level, clean) in [(4, true), (4, false), (5, true)] {
        let name = |number: u32| format!("level-{level}-clean-{clean}-{number}");
        let mut first = RawClient::connect(port, level, clean).await?;
        // Sent again on the same connection it is a repeat.
        first.publish(1, &name(1)).await?;
        first.publish(1, &name(1)).await?;
        drop(first);

        let mut second = RawClient::connect(port, level, clean).await?;
        second.publish(1, &name(2)).await?;
        second.release(1).await?;
        second.publish(1, &name(3)).await?;
        second.release(1).await?;
        sent.extend([name(1), name(2), name(3)]);
    }
    let arrived = all_arrived("twice_one", LIMIT, &sent, || records::of_file(&path)).await?;
    ensure!(arrived.repeated() == 0 && arrived.messages.len() == sent.len(), "{:?}", arrived.messages);
    let ledger = cluster.drained(0, "twice_one", LIMIT).await?;
    ensure!(ledger.queued == sent.len() as u64, "{ledger:?}");
    cluster.finish().await
}

/// A client that writes what a test wants, byte by byte. Packets are shorter than 128 bytes.
struct RawClient {
    stream: TcpStream,
    level: u8,
}

impl RawClient {
    async fn connect(port: u16, level: u8, clean: bool) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut client = Self { stream, level };
        let mut body = field("MQTT")?;
        body.extend([level, u8::from(clean) << 1, 0, 60]);
        body.extend(client.no_properties());
        body.extend(field("twice-one")?);
        client.send(0x10, &body).await?;
        let connack = client.answer(CONNACK).await?;
        ensure!(connack[..2] == [0, 0], "not accepted, or a session is said to be there: {connack:02x?}");
        Ok(client)
    }

    /// PUBLISH with QoS 2, and the PUBREC that answers it.
    async fn publish(&mut self, packet_id: u16, message: &str) -> Result<()> {
        let mut body = field("qos2/a")?;
        body.extend(packet_id.to_be_bytes());
        body.extend(self.no_properties());
        body.extend(serde_json::json!({ "message": message }).to_string().into_bytes());
        self.send(0x34, &body).await?;
        let pubrec = self.answer(PUBREC).await?;
        ensure!(pubrec[..2] == packet_id.to_be_bytes(), "{pubrec:02x?}");
        Ok(())
    }

    async fn release(&mut self, packet_id: u16) -> Result<()> {
        self.send(PUBREL, &packet_id.to_be_bytes()).await?;
        let pubcomp = self.answer(PUBCOMP).await?;
        ensure!(pubcomp[..2] == packet_id.to_be_bytes(), "{pubcomp:02x?}");
        Ok(())
    }

    fn no_properties(&self) -> &'static [u8] {
        if self.level == 5 { &[0] } else { &[] }
    }

    async fn send(&mut self, first: u8, body: &[u8]) -> Result<()> {
        let length = u8::try_from(body.len()).ok().filter(|length| *length < 128).context("a long packet")?;
        self.stream.write_all(&[&[first, length], body].concat()).await?;
        Ok(())
    }

    /// The body of the next packet, which must be of this type.
    async fn answer(&mut self, first: u8) -> Result<Vec<u8>> {
        let read = async {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await?;
            let mut body = vec![0; usize::from(head[1])];
            self.stream.read_exact(&mut body).await?;
            ensure!(head[0] == first && body.len() >= 2, "{head:02x?} {body:02x?} instead of {first:02x}");
            Ok(body)
        };
        tokio::time::timeout(ANSWER_LIMIT, read).await.context("no answer")?
    }
}

fn field(text: &str) -> Result<Vec<u8>> {
    Ok([&u16::try_from(text.len())?.to_be_bytes(), text.as_bytes()].concat())
}
