//! Publishes messages of any shape over MQTT 5, QoS 1, and remembers in which order.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tests::publisher::Published;

use crate::shapes::Message;

const WINDOW: u16 = 100;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What was acknowledged: for each message who it came from, on which topic, and where it stands in that order.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub places: BTreeMap<String, Place>,
    /// Publishes that a publisher sent again, because its connection ended before the acknowledgement came.
    pub sent_again: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// One publisher and one topic.
    pub stream: String,
    pub number: u64,
}

impl Sent {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.places.keys()
    }

    pub fn of_messages(messages: &[Message]) -> Self {
        let place = |(number, message): (usize, &Message)| {
            let stream = format!("{}\0{}", message.client_id, message.topic);
            (message.name.clone(), Place { stream, number: number as u64 })
        };
        Self { places: messages.iter().enumerate().map(place).collect(), sent_again: 0 }
    }

    /// Of publishers of the harness, each on one topic; their messages are named `publisher-number`.
    pub fn of_published(published: &Published) -> Result<Self> {
        let mut places = BTreeMap::new();
        for name in published.acknowledged.keys() {
            let (stream, number) = name.rsplit_once('-').context("a name without a number")?;
            places.insert(name.clone(), Place { stream: stream.to_owned(), number: number.parse()? });
        }
        Ok(Self { places, sent_again: published.sent_again })
    }
}

/// Publishes all of them, those of one client id over one connection and in their order; returns when every one is
/// acknowledged.
pub async fn publish(messages: &[Message], port: u16, limit: Duration) -> Result<Sent> {
    let mut by_client: BTreeMap<&str, Vec<&Message>> = BTreeMap::new();
    for message in messages {
        by_client.entry(&message.client_id).or_default().push(message);
    }
    for (client_id, messages) in by_client {
        let all = publish_as(client_id, &messages, port);
        tokio::time::timeout(limit, all)
            .await
            .with_context(|| format!("{client_id:?} not done within {limit:?}"))??;
    }
    let sent = Sent::of_messages(messages);
    ensure!(sent.len() == messages.len(), "two messages have one name");
    Ok(sent)
}

async fn publish_as(client_id: &str, messages: &[&Message], port: u16) -> Result<()> {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
    options.set_keep_alive(KEEP_ALIVE).set_outgoing_inflight_upper_limit(WINDOW);
    let (client, mut events) = AsyncClient::new(options, usize::from(WINDOW));
    let (mut submitted, mut acknowledged) = (0, 0);
    while acknowledged < messages.len() {
        while submitted < messages.len() && submitted - acknowledged < usize::from(WINDOW) {
            submit(&client, messages[submitted])?;
            submitted += 1;
        }
        acknowledged += usize::from(is_acknowledgement(&mut events).await?);
    }
    client.try_disconnect()?;
    // Until it has left; how the connection ends does not matter then.
    while !matches!(events.poll().await, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect))) {}
    Ok(())
}

fn submit(client: &AsyncClient, message: &Message) -> Result<()> {
    let properties =
        PublishProperties { user_properties: message.user_properties.clone(), ..PublishProperties::default() };
    client
        .try_publish_with_properties(
            message.topic.clone(),
            QoS::AtLeastOnce,
            false,
            message.payload.clone(),
            properties,
        )
        .with_context(|| format!("publish {}", message.name))
}

async fn is_acknowledgement(events: &mut EventLoop) -> Result<bool> {
    match events.poll().await.context("the publisher's connection")? {
        Event::Incoming(Packet::PubAck(ack)) => match ack.reason {
            PubAckReason::Success => Ok(true),
            other => bail!("not accepted: {other:?}"),
        },
        Event::Incoming(_) | Event::Outgoing(_) => Ok(false),
    }
}
