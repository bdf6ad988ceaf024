//! The dead-letter store: letters are numbered, the oldest go by age and by bytes, and a cursor of its own publishes
//! them.
//!
//! ```text
//! commit ──► first … cursor … next      stored with the position, in one batch
//!                     └─► LetterPublisher ──► cursor + 1     at least once
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use api_types::dead_letter::DeadLetterRecord;
use api_types::{Incarnation, Message};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::op::{Call, CallError};
use super::rows::{self, LetterRow, count};
use super::seal::UNREADABLE;
use super::store::{StoreError, format};
use super::turn::Turn;
use super::{Queues, Shared, lock};

const QOS_OF_LETTERS: u8 = 1;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Letters removed in one go: what is left goes at the next tick.
const TRIM_LETTERS_MAX: u64 = 10_000;
/// Letters between two writes of the cursor: after a crash at most these are published again.
const CURSOR_EVERY: u64 = 64;

pub type PublishError = Box<dyn std::error::Error + Send + Sync>;

/// The second step: a letter as a message for connectors and subscribers.
#[async_trait]
pub trait LetterPublisher: Send + Sync {
    /// `Ok` once the message is queued for every connector that matches it.
    async fn publish(&self, message: Message) -> Result<(), PublishError>;
}

/// A letter as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    pub number: u64,
    pub letter: LetterRow,
}

impl Turn<'_> {
    pub fn store_letters(&mut self, letters: Vec<LetterRow>) -> Result<(), StoreError> {
        for letter in letters {
            let value = rows::encode(&letter).map_err(format("a dead letter"))?;
            self.state.letters.bytes += value.len() as u64;
            self.group.batch.put_letter(self.state.letters.next, value);
            self.state.letters.next += 1;
            self.group.letters_dirty = true;
        }
        if self.state.letters.bytes > self.shared.settings.dead_letter_bytes_max { self.trim_letters() } else { Ok(()) }
    }

    /// Removes the oldest letters above the bounds. What this group adds is not on disk yet and stays.
    pub fn trim_letters(&mut self) -> Result<(), StoreError> {
        let settings = &self.shared.settings;
        let (wall_ms, open_ms) = (self.shared.clock.wall_ms(), self.shared.open_ms());
        let letters = &mut self.state.letters;
        let batch = &mut self.group.batch;
        let to = (letters.first + TRIM_LETTERS_MAX).min(self.state.letters_synced);
        let from = letters.first;
        let mut kept = false;
        self.shared.store.scan_letters(from, to, |number, value| {
            let letter = match rows::decode::<LetterRow>(value) {
                Ok(letter) => Some(letter),
                Err(error) => {
                    error!(letter = number, %error, "dead letter unreadable, dropped");
                    None
                }
            };
            let age_ms = |letter: &LetterRow| {
                wall_ms.saturating_sub(letter.stored_ms).min(open_ms.saturating_sub(letter.open_ms))
            };
            let reason = match &letter {
                None => UNREADABLE,
                Some(_) if letters.bytes > settings.dead_letter_bytes_max => "full",
                Some(letter) if age_ms(letter) > settings.dead_letter_age_max_ms => "expired",
                Some(_) => {
                    kept = true;
                    return Ok(ControlFlow::Break(()));
                }
            };
            count(&mut letters.dropped, reason, 1);
            if number >= letters.cursor && letter.is_none_or(|letter| letter.publish) {
                letters.unpublished_dropped += 1;
            }
            letters.bytes = letters.bytes.saturating_sub(value.len() as u64);
            letters.first = number + 1;
            batch.delete_letter(number);
            Ok(ControlFlow::Continue(()))
        })?;
        if !kept {
            // Also over numbers that are not there.
            letters.first = letters.first.max(to);
        }
        let trimmed = letters.first - from;
        if trimmed > 0 {
            letters.cursor = letters.cursor.max(letters.first);
            self.group.letters_dirty = true;
            debug!(letters = trimmed, "dead letters removed by their bounds");
        }
        Ok(())
    }
}

impl Turn<'_> {
    /// Ends a letter that cannot be read, so that those behind it are published. All before it are.
    pub fn drop_letter(&mut self, number: u64) -> Result<(), StoreError> {
        let letters = &mut self.state.letters;
        let Some(value) = self.shared.store.letter(number)? else { return Ok(()) };
        if number < letters.first || rows::decode::<LetterRow>(&value).is_ok() {
            return Ok(());
        }
        error!(letter = number, "dead letter unreadable, dropped");
        count(&mut letters.dropped, UNREADABLE, 1);
        if number >= letters.cursor {
            letters.unpublished_dropped += 1;
        }
        letters.bytes = letters.bytes.saturating_sub(value.len() as u64);
        letters.cursor = letters.cursor.max(number + 1);
        self.group.batch.delete_letter(number);
        self.group.letters_dirty = true;
        Ok(())
    }
}

