//! `sluice bench publish`: connections with a window each, on a thread of their own, until a count or a time is reached.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::client::Client;
use super::latencies::Latencies;
use super::packets::PublishTemplate;
use super::{BenchError, BrokerArgs, cpu_seconds, runtime};

/// What is under way at the end must be acknowledged within this, each time something comes.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// A connection with a rate looks this often what it may send.
const PACE: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, Args)]
pub struct PublishOptions {
    #[command(flatten)]
    pub broker: BrokerArgs,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Publishes of one connection that may wait for their acknowledgement.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub window: u32,
    /// Messages in all; without it, until the time is over.
    #[arg(long)]
    pub messages: Option<u64>,
    /// Seconds that are measured when no number of messages is given.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Seconds of publishing before the measurement.
    #[arg(long, default_value_t = 1.0, conflicts_with = "messages")]
    pub warm_up: f64,
    /// Messages per second of all connections together; without it, as fast as acknowledgements come.
    #[arg(long)]
    pub rate: Option<u64>,
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=16_000_000))]
    pub payload_bytes: u32,
    /// More members of the JSON object that is the payload, such as `"metric":"m","value":1`.
    #[arg(long, default_value = "")]
    pub members: String,
    /// Each connection publishes to this, a slash and its number.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// The only level that is driven.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=1))]
    pub qos: u8,
    /// Threads that share the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
}

/// What one thread counted.
#[derive(Default)]
struct Counted {
    acknowledged: u64,
    measured: u64,
    seconds: f64,
    latencies: Latencies,
}

