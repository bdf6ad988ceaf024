//! A connection to one broker, shared by all producers there. One task owns its socket.
//!
//! ```text
//!   request, publish ──Ask──► driver ──► outbox ──► socket
//!          ▲                    │ by request id; by producer
//!          └──── one answer ────┴──◄── inbox ◄────── socket
//! ```

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::connect::{Address, Dialer, Link, auth_response, unreadable};
use super::entry::Entry;
use super::fault::{down, interrupted};
use super::proto::{BaseCommand, CloseProducer, CommandKind, SendError};
use super::wire::{self, Answer, Heard};
use crate::sink::TargetFault;
use crate::sinks::shared::outbox::Outbox;
use crate::sinks::shared::stream::broken;

/// Each waits for its answer, so there are few at a time; those above it wait at the door.
const ASKS_MAX: usize = 64;
/// While so much waits for the socket, nothing more is taken. One entry may go over it.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Pulsar's own clients and brokers ask each other as often.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Two questions without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Connection {
    asks: mpsc::Sender<Ask>,
    next_id: AtomicU64,
    pub(super) message_bytes_max: usize,
    /// Its socket is silent from then on, and its task ends.
    silent: CancellationToken,
    lost: Arc<OnceLock<TargetFault>>,
}

/// What became of an entry.
#[derive(Debug)]
pub(super) enum Receipt {
    /// The broker has it, or had it before.
    Taken,
    Refused(SendError),
    /// The producer is gone: its topic was unloaded, deleted, or taken over. Nobody knows what became of the entry.
    Closed,
    /// The producer was gone before, and nothing was sent.
    Unsent,
}

enum Ask {
    Request { id: u64, command: Box<BaseCommand>, answer: oneshot::Sender<Answer> },
    Publish { producer_id: u64, entry: Entry, receipt: oneshot::Sender<Receipt> },
    Leave { producer_id: u64, request_id: u64, answer: oneshot::Sender<Answer> },
}

/// An entry that waits for its receipt. A producer has one at a time.
struct Waiting {
    /// The broker names the first one in a receipt, and the last one in a refusal.
    sequence_ids: RangeInclusive<u64>,
    receipt: oneshot::Sender<Receipt>,
}

impl Connection {
    pub(super) async fn open(dialer: &Dialer, address: &Address) -> Result<Self, TargetFault> {
        let silent = dialer.aborted.child_token();
        let link = dialer.connect(address, silent.clone()).await?;
        let message_bytes_max = link.message_bytes_max;
        let (sender, asks) = mpsc::channel(ASKS_MAX);
        let lost = Arc::new(OnceLock::new());
        let driver = Driver {
            traffic: Traffic::default(),
            asks,
            auth: Arc::clone(&dialer.auth),
            response: None,
            silent: silent.clone(),
            lost: Arc::clone(&lost),
        };
        tokio::spawn(driver.run(link));
        Ok(Self { asks: sender, next_id: AtomicU64::new(1), message_bytes_max, silent, lost })
    }

    pub(super) fn is_lost(&self) -> bool {
        self.silent.is_cancelled() || self.lost.get().is_some() || self.asks.is_closed()
    }

    /// For requests and producers alike.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// `id` stands in the command as well. A broker that does not answer in time is given up with the connection.
    pub(super) async fn request(
        &self,
        id: u64,
        command: BaseCommand,
        within: Duration,
        what: &str,
    ) -> Result<Answer, TargetFault> {
        let (sender, answer) = oneshot::channel();
        self.ask(Ask::Request { id, command: Box::new(command), answer: sender }, answer, within, what).await
    }

    pub(super) async fn publish(
        &self,
        producer_id: u64,
        entry: Entry,
        within: Duration,
    ) -> Result<Receipt, TargetFault> {
        let (sender, receipt) = oneshot::channel();
        self.ask(Ask::Publish { producer_id, entry, receipt: sender }, receipt, within, "receipt").await
    }

