//! Reads topics with a consumer of librdkafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Without a message for so long the end must have been misjudged.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().rfind(|(header, _)| header == name)?;
        std::str::from_utf8(&found.1).ok()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.value).unwrap_or("not text")
    }
}

pub(super) async fn messages(servers: String, topic: String) -> Result<Vec<Received>> {
    tokio::task::spawn_blocking(move || read(&servers, &topic)).await?
}

pub(super) async fn leaders(servers: String, topic: String) -> Result<Vec<usize>> {
    tokio::task::spawn_blocking(move || {
        let metadata = consumer(&servers)?.fetch_metadata(Some(&topic), ANSWER_LIMIT)?;
        let found = metadata.topics().first().context("no topic in the answer")?;
        ensure!(found.error().is_none() && !found.partitions().is_empty(), "{topic} is not there");
        let leader = |partition: &MetadataPartition| -> Result<usize> {
            ensure!(partition.leader() > 0, "{topic} [{}] has no leader", partition.id());
            Ok(usize::try_from(partition.leader())? - 1)
        };
        found.partitions().iter().map(leader).collect()
    })
    .await?
}

pub(super) async fn topics(servers: String) -> Result<Vec<String>> {
    tokio::task::spawn_blocking(move || {
        let metadata = consumer(&servers)?.fetch_metadata(None, ANSWER_LIMIT)?;
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        Ok(names.filter(|name| !name.starts_with("__")).collect())
    })
    .await?
}

fn consumer(servers: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", "reader").set("enable.auto.commit", "false");
    // The largest message of a test, at once.
    config.set("fetch.message.max.bytes", "50000000").set("check.crcs", "true");
    Ok(config.create()?)
}

fn read(servers: &str, topic: &str) -> Result<Vec<Received>> {
    let mut reader = TopicReader::open(servers, topic)?;
    reader.read()?;
    let mut received = reader.received;
    received.sort_by_key(|message| (message.partition, message.offset));
    Ok(received)
}

/// Remembers what it has read of a topic. All of it blocks.
pub struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    /// The next offset of each partition.
    positions: BTreeMap<i32, i64>,
    received: Vec<Received>,
}

impl TopicReader {
    pub fn open(servers: &str, topic: &str) -> Result<Self> {
        let consumer = consumer(servers)?;
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_LIMIT)?;
        let found = metadata.topics().first().context("no topic in the answer")?;
        ensure!(found.error().is_none(), "{topic}: {:?}", found.error());
        let mut assignment = TopicPartitionList::new();
        let mut positions = BTreeMap::new();
        for partition in found.partitions() {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            positions.insert(partition.id(), 0);
        }
        consumer.assign(&assignment)?;
        Ok(Self { consumer, topic: topic.to_owned(), positions, received: Vec::new() })
    }

    /// Everything that is in the topic now, each partition in its order.
    pub fn read(&mut self) -> Result<&[Received]> {
        let mut left = 0;
        for (partition, position) in &self.positions {
            let (_, end) = self.consumer.fetch_watermarks(&self.topic, *partition, ANSWER_LIMIT)?;
            left += end - position;
        }
        let (mut last, mut trouble) = (Instant::now(), None);
        while left > 0 {
            let message = match self.consumer.poll(SILENCE_LIMIT) {
                Some(Ok(message)) => message,
                // A connection that broke off, now or since somebody last read: it comes back by itself.
                Some(Err(error)) if last.elapsed() < SILENCE_LIMIT => {
                    trouble = Some(error);
                    continue;
                }
                Some(Err(error)) => bail!("{left} messages of {} do not come: {error}", self.topic),
                None => bail!("{left} messages of {} do not come; {trouble:?}", self.topic),
            };
            last = Instant::now();
            let received = received(&message);
            let position = self.positions.get_mut(&received.partition).context("a message of another partition")?;
            // Nothing is ever deleted, so that offsets have no gaps.
            ensure!(received.offset == *position, "{} after {position}", received.offset);
            *position += 1;
            left -= 1;
            self.received.push(received);
        }
        Ok(&self.received)
    }
}

fn received(message: &BorrowedMessage<'_>) -> Received {
    let headers = message.headers().map(|headers| {
        let owned = |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.unwrap_or_default().to_vec());
        headers.iter().map(owned).collect()
    });
    Received {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: headers.unwrap_or_default(),
    }
}
