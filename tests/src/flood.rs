//! Many small messages as fast as one connection takes them, counted and nothing more: QoS 1, MQTT 3.1.1, packets made
//! ahead in chunks.
//!
//! ```text
//!   writer ──chunk of PUBLISHes──▶ broker ──PUBACKs, in order──▶ reader
//!      ▲                                                            │
//!      └───────────── one more chunk may be under way ◀─────────────┘ a chunk is acknowledged
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;

/// Messages of one chunk; packet ids go through all of a cycle of chunks before one is used again.
const CHUNK: u64 = 500;
const CHUNKS_PER_CYCLE: u64 = 100;
/// Enough that the broker always has something to read, few enough that no packet id is under way twice.
const CHUNKS_UNDER_WAY: usize = 8;
const PUBLISH_QOS_1: u8 = 0x32;
const PUBACK: u8 = 0x40;

#[derive(Clone, Debug)]
pub struct FloodOptions {
    pub client_id: String,
    pub port: u16,
    pub topic: String,
    /// A multiple of 500.
    pub count: u64,
    /// At most 100: a packet's length is one byte.
    pub payload_bytes: usize,
}

/// Returns when every message is acknowledged.
pub async fn flood(options: &FloodOptions, limit: Duration) -> Result<()> {
    ensure!(options.count.is_multiple_of(CHUNK), "{} is not a multiple of {CHUNK}", options.count);
    let chunks = options.count / CHUNK;
    let (reader, writer) = connect(options).await?;
    let room = Semaphore::new(CHUNKS_UNDER_WAY);
    let all = async { tokio::try_join!(write(writer, options, chunks, &room), read(reader, chunks, &room)) };
    tokio::time::timeout(limit, all).await.with_context(|| format!("flood not done within {limit:?}"))??;
    Ok(())
}

async fn connect(options: &FloodOptions) -> Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let stream = TcpStream::connect(("127.0.0.1", options.port)).await?;
    let (mut reader, mut writer) = stream.into_split();
    // "MQTT", level 4, clean session, no keep-alive.
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
    body.extend(field(&options.client_id)?);
    writer.write_all(&packet(0x10, &body)?).await?;
    let mut connack = [0; 4];
    reader.read_exact(&mut connack).await?;
    ensure!(connack == [0x20, 2, 0, 0], "not accepted: {connack:02x?}");
    Ok((reader, writer))
}

async fn write(
    mut writer: OwnedWriteHalf,
    options: &FloodOptions,
    chunks: u64,
    room: &Semaphore,
) -> Result<OwnedWriteHalf> {
    let chunks_made: Vec<Vec<u8>> =
        (0..CHUNKS_PER_CYCLE.min(chunks)).map(|chunk| chunk_of(options, chunk)).collect::<Result<_>>()?;
    for chunk in chunks_made.iter().cycle().take(usize::try_from(chunks)?) {
        room.acquire().await?.forget();
        writer.write_all(chunk).await?;
    }
    // Kept open: the acknowledgements are still to come.
    Ok(writer)
}

async fn read(mut reader: OwnedReadHalf, chunks: u64, room: &Semaphore) -> Result<()> {
    let mut acks = vec![0; 4 * usize::try_from(CHUNK)?];
    for chunk in 0..chunks {
        reader.read_exact(&mut acks).await.context("the connection ended before all was acknowledged")?;
        for (place, ack) in acks.chunks_exact(4).enumerate() {
            let id = packet_id(chunk % CHUNKS_PER_CYCLE, place as u64)?.to_be_bytes();
            ensure!(*ack == [PUBACK, 2, id[0], id[1]], "{ack:02x?} instead of the PUBACK of {id:02x?}");
        }
        room.add_permits(1);
    }
    Ok(())
}

fn chunk_of(options: &FloodOptions, chunk: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for place in 0..CHUNK {
        let mut body = field(&options.topic)?;
        body.extend(packet_id(chunk, place)?.to_be_bytes());
        body.resize(body.len() + options.payload_bytes, b'x');
        bytes.extend(packet(PUBLISH_QOS_1, &body)?);
    }
    Ok(bytes)
}

/// From 1: an id is never 0.
fn packet_id(chunk: u64, place: u64) -> Result<u16> {
    Ok(u16::try_from(chunk * CHUNK + place + 1)?)
}

fn packet(first: u8, body: &[u8]) -> Result<Vec<u8>> {
    let length =
        u8::try_from(body.len()).ok().filter(|length| *length < 128).context("a packet of 128 bytes or more")?;
    Ok([&[first, length], body].concat())
}

fn field(text: &str) -> Result<Vec<u8>> {
    Ok([&u16::try_from(text.len())?.to_be_bytes(), text.as_bytes()].concat())
}
