//! A message on its way to subscribers, here and on other nodes.

use std::num::NonZeroU32;
use std::time::Duration;

use api_types::Message;
use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::session::SessionId;
use super::wire::Properties;

/// Shared by all subscribers that get it.
#[derive(Clone, Debug)]
pub struct Publication {
    pub topic: ByteString,
    pub payload: Bytes,
    pub qos: u8,
    pub retain: bool,
    pub properties: Properties,
    pub expires_at: Option<Instant>,
    /// The session on this node that published it, for `no local`.
    pub publisher: Option<SessionId>,
}

impl Publication {
    /// Of what a client on this node published. The payload is copied: otherwise one small message that waits for a
    /// slow subscriber would keep the whole read buffer alive.
    pub fn received(message: &Message, properties: Properties, publisher: Option<SessionId>, now: Instant) -> Self {
        let expires_at = properties.expiry_secs.map(|secs| now + Duration::from_secs(u64::from(secs.get())));
        Self {
            topic: ByteString::from(message.topic.as_str()),
            payload: Bytes::copy_from_slice(&message.payload),
            qos: message.qos,
            retain: message.retain,
            properties,
            expires_at,
            publisher,
        }
    }

    /// Of a message made by the broker itself, such as a dead letter.
    pub fn internal(message: &Message) -> Self {
        let text = |text: &Option<String>| text.as_deref().map(ByteString::from);
        let pair = |(name, value): &(String, String)| (name.as_str().into(), value.as_str().into());
        Self {
            topic: ByteString::from(message.topic.as_str()),
            payload: message.payload.clone(),
            qos: message.qos,
            retain: message.retain,
            properties: Properties {
                content_type: text(&message.content_type),
                response_topic: text(&message.response_topic),
                correlation_data: message.correlation_data.clone(),
                user: message.user_properties.iter().map(pair).collect(),
                ..Properties::default()
            },
            expires_at: None,
            publisher: None,
        }
    }

    /// What is left of the message expiry; `Err` = it has passed.
    pub fn remaining_expiry(&self, now: Instant) -> Result<Option<NonZeroU32>, Expired> {
        let Some(expires_at) = self.expires_at else { return Ok(None) };
        let left = expires_at.checked_duration_since(now).ok_or(Expired)?;
        // The second that has begun counts, or a message of one second could never be delivered.
        let secs = left.as_millis().div_ceil(1000).try_into().unwrap_or(u32::MAX);
        NonZeroU32::new(secs).map(Some).ok_or(Expired)
    }

    /// Bytes it counts for in the bounds of queues.
    pub fn size_bytes(&self) -> usize {
        let properties = &self.properties;
        let user: usize = properties.user.iter().map(|(name, value)| name.len() + value.len()).sum();
        let texts = [&properties.content_type, &properties.response_topic];
        let optional: usize = texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
            + properties.correlation_data.as_ref().map_or(0, Bytes::len);
        self.topic.len() + self.payload.len() + user + optional + 128
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

/// A publication between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedPublication {
    topic: String,
    payload: Bytes,
    qos: u8,
    retain: bool,
    utf8_payload: bool,
    expiry_secs: Option<NonZeroU32>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<Bytes>,
    user: Vec<(String, String)>,
}

impl ForwardedPublication {
    /// `None` when it has expired.
    pub fn of(publication: &Publication, now: Instant) -> Option<Self> {
        let text = |text: &Option<ByteString>| text.as_deref().map(str::to_owned);
        let properties = &publication.properties;
        Some(Self {
            topic: publication.topic.to_string(),
            payload: publication.payload.clone(),
            qos: publication.qos,
            retain: publication.retain,
            utf8_payload: properties.utf8_payload,
            expiry_secs: publication.remaining_expiry(now).ok()?,
            content_type: text(&properties.content_type),
            response_topic: text(&properties.response_topic),
            correlation_data: properties.correlation_data.clone(),
            user: properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        })
    }

    pub fn into_publication(self, now: Instant) -> Publication {
        Publication {
            topic: self.topic.into(),
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            properties: Properties {
                utf8_payload: self.utf8_payload,
                expiry_secs: self.expiry_secs,
                content_type: self.content_type.map(ByteString::from),
                response_topic: self.response_topic.map(ByteString::from),
                correlation_data: self.correlation_data,
                user: self.user.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            },
            expires_at: self.expiry_secs.map(|secs| now + Duration::from_secs(u64::from(secs.get()))),
            publisher: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiring(secs: Option<u32>, now: Instant) -> Publication {
        let properties = Properties {
            utf8_payload: true,
            expiry_secs: secs.and_then(NonZeroU32::new),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers".into()),
            correlation_data: Some(Bytes::from_static(b"42")),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        };
        let message = Message { topic: "t".into(), payload: "p".into(), qos: 1, retain: true, ..Message::default() };
        Publication::received(&message, properties, None, now)
    }

    #[test]
    fn a_message_expires_with_its_last_second() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        assert_eq!(expiring(None, now).remaining_expiry(after(1_000_000)), Ok(None));
        for (ms, expect) in [(0, Ok(2)), (900, Ok(2)), (1000, Ok(1)), (1999, Ok(1)), (2000, Err(Expired))] {
            let left = expiring(Some(2), now).remaining_expiry(after(ms));
            assert_eq!(left, expect.map(NonZeroU32::new), "{ms}");
        }
    }

    #[test]
    fn nothing_is_lost_between_nodes_but_the_time_it_took() {
        let now = Instant::now();
        let sent = expiring(Some(9), now);
        let later = now + Duration::from_secs(3);
        let forwarded = ForwardedPublication::of(&sent, later).expect("has not expired");
        let bytes = postcard::to_allocvec(&forwarded).expect("encodes");
        let arrived: ForwardedPublication = postcard::from_bytes(&bytes).expect("decodes");
        let arrived = arrived.into_publication(later);
        assert_eq!(arrived.properties.expiry_secs, NonZeroU32::new(6));
        let expect = Properties { expiry_secs: NonZeroU32::new(6), ..sent.properties.clone() };
        assert_eq!(arrived.properties, expect);
        assert_eq!((arrived.topic, arrived.payload, arrived.qos, arrived.retain), ("t".into(), "p".into(), 1, true));
        assert_eq!(ForwardedPublication::of(&sent, now + Duration::from_secs(9)), None);
    }
}