impl Queues {
    /// Letters of one connector, or of all, from `from` on; at most `limit`.
    pub async fn letters(
        &self,
        incarnation: Option<Incarnation>,
        from: u64,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, CallError> {
        let to = lock(&self.shared.state).letters_synced;
        self.shared
            .read(move |shared| {
                let mut found = Vec::new();
                shared.store.scan_letters(from, to, |number, value| {
                    // One that cannot be read is dropped when it is published or trimmed.
                    let Ok(letter) = rows::decode::<LetterRow>(value) else { return Ok(ControlFlow::Continue(())) };
                    if incarnation.is_none_or(|wanted| wanted == letter.incarnation) {
                        found.push(StoredLetter { number, letter });
                    }
                    Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
                })?;
                Ok(found)
            })
            .await
    }

    pub async fn letter(&self, number: u64) -> Result<Option<StoredLetter>, CallError> {
        self.shared.read(move |shared| stored_letter(shared, number)).await
    }

    /// Publishes letters until cancelled. A letter that cannot be published is tried again for ever: it is kept until
    /// its bound, and those behind it wait.
    pub async fn publish_letters(&self, publisher: Arc<dyn LetterPublisher>, cancel: CancellationToken) {
        // Also a future that hangs inside a publish ends with the token.
        let _ = cancel.run_until_cancelled(self.publish_for_ever(&*publisher)).await;
    }

    async fn publish_for_ever(&self, publisher: &dyn LetterPublisher) {
        let mut published = lock(&self.shared.state).letters.cursor;
        let mut written = published;
        let mut pause = RETRY_FIRST;
        loop {
            let added = self.shared.letters_added.notified();
            let synced = {
                let state = lock(&self.shared.state);
                published = published.max(state.letters.cursor);
                state.letters_synced
            };
            if published >= synced {
                added.await;
                continue;
            }
            match self.publish_one(publisher, published).await {
                Ok(Published::Done) => {
                    published += 1;
                    pause = RETRY_FIRST;
                }
                Ok(Published::Unreadable) => match self.drop_letter(published).await {
                    Ok(()) => {
                        published += 1;
                        written = published;
                    }
                    Err(error) => {
                        debug!(letter = published, %error, "unreadable letter not dropped yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                },
                Err(error) => {
                    warn!(letter = published, %error, "dead letter not published, will be tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            if published >= written + CURSOR_EVERY || (published > written && published == synced) {
                match self.shared.call(Call::LettersPublished { below: published }).await {
                    Ok(_) => written = published,
                    Err(error) => debug!(%error, "letter cursor not written"),
                }
            }
        }
    }

    async fn publish_one(&self, publisher: &dyn LetterPublisher, number: u64) -> Result<Published, PublishError> {
        let value = self.shared.read(move |shared| shared.store.letter(number)).await?;
        let Some(value) = value else { return Ok(Published::Done) };
        let Ok(letter) = rows::decode::<LetterRow>(&value) else { return Ok(Published::Unreadable) };
        if letter.publish {
            publisher.publish(to_message(&letter, self.shared.clock.wall_ms())?).await?;
        }
        Ok(Published::Done)
    }

    /// The cursor comes first: what was published before it is counted as that.
    async fn drop_letter(&self, number: u64) -> Result<(), CallError> {
        self.shared.call(Call::LettersPublished { below: number }).await?;
        self.shared.call(Call::DropLetter { number }).await.map(|_| ())
    }
}

enum Published {
    /// Or not meant to be, or gone.
    Done,
    Unreadable,
}

fn stored_letter(shared: &Shared, number: u64) -> Result<Option<StoredLetter>, StoreError> {
    let Some(value) = shared.store.letter(number)? else { return Ok(None) };
    let letter = rows::decode(&value).map_err(format("a dead letter"))?;
    Ok(Some(StoredLetter { number, letter }))
}

fn to_message(letter: &LetterRow, timestamp_ms: u64) -> Result<Message, serde_json::Error> {
    Ok(Message {
        topic: letter.topic.clone(),
        qos: QOS_OF_LETTERS,
        payload: serde_json::to_vec(&letter.record)?.into(),
        timestamp_ms,
        content_type: Some("application/json".to_owned()),
        dead_letter_of: letter.origins.clone(),
        ..Message::default()
    })
}

/// What a letter says besides its record.
pub(super) struct LetterContext<'a> {
    pub connector_name: &'a str,
    pub filter: &'a str,
    pub topic: String,
    /// Names of the origins, oldest first, this connector last.
    pub connectors: Vec<String>,
    pub stored_ms: u64,
    pub open_ms: u64,
}

/// Builds a letter from the queue's own copy of the record. A record that is a dead letter already is kept to be read
/// and not published again.
pub(super) fn build_letter(
    context: LetterContext<'_>,
    incarnation: Incarnation,
    record_id: api_types::RecordId,
    message: Message,
    (error_class, error_message, retry_times): (String, String, u32),
) -> LetterRow {
    let publish = message.dead_letter_of.is_empty();
    let key = message.key().to_owned();
    let mut origins = message.dead_letter_of;
    origins.push(incarnation);
    LetterRow {
        incarnation,
        topic: context.topic,
        origins,
        publish,
        stored_ms: context.stored_ms,
        open_ms: context.open_ms,
        record: DeadLetterRecord {
            connector_name: context.connector_name.to_owned(),
            source_topic: context.filter.to_owned(),
            error_message,
            retry_times,
            original_key: Some(key),
            original_data: message.payload.into(),
            original_timestamp: message.timestamp_ms / 1000,
            dead_letter_timestamp: context.stored_ms / 1000,
            record_id: record_id.to_string(),
            original_topic: message.topic,
            error_class,
            user_properties: message.user_properties,
            connectors: context.connectors,
        },
    }
}
