//! A publisher that behaves as a careful device: QoS 1, a window, a list of addresses that it tries in turn, and
//! what was not acknowledged when the connection went is sent again. It remembers who acknowledged what.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::mqtt_session::{Login, Session, Signal, Version};
use crate::wait;

/// Between two attempts to connect: a restarted node is back within seconds.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
/// A publisher with a rate sends a small burst this often.
const BURST_EVERY: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// Client id, and the first part of every message's name.
    pub name: String,
    pub topic: String,
    /// MQTT ports, tried in turn.
    pub ports: Vec<u16>,
    pub version: Version,
    /// Messages to send; fewer when stopped.
    pub count: u64,
    /// `None` = as fast as the acknowledgements come.
    pub per_second: Option<u64>,
    /// Goes on after `count`, at this rate, until it is stopped.
    pub then_per_second: Option<u64>,
    pub window: u16,
    /// A number in every payload, for targets that store nothing else: `{"message":…,"celsius":…}`.
    pub celsius: Option<f64>,
    /// Characters of noise in every payload, to make it large.
    pub padding: usize,
    pub login: Option<Login>,
}

impl PublisherOptions {
    pub fn new(name: &str, topic: &str, ports: &[u16], count: u64) -> Self {
        Self {
            name: name.to_owned(),
            topic: topic.to_owned(),
            ports: ports.to_vec(),
            version: Version::V5,
            count,
            per_second: None,
            then_per_second: None,
            window: 100,
            celsius: None,
            padding: 0,
            login: None,
        }
    }
}

/// What a publisher knows at its end.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Name of the message → MQTT port of the node that acknowledged it.
    pub acknowledged: BTreeMap<String, u16>,
    /// Publishes that were sent again because their connection ended before the acknowledgement.
    pub sent_again: u64,
    pub connections: u64,
}

impl Published {
    pub fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.sent_again += other.sent_again;
        self.connections += other.connections;
    }
}

/// A running publisher. Dropped, it stops at once.
pub struct Publisher {
    task: JoinHandle<Result<Published>>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Publisher {
    pub fn start(options: PublisherOptions) -> Self {
        let progress = Arc::new(Progress::default());
        let task = tokio::spawn(Run::new(options, Arc::clone(&progress)).complete());
        Self { task, progress }
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Relaxed)
    }

    /// Sends nothing new; waits for the acknowledgements of what is on its way.
    pub async fn stop(self, limit: Duration) -> Result<Published> {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.finish(limit).await
    }

    /// Goes on until so many messages are acknowledged, and stops.
    pub async fn stop_after(self, count: u64, limit: Duration) -> Result<Published> {
        wait::until(limit, &format!("{count} messages are acknowledged"), async || {
            ensure!(self.acknowledged() >= count || self.task.is_finished(), "{}", self.acknowledged());
            Ok(())
        })
        .await?;
        self.stop(limit).await
    }