pub(super) fn run(options: &PublishOptions) -> Result<Value, BenchError> {
    let began = cpu_seconds();
    let threads = options.threads.min(options.connections);
    let start = Arc::new(Barrier::new(threads as usize));
    let handles: Vec<_> = (0..threads)
        .map(|thread| {
            let (options, start) = (options.clone(), start.clone());
            std::thread::spawn(move || one_thread(&options, thread, threads, &start))
        })
        .collect();
    let mut all = Counted::default();
    let mut first_error = None;
    for handle in handles {
        match handle.join().unwrap_or(Err(BenchError::Thread)) {
            Ok(counted) => {
                all.acknowledged += counted.acknowledged;
                all.measured += counted.measured;
                all.seconds = all.seconds.max(counted.seconds);
                all.latencies.merge(&counted.latencies);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    Ok(json!({
        "connections": options.connections,
        "window": options.window,
        "payload_bytes": options.payload_bytes,
        "acknowledged": all.acknowledged,
        "measured": all.measured,
        "seconds": all.seconds,
        "per_second": all.measured as f64 / all.seconds.max(f64::EPSILON),
        "ack_ms": all.latencies.summary(),
        "cpu_seconds": cpu_seconds() - began,
    }))
}

fn one_thread(options: &PublishOptions, thread: u32, threads: u32, start: &Barrier) -> Result<Counted, BenchError> {
    let runtime = runtime()?;
    let numbers: Vec<u32> = (0..options.connections).filter(|number| number % threads == thread).collect();
    let connected = runtime.block_on(async {
        let mut clients = Vec::new();
        for number in &numbers {
            let template = PublishTemplate::new(
                &format!("{}/{number}", options.topic),
                options.payload_bytes as usize,
                &options.members,
                options.broker.v5,
            )?;
            clients.push((*number, Client::connect(&options.broker, *number as usize).await?, template));
        }
        Ok(clients)
    });
    // Also after a failure: the other threads wait here.
    start.wait();
    let began = Instant::now();
    let shared = Rc::new(Shared::new(options, began));
    runtime.block_on(LocalSet::new().run_until(async {
        let tasks: Vec<_> = connected?
            .into_iter()
            .map(|(number, client, template)| {
                let publisher = Publisher::new(options, number, client, template, shared.clone());
                tokio::task::spawn_local(publisher.run())
            })
            .collect();
        for task in tasks {
            task.await.map_err(|_| BenchError::Thread)??;
        }
        Ok(())
    }))?;
    Ok(shared.counted(began))
}

/// What the connections of one thread count together.
struct Shared {
    measured_from: Instant,
    /// `None`: until the messages are sent.
    until: Option<Instant>,
    acknowledged: Cell<u64>,
    last_ack: Cell<Instant>,
    latencies: RefCell<Latencies>,
}

impl Shared {
    fn new(options: &PublishOptions, began: Instant) -> Self {
        let (measured_from, until) = match options.messages {
            Some(_) => (began, None),
            None => {
                let measured_from = began + Duration::from_secs_f64(options.warm_up);
                (measured_from, Some(measured_from + Duration::from_secs_f64(options.seconds)))
            }
        };
        Self {
            measured_from,
            until,
            acknowledged: Cell::new(0),
            last_ack: Cell::new(began),
            latencies: RefCell::default(),
        }
    }

    fn measures(&self, now: Instant) -> bool {
        now >= self.measured_from && self.until.is_none_or(|until| now < until)
    }

    /// A broker so slow that nothing was acknowledged within the measured time is measured over the whole run.
    fn counted(&self, began: Instant) -> Counted {
        let (acknowledged, latencies) = (self.acknowledged.get(), self.latencies.take());
        let (measured, from, until) = match latencies.count() {
            0 => (acknowledged, began, self.last_ack.get()),
            measured => (measured, self.measured_from, self.until.unwrap_or(self.last_ack.get())),
        };
        let seconds = until.saturating_duration_since(from).as_secs_f64();
        Counted { acknowledged, measured, seconds, latencies }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

struct Publisher {
    client: Client,
    template: PublishTemplate,
    shared: Rc<Shared>,
    window: usize,
    /// Messages that this connection has to send.
    messages: u64,
    /// Messages of this connection per second.
    rate: Option<f64>,
    sent: u64,
    /// The number of its first message.
    first_number: u64,
    began: Instant,
}

impl Publisher {
    fn new(
        options: &PublishOptions,
        number: u32,
        client: Client,
        template: PublishTemplate,
        shared: Rc<Shared>,
    ) -> Self {
        let (connections, number) = (u64::from(options.connections), u64::from(number));
        let share = |all: u64| all / connections + u64::from(number < all % connections);
        let messages = options.messages.map_or(u64::MAX, share);
        let before = options.messages.map_or(0, |all| number * (all / connections) + number.min(all % connections));
        Self {
            client,
            template,
            shared,
            window: options.window as usize,
            messages,
            rate: options.rate.map(|rate| rate as f64 / connections as f64),
            sent: 0,
            first_number: before,
            began: Instant::now(),
        }
    }

    async fn run(mut self) -> Result<(), BenchError> {
        loop {
            let now = Instant::now();
            if self.sent >= self.messages || self.shared.is_over(now) {
                break;
            }
            let count = self.may_send(now);
            if count > 0 {
                self.send(count, now).await?;
            }
            match self.rate {
                None => self.take_acks().await?,
                Some(_) => {
                    // Nothing is due before the next look.
                    if let Ok(taken) = tokio::time::timeout(PACE, self.take_acks()).await {
                        taken?;
                    }
                }
            }
        }
        while self.client.in_flight() > 0 {
            tokio::time::timeout(SETTLE_MAX, self.take_acks())
                .await
                .map_err(|_| BenchError::Unacknowledged(self.client.in_flight() as u64))??;
        }
        self.client.disconnect().await
    }

    fn may_send(&self, now: Instant) -> u64 {
        let room = (self.window - self.client.in_flight().min(self.window)) as u64;
        let left = self.messages - self.sent;
        let due = match self.rate {
            None => u64::MAX,
            Some(rate) => (((now - self.began).as_secs_f64() * rate) as u64 + 1).saturating_sub(self.sent),
        };
        room.min(left).min(due)
    }

    async fn send(&mut self, count: u64, now: Instant) -> Result<(), BenchError> {
        let sent_us = wall_clock_us();
        for _ in 0..count {
            self.client.publish(&self.template, now, sent_us, self.first_number + self.sent);
            self.sent += 1;
        }
        self.client.flush().await
    }

    async fn take_acks(&mut self) -> Result<(), BenchError> {
        let now = self.client.readable().await?;
        let count = if self.shared.measures(now) {
            self.client.acknowledged(now, Some(&mut self.shared.latencies.borrow_mut()))?
        } else {
            self.client.acknowledged(now, None)?
        };
        self.shared.acknowledged.set(self.shared.acknowledged.get() + count);
        self.shared.last_ack.set(now);
        Ok(())
    }
}

fn wall_clock_us() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}