    /// The broker is told that this producer has gone, also where nobody waits for the answer any more. It may have none of
    /// that id.
    pub(super) async fn leave(&self, producer_id: u64, within: Duration) -> Result<Answer, TargetFault> {
        let (sender, answer) = oneshot::channel();
        let request_id = self.next_id();
        self.ask(Ask::Leave { producer_id, request_id, answer: sender }, answer, within, "answer to a goodbye").await
    }

    /// Nothing that was not yet written leaves any more.
    pub(super) fn give_up(&self) {
        self.silent.cancel();
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        answer: oneshot::Receiver<T>,
        within: Duration,
        what: &str,
    ) -> Result<T, TargetFault> {
        let asked = async {
            self.asks.send(ask).await.map_err(|_| self.lost())?;
            answer.await.map_err(|_| self.lost())
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                let fault = down(format!("no {what} within {} s", within.as_secs()));
                // Nobody else sets it before the task has ended.
                let _ = self.lost.set(fault.clone());
                self.give_up();
                Err(fault)
            }
        }
    }

    fn lost(&self) -> TargetFault {
        self.lost.get().cloned().unwrap_or_else(|| down("the connection to the broker is lost"))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.silent.cancel();
    }
}

struct Driver {
    traffic: Traffic,
    asks: mpsc::Receiver<Ask>,
    auth: Arc<Auth>,
    /// The answer to a challenge, while it is made.
    response: Option<BoxFuture<'static, Result<BaseCommand, TargetFault>>>,
    silent: CancellationToken,
    lost: Arc<OnceLock<TargetFault>>,
}

/// What is on its way, and what waits for whom.
#[derive(Default)]
struct Traffic {
    out: Outbox,
    requests: HashMap<u64, Asked>,
    /// Those that the broker has made and not closed, each with the entry that is on its way.
    producers: HashMap<u64, Option<Waiting>>,
}

struct Asked {
    answer: oneshot::Sender<Answer>,
    /// That it is to make.
    producer_id: Option<u64>,
}

impl Driver {
    async fn run(mut self, mut link: Link) {
        let silent = self.silent.clone();
        let fault = tokio::select! {
            biased;
            () = silent.cancelled() => interrupted("the connection was ended by this node"),
            fault = self.converse(&mut link) => fault,
        };
        // Whoever gave the connection up has said why. Everybody who waits hears it when this is dropped.
        let _ = self.lost.set(fault);
        silent.cancel();
    }