    /// Waits until all messages are acknowledged.
    pub async fn finish(mut self, limit: Duration) -> Result<Published> {
        let acknowledged = || self.progress.acknowledged.load(Ordering::Relaxed);
        match tokio::time::timeout(limit, &mut self.task).await {
            Ok(ended) => ended.context("publisher")?,
            Err(_) => anyhow::bail!("publisher not done within {limit:?}, {} acknowledged", acknowledged()),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends `count` messages and waits for all acknowledgements.
pub async fn publish(options: PublisherOptions, limit: Duration) -> Result<Published> {
    Publisher::start(options).finish(limit).await
}

/// All publishers to their end.
pub async fn finish_all(publishers: Vec<Publisher>, limit: Duration) -> Result<Published> {
    let mut all = Published::default();
    for publisher in publishers {
        all.merge(publisher.finish(limit).await?);
    }
    Ok(all)
}

struct Run {
    options: PublisherOptions,
    progress: Arc<Progress>,
    published: Published,
    /// Numbers that have to go again, before any new one. At most a window of them.
    again: VecDeque<u64>,
    /// The first number that was never sent; `count` when all were, if it does not go on.
    next: u64,
    /// Submitted, without a packet id yet, in order.
    submitted: VecDeque<u64>,
    /// Packet id → number, sent and not acknowledged.
    in_flight: HashMap<u16, u64>,
    /// Messages that the rate allows now.
    allowance: u64,
}

impl Run {
    fn new(options: PublisherOptions, progress: Arc<Progress>) -> Self {
        Self {
            options,
            progress,
            published: Published::default(),
            again: VecDeque::new(),
            next: 0,
            submitted: VecDeque::new(),
            in_flight: HashMap::new(),
            allowance: 0,
        }
    }

    async fn complete(mut self) -> Result<Published> {
        let mut attempts = interval(RECONNECT_EVERY);
        attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_port = 0;
        while !self.done() {
            attempts.tick().await;
            let port = self.options.ports[next_port % self.options.ports.len()];
            next_port += 1;
            self.one_connection(port).await;
        }
        Ok(self.published)
    }

    /// Publishes over one connection until all is done or the connection ends.
    async fn one_connection(&mut self, port: u16) {
        let options = &self.options;
        let mut session = Session::open(options.version, &options.name, port, options.window, options.login.as_ref());
        if session.connected().await.is_err() {
            return;
        }
        self.published.connections += 1;
        let mut bursts = interval(BURST_EVERY);
        bursts.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !self.done() {
            if self.submit(&session).is_err() || self.step(&mut session, &mut bursts, port).await.is_err() {
                break;
            }
        }
        self.take_back();
    }

    fn submit(&mut self, session: &Session) -> Result<()> {
        while self.submitted.len() + self.in_flight.len() < usize::from(self.options.window) {
            if self.stopped() || (self.rate().is_some() && self.allowance == 0) {
                return Ok(());
            }
            let Some(number) = self.take() else { return Ok(()) };
            self.submitted.push_back(number);
            self.allowance = self.allowance.saturating_sub(1);
            let mut payload = serde_json::json!({ "message": self.message(number) });
            if let Some(celsius) = self.options.celsius {
                payload["celsius"] = celsius.into();
            }
            if self.options.padding > 0 {
                payload["padding"] = noise(self.options.padding).into();
            }
            let payload = payload.to_string();
            session.publish(&self.options.topic, payload.into_bytes())?;
        }
        Ok(())
    }

    fn rate(&self) -> Option<u64> {
        if self.next < self.options.count { self.options.per_second } else { self.options.then_per_second }
    }

    /// The number to send now.
    fn take(&mut self) -> Option<u64> {
        self.again.pop_front().or_else(|| {
            let goes_on = self.next < self.options.count || self.options.then_per_second.is_some();
            let number = goes_on.then_some(self.next)?;
            self.next += 1;
            Some(number)
        })
    }

    async fn step(&mut self, session: &mut Session, bursts: &mut Interval, port: u16) -> Result<()> {
        let signal = match self.rate() {
            None => session.next().await,
            Some(rate) => tokio::select! {
                signal = session.next() => signal,
                _ = bursts.tick() => {
                    self.allowance += (rate / (1_000 / BURST_EVERY.as_millis() as u64)).max(1);
                    return Ok(());
                }
            },
        };
        self.handle(signal, port)
    }

    fn handle(&mut self, signal: Signal, port: u16) -> Result<()> {
        match signal {
            Signal::Connected => {}
            Signal::Sent(id) => {
                let number = self.submitted.pop_front().context("a publish that nobody submitted")?;
                self.in_flight.insert(id, number);
            }
            Signal::Acknowledged(id) => {
                let number = self.in_flight.remove(&id).context("an acknowledgement that nobody waits for")?;
                let message = self.message(number);
                self.published.acknowledged.insert(message, port);
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Signal::Refused(id) => {
                let number = self.in_flight.remove(&id).context("a refusal that nobody waits for")?;
                self.again.push_front(number);
                self.published.sent_again += 1;
            }
            Signal::Ended(error) => return Err(error),
        }
        Ok(())
    }

    /// What was under way goes again, in its order.
    fn take_back(&mut self) {
        self.published.sent_again += self.in_flight.len() as u64;
        let mut numbers: Vec<u64> = self.in_flight.drain().map(|(_, number)| number).collect();
        numbers.extend(self.submitted.drain(..));
        numbers.sort_unstable();
        for number in numbers.into_iter().rev() {
            self.again.push_front(number);
        }
    }

    fn message(&self, number: u64) -> String {
        format!("{}-{number}", self.options.name)
    }

    fn stopped(&self) -> bool {
        self.progress.stop.load(Ordering::Relaxed)
    }

    fn done(&self) -> bool {
        let nothing_under_way = self.submitted.is_empty() && self.in_flight.is_empty();
        let all_sent = self.next >= self.options.count && self.options.then_per_second.is_none();
        let nothing_to_send = self.again.is_empty() && all_sent;
        nothing_under_way && (nothing_to_send || self.stopped())
    }
}

/// Letters and digits that no compression makes small.
fn noise(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}
