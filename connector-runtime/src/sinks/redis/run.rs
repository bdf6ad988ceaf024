//! Settles the records of one call: pipelined, window by window, every reply read.
//!
//! ```text
//! records ──► window ──► by server: one request each ──► replies ──► outcomes
//!               ▲                                          │ MOVED, ASK: to the server that was named, at once
//!               │                                          │ lost: after a pause, up to max_retries
//!               └──────────── in their order ◄─────────────┘
//! ```
//!
//! Within a window commands for one server follow each other on one connection. Those that go another way go together,
//! in their order, and nothing behind the window is sent before all of it has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::Record;
use futures::future::join_all;
use redis::Value;
use tokio::time::Instant;

use super::address::Address;
use super::command::{Command, Commands};
use super::connect::packed;
use super::fault::{Judgement, down, interrupted, is_read_only, judge, target_fault};
use super::link::Answers;
use super::server::Server;
use super::target::{Target, Way, no_master};
use crate::sink::{Outcome, TargetFault, TargetFaultKind};

/// Bytes of commands that are rendered and sent before the first reply is waited for.
const WINDOW_BYTES_MAX: usize = 1 << 20;
/// Commands in one window. Their replies are kept until all have come.
const WINDOW_COMMANDS_MAX: usize = 1_000;
/// Redirections that one command follows: a slot that moves while the cluster is asked for it needs two.
const REDIRECTIONS_MAX: usize = 5;

pub(super) struct Runner {
    pub(super) target: Target,
    pub(super) commands: Commands,
    pub(super) wait_replicas: u64,
    pub(super) replicas_within: Duration,
    pub(super) max_retries: u64,
    pub(super) retry_interval: Duration,
}

/// A command that has no outcome yet.
struct Pending {
    /// Of its record in the call.
    at: usize,
    command: Command,
    way: Way,
    redirections: usize,
}

#[derive(Clone)]
enum Step {
    Ended(Outcome),
    Redirected(Way),
    /// Nobody knows whether the target has it.
    Lost(TargetFault),
}