    /// Until the connection is lost.
    async fn converse(&mut self, link: &mut Link) -> TargetFault {
        let mut heard = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            if let Err(fault) = self.read(link) {
                return fault;
            }
            let now = Instant::now();
            if now >= heard + SILENCE_MAX {
                return down(format!("not a word of the broker within {} s", SILENCE_MAX.as_secs()));
            }
            let ping_at = asked.max(Some(heard)).unwrap_or(heard) + PING_EVERY;
            if now >= ping_at {
                wire::command(&wire::ping(), &mut self.traffic.out.bytes);
                asked = Some(now);
                continue;
            }
            let due = ping_at.min(heard + SILENCE_MAX);
            let out = &mut self.traffic.out;
            let (is_writing, takes_more) = (out.is_writing(), out.bytes.len() < OUT_BYTES_MAX);
            tokio::select! {
                biased;
                read = link.reader.read_buf(&mut link.inbox), if out.takes_answers() => match read {
                    Ok(0) => return down("the broker closed the connection"),
                    Ok(_) => heard = Instant::now(),
                    Err(error) => return broken(&error),
                },
                response = said(&mut self.response) => {
                    self.response = None;
                    match response {
                        Ok(response) => out.answer(|bytes| wire::command(&response, bytes)),
                        Err(fault) => return fault,
                    }
                }
                written = out.write(&mut link.writer), if is_writing => {
                    if let Err(error) = written {
                        return broken(&error);
                    }
                }
                ask = self.asks.recv(), if takes_more => match ask {
                    Some(ask) => self.traffic.take(ask),
                    None => return interrupted("the sink is gone"),
                },
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    fn read(&mut self, link: &mut Link) -> Result<(), TargetFault> {
        while let Some(heard) = wire::decode(&mut link.inbox).map_err(|error| unreadable(&error))? {
            match heard {
                Heard::Receipt(receipt) => {
                    self.traffic.settle(receipt.producer_id, receipt.sequence_id, Receipt::Taken);
                }
                Heard::Refusal(refusal) => {
                    let (producer_id, sequence_id) = (refusal.producer_id, refusal.sequence_id);
                    self.traffic.settle(producer_id, sequence_id, Receipt::Refused(refusal));
                }
                Heard::CloseProducer(close) => self.traffic.close(close.producer_id),
                Heard::Answer { request_id, answer } => self.traffic.answered(request_id, answer),
                Heard::Challenge => {
                    let auth = Arc::clone(&self.auth);
                    self.response = Some(Box::pin(async move { auth_response(&auth, true).await }));
                }
                Heard::Ping => self.traffic.out.answer(|bytes| wire::command(&wire::pong(), bytes)),
                Heard::Pong | Heard::Connected(_) => {}
                Heard::Other(kind) => tracing::debug!(kind, "a broker said what nobody asked for"),
            }
        }
        Ok(())
    }
}

impl Traffic {
    fn take(&mut self, ask: Ask) {
        match ask {
            // Who no longer waits does not want it sent.
            Ask::Request { answer, .. } if answer.is_closed() => {}
            Ask::Publish { receipt, .. } if receipt.is_closed() => {}
            Ask::Request { id, command, answer } => {
                let producer_id = command.producer.as_ref().map(|producer| producer.producer_id);
                self.requests.insert(id, Asked { answer, producer_id });
                wire::command(&command, &mut self.out.bytes);
            }
            Ask::Publish { producer_id, entry, receipt } => match self.producers.get_mut(&producer_id) {
                Some(waiting) => {
                    self.out.bytes.extend_from_slice(&entry.frame);
                    *waiting = Some(Waiting { sequence_ids: entry.sequence_ids, receipt });
                }
                // Whoever hears it makes another producer; who no longer waits was dropped half-way.
                None => drop(receipt.send(Receipt::Unsent)),
            },
            Ask::Leave { producer_id, request_id, answer } => {
                self.producers.remove(&producer_id);
                self.requests.insert(request_id, Asked { answer, producer_id: None });
                let close = CloseProducer { producer_id, request_id };
                let close = BaseCommand { close_producer: Some(close), ..wire::of(CommandKind::CloseProducer) };
                wire::command(&close, &mut self.out.bytes);
            }
        }
    }

    fn answered(&mut self, request_id: u64, answer: Answer) {
        let Some(asked) = self.requests.remove(&request_id) else { return };
        if let (Answer::Producer(_), Some(producer_id)) = (&answer, asked.producer_id) {
            self.producers.insert(producer_id, None);
        }
        // Who no longer waits was dropped half-way.
        let _ = asked.answer.send(answer);
    }

    fn settle(&mut self, producer_id: u64, sequence_id: u64, receipt: Receipt) {
        let Some(entry) = self.producers.get_mut(&producer_id) else { return };
        if let Some(waiting) = entry.take_if(|waiting| waiting.sequence_ids.contains(&sequence_id)) {
            // Who no longer waits was dropped half-way.
            let _ = waiting.receipt.send(receipt);
        }
    }

    /// By the broker. Where nobody waits, the next one to publish is told.
    fn close(&mut self, producer_id: u64) {
        if let Some(waiting) = self.producers.remove(&producer_id).flatten() {
            // Who no longer waits was dropped half-way.
            let _ = waiting.receipt.send(Receipt::Closed);
        }
    }
}

async fn said(
    response: &mut Option<BoxFuture<'static, Result<BaseCommand, TargetFault>>>,
) -> Result<BaseCommand, TargetFault> {
    match response {
        Some(response) => response.await,
        None => std::future::pending().await,
    }
}