impl Runner {
    /// In the order of the records.
    pub(super) async fn run(&self, lane: u64, records: &[&Record]) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; records.len()];
        let mut next = 0;
        while next < records.len() {
            let window = self.window(records, &mut next, &mut outcomes);
            if self.settle(lane, window, &mut outcomes).await {
                break;
            }
        }
        // What stands behind a record that has to be tried again is not sent before that.
        let held = || Outcome::TargetFault(TargetFault { reopen: false, ..interrupted(HELD) });
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(held)).collect()
    }

    fn window(&self, records: &[&Record], next: &mut usize, outcomes: &mut [Option<Outcome>]) -> Vec<Pending> {
        let mut window = Vec::new();
        let mut bytes = 0;
        while let (Some(record), Some(outcome)) = (records.get(*next), outcomes.get_mut(*next))
            && bytes < WINDOW_BYTES_MAX
            && window.len() < WINDOW_COMMANDS_MAX
        {
            match self.commands.command(record) {
                Ok(command) => {
                    bytes += command.bytes.len();
                    window.push(Pending { at: *next, command, way: Way::BySlot, redirections: 0 });
                }
                Err(fault) => *outcome = Some(Outcome::RecordFault(fault)),
            }
            *next += 1;
        }
        window
    }

    /// Until each command has its outcome. True when one of them may have to be tried again.
    async fn settle(&self, lane: u64, mut pending: Vec<Pending>, outcomes: &mut [Option<Outcome>]) -> bool {
        let mut losses = 0;
        let (mut failed, mut refused) = (false, false);
        while !pending.is_empty() {
            let began = Instant::now();
            let mut again = Vec::new();
            let (mut lost, mut moved) = (false, false);
            for (command, step) in self.send(lane, pending).await {
                match step {
                    Step::Lost(fault) if fault.kind == TargetFaultKind::Down && losses < self.max_retries => {
                        lost = true;
                        again.push(Pending { way: Way::BySlot, ..command });
                    }
                    Step::Redirected(way) if command.redirections < REDIRECTIONS_MAX => {
                        moved |= matches!(way, Way::To(_));
                        again.push(Pending { way, redirections: command.redirections + 1, ..command });
                    }
                    Step::Redirected(_) => {
                        failed = true;
                        let fault = down("the nodes of the cluster send a command from one to the other");
                        set(outcomes, command.at, Outcome::TargetFault(fault));
                    }
                    Step::Lost(fault) => {
                        failed = true;
                        set(outcomes, command.at, Outcome::TargetFault(fault));
                    }
                    Step::Ended(outcome) => {
                        failed |= matches!(outcome, Outcome::TargetFault(_));
                        refused |= matches!(outcome, Outcome::RecordFault(_));
                        set(outcomes, command.at, outcome);
                    }
                }
            }
            if lost {
                losses += 1;
                tokio::time::sleep(self.retry_interval).await;
                self.target.look_again(Instant::now()).await;
            } else if moved {
                self.target.look_again(began).await;
            }
            again.sort_unstable_by_key(|pending| pending.at);
            pending = again;
        }
        if failed {
            self.target.look_again_later().await;
        }
        failed || refused
    }

    /// Each command once.
    async fn send(&self, lane: u64, pending: Vec<Pending>) -> Vec<(Pending, Step)> {
        let mut steps = Vec::with_capacity(pending.len());
        let ready = match self.target.ready().await {
            Ok(ready) => ready,
            Err(fault) => return pending.into_iter().map(|command| (command, Step::Lost(fault.clone()))).collect(),
        };
        let mut groups: BTreeMap<Address, (Arc<Server>, Vec<Pending>)> = BTreeMap::new();
        for command in pending {
            match ready.server_for(&command.way, command.command.slot) {
                Ok(server) => {
                    let address = server.address.clone();
                    groups.entry(address).or_insert_with(|| (server, Vec::new())).1.push(command);
                }
                Err(fault) => steps.push((command, Step::Lost(fault))),
            }
        }
        let sent = groups.into_values().map(|(server, commands)| self.send_to(lane, server, commands));
        steps.extend(join_all(sent).await.into_iter().flatten());
        steps
    }

    async fn send_to(&self, lane: u64, server: Arc<Server>, commands: Vec<Pending>) -> Vec<(Pending, Step)> {
        let mut bytes = Vec::new();
        let mut replies = commands.len();
        for Pending { command, way, .. } in &commands {
            if matches!(way, Way::Asking(_)) {
                bytes.extend(packed(&redis::cmd("ASKING")));
                replies += 1;
            }
            bytes.extend_from_slice(&command.bytes);
        }
        if self.wait_replicas > 0 {
            let patience = u64::try_from(self.replicas_within.as_millis()).unwrap_or(u64::MAX);
            bytes.extend(packed(redis::cmd("WAIT").arg(self.wait_replicas).arg(patience)));
            replies += 1;
        }
        // Where a redirection alone leads to a node without slots, the map does not say who the master is.
        let by_slot = commands.iter().any(|pending| matches!(pending.way, Way::BySlot));
        let is_mapped = by_slot || self.target.is_known_master(&server);
        let sent = Instant::now();
        let Answers { replies, lost } = tokio::select! {
            answers = server.ask(lane, bytes, replies) => answers,
            fault = self.target.replaced(&server), if is_mapped => Answers { replies: Vec::new(), lost: Some(fault) },
        };
        let mut replies = replies.into_iter();
        let lost = lost.unwrap_or_else(|| down("the server did not answer"));
        let mut steps: Vec<(Pending, Step)> = Vec::with_capacity(commands.len());
        for command in commands {
            let asking = if matches!(command.way, Way::Asking(_)) { replies.next() } else { None };
            let step = replies.next().map_or_else(|| Step::Lost(lost.clone()), |reply| self.step(&server, reply));
            let step = match (step, asking) {
                // Sent on because nobody asked: it would go from one node to the other.
                (Step::Redirected(_), Some(Value::ServerError(error))) => {
                    Step::Ended(Outcome::TargetFault(target_fault(&error)))
                }
                (step, _) => step,
            };
            steps.push((command, step));
        }
        let confirmation = match self.wait_replicas {
            0 => Ok(()),
            asked => replies.next().map_or_else(|| Err(Step::Lost(lost)), |reply| self.replicas(&reply, asked)),
        };
        let confirmation = match confirmation {
            Ok(()) if is_mapped => match self.target.confirm(&server, sent).await {
                Ok(true) => Ok(()),
                // The new one has not got it.
                Ok(false) => Err(Step::Lost(no_master(&server))),
                // It was executed, and mostly counts: to send it again within this attempt would only repeat it.
                Err(fault) => Err(Step::Ended(Outcome::TargetFault(fault))),
            },
            unmapped_or_unconfirmed => unmapped_or_unconfirmed,
        };
        if let Err(unconfirmed) = confirmation {
            let confirmed = steps.iter_mut().filter(|(_, step)| matches!(step, Step::Ended(Outcome::Delivered)));
            confirmed.for_each(|(_, step)| *step = unconfirmed.clone());
        }
        steps
    }

    fn step(&self, server: &Server, reply: Value) -> Step {
        let Value::ServerError(error) = reply else { return Step::Ended(Outcome::Delivered) };
        if is_read_only(&error) {
            // A fail-over: the name may lead elsewhere by now.
            server.distrust();
        }
        match judge(&error) {
            Judgement::Record(fault) => Step::Ended(Outcome::RecordFault(fault)),
            Judgement::Target(fault) => Step::Ended(Outcome::TargetFault(fault)),
            Judgement::Moved(address) => self.redirected(Way::To(address.or_host_of(&server.address))),
            Judgement::Ask(address) => self.redirected(Way::Asking(address.or_host_of(&server.address))),
        }
    }

    fn redirected(&self, way: Way) -> Step {
        match self.target {
            Target::Cluster(_) => Step::Redirected(way),
            Target::Single(_) | Target::Sentinel(_) => {
                let kind = TargetFaultKind::Misconfigured("TARGET_IS_CLUSTER");
                let message = "the server is a node of a cluster: set mode to cluster";
                Step::Ended(Outcome::TargetFault(TargetFault::new(kind, message)))
            }
        }
    }

    /// What the reply to WAIT means for the commands before it.
    fn replicas(&self, reply: &Value, asked: u64) -> Result<(), Step> {
        let fault = match reply {
            Value::Int(found) if u64::try_from(*found).is_ok_and(|found| found >= asked) => return Ok(()),
            Value::Int(found) => {
                let waited = self.replicas_within.as_millis();
                down(format!("{found} of {asked} replicas have the batch after {waited} ms"))
            }
            Value::ServerError(error) => target_fault(error),
            _ => down("the reply to WAIT is not readable"),
        };
        Err(Step::Ended(Outcome::TargetFault(fault)))
    }
}

const HELD: &str = "waits for a record before it";

fn set(outcomes: &mut [Option<Outcome>], at: usize, outcome: Outcome) {
    if let Some(place) = outcomes.get_mut(at) {
        *place = Some(outcome);
    }
}
