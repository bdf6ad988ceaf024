//! A cluster in one paused runtime: the real leader service over an in-memory log, and nodes that do what the agent
//! does. Every tick checks that no task has two owners that may act.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_types::assignment::{AssignmentState, Owner};
use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad, StoppedTask};
use api_types::status::TaskReport;
use api_types::{Epoch, Incarnation, LogIndex, NodeEpoch, RaftId};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;
use crate::leader::{LeaderPort, LeaderService, NotLeader};
use crate::state::fixtures::TestLog;
use crate::state::{ClusterState, CommandBody, NodeState, Reply};
use crate::timings::Timings;

pub const TICK: Duration = Duration::from_millis(10);

/// The paused clock of the runtime.
pub struct TestClock(Instant);

impl Clock for TestClock {
    fn boottime(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

/// The Raft of one leader; all share the log.
pub struct MemoryPort {
    log: Arc<Mutex<TestLog>>,
    applied: watch::Sender<LogIndex>,
    term: u64,
    leads: AtomicBool,
    pub proofs: AtomicUsize,
}

impl MemoryPort {
    fn check(&self) -> Result<(), NotLeader> {
        if self.leads.load(Ordering::SeqCst) { Ok(()) } else { Err(NotLeader) }
    }
}

#[async_trait]
impl LeaderPort for MemoryPort {
    fn state(&self) -> Arc<ClusterState> {
        Arc::new(self.log.lock().unwrap().state.clone())
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }

    async fn propose(&self, body: CommandBody) -> Result<Reply, NotLeader> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        self.check()?;
        let reply = self.log.lock().unwrap().commit(body);
        self.applied.send_replace(reply.index);
        Ok(reply)
    }

    async fn prove(&self) -> Result<u64, NotLeader> {
        self.check()?;
        self.proofs.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.check()?;
        Ok(self.term)
    }
}

#[derive(Default)]
pub struct SimNode {
    pub node_epoch: NodeEpoch,
    number: u64,
    boots: u64,
    next_beat: Duration,
    pub lease_until: Duration,
    /// Nothing reaches it, nothing leaves it; its replica stands still.
    pub cut: bool,
    pub stopping: bool,
    /// Its catalogue stands still at this index.
    pub stuck_at: Option<LogIndex>,
    pub running: BTreeMap<Incarnation, Epoch>,
    stopped: Vec<StoppedTask>,
    pub last_answer: Option<HeartbeatAnswer>,
}

pub struct Sim {
    pub log: Arc<Mutex<TestLog>>,
    pub clock: Arc<TestClock>,
    pub timings: Timings,
    pub port: Arc<MemoryPort>,
    pub leader: Arc<LeaderService>,
    pub nodes: BTreeMap<u64, SimNode>,
    run: Option<DropGuard>,
}

impl Sim {
    /// Nodes that are all alive under a leader elected just now.
    pub fn new(nodes: u64, timings: Timings) -> Self {
        let log = TestLog::with_nodes(nodes);
        let sim_node = |id: u64| {
            let node_epoch = log.state.nodes[&RaftId(id)].node_epoch;
            (id, SimNode { node_epoch, ..SimNode::default() })
        };
        let nodes = (1..=nodes).map(sim_node).collect();
        let log = Arc::new(Mutex::new(log));
        let clock = Arc::new(TestClock(Instant::now()));
        let (port, leader, run) = lead(&log, &clock, &timings, false);
        Self { log, clock, timings, port, leader, nodes, run: Some(run) }
    }

    pub fn now(&self) -> Duration {
        self.clock.boottime()
    }

    /// The leader loses its office without noticing; a quorum elects another one.
    pub async fn elect(&mut self, by_transfer: bool) {
        self.port.leads.store(false, Ordering::SeqCst);
        if !by_transfer {
            self.run_for(self.timings.election_max).await;
        }
        self.log.lock().unwrap().term += 1;
        let (port, leader, run) = lead(&self.log, &self.clock, &self.timings, by_transfer);
        (self.port, self.leader, self.run) = (port, leader, Some(run));
    }

    pub fn commit<T>(&self, act: impl FnOnce(&mut TestLog) -> T) -> T {
        let mut log = self.log.lock().unwrap();
        let result = act(&mut log);
        self.port.applied.send_replace(log.state.applied);
        result
    }

    pub fn node(&mut self, id: u64) -> &mut SimNode {
        self.nodes.get_mut(&id).unwrap()
    }

    pub async fn run_for(&mut self, duration: Duration) {
        let end = self.now() + duration;
        while self.now() < end {
            self.tick().await;
        }
    }

    /// Runs until the condition holds; returns how long that took.
    pub async fn until(&mut self, what: &str, mut holds: impl FnMut(&Sim) -> bool) -> Duration {
        let start = self.now();
        while !holds(self) {
            assert!(self.now() < start + Duration::from_secs(120), "never: {what}");
            self.tick().await;
        }
        self.now() - start
    }

    pub async fn tick(&mut self) {
        tokio::time::sleep(TICK).await;
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.follow(id);
            if self.now() >= self.nodes[&id].next_beat {
                self.beat(id).await;
            }
        }
        self.check_one_owner();
    }

    /// The agent and the supervisor: run what is assigned, stop what is not.
    fn follow(&mut self, id: u64) {
        let now = self.now();
        let state = self.log.lock().unwrap().state.clone();
        let lease_stop = self.timings.lease_stop;
        let node = self.nodes.get_mut(&id).unwrap();
        if now >= node.lease_until {
            if now >= node.lease_until + lease_stop {
                node.running.clear();
            }
            return;
        }
        if node.cut {
            return;
        }
        let me = Owner { node: RaftId(id), node_epoch: node.node_epoch };
        let mine = |incarnation: &Incarnation| {
            state.assignments.get(incarnation).filter(|task| task.owner() == Some(me)).cloned()
        };
        for (incarnation, epoch) in node.running.clone() {
            let kept = mine(&incarnation)
                .is_some_and(|task| task.epoch == epoch && matches!(task.state, AssignmentState::Assigned(_)));
            if !kept {
                node.running.remove(&incarnation);
                node.stopped.push(StoppedTask { incarnation, epoch });
            }
        }
        for (incarnation, task) in &state.assignments {
            if task.state == AssignmentState::Assigned(me) {
                node.running.insert(*incarnation, task.epoch);
            }
        }
        // A release of what never ran here is answered too.
        for (incarnation, task) in &state.assignments {
            let stopped = StoppedTask { incarnation: *incarnation, epoch: task.epoch };
            if task.state == AssignmentState::Releasing(me) && !node.stopped.contains(&stopped) {
                node.stopped.push(stopped);
            }
        }
        node.stopped.retain(|stopped| mine(&stopped.incarnation).is_some_and(|task| task.epoch == stopped.epoch));
    }

    async fn beat(&mut self, id: u64) {
        let sent = self.now();
        let applied = self.log.lock().unwrap().state.applied;
        let interval = self.timings.heartbeat;
        let node = self.nodes.get_mut(&id).unwrap();
        node.next_beat = sent + interval;
        if node.cut {
            return;
        }
        node.number += 1;
        let report = |(incarnation, epoch): (&Incarnation, &Epoch)| TaskReport {
            incarnation: *incarnation,
            epoch: *epoch,
            ..TaskReport::default()
        };
        let heartbeat = Heartbeat {
            node: RaftId(id),
            node_epoch: node.node_epoch,
            number: node.number,
            catalogue_index: node.stuck_at.unwrap_or(applied),
            running: node.running.iter().map(report).collect(),
            stopped: node.stopped.clone(),
            load: NodeLoad::default(),
            stopping: node.stopping,
        };
        let answer = self.leader.heartbeat(heartbeat).await;
        let node = self.nodes.get_mut(&id).unwrap();
        node.last_answer = answer.clone().ok();
        match answer {
            Ok(HeartbeatAnswer::Renewed { lease_ms, .. }) => {
                node.lease_until = sent + Duration::from_millis(lease_ms);
            }
            Ok(HeartbeatAnswer::Behind { .. }) => {}
            Ok(HeartbeatAnswer::Fenced) if node.stopping => {}
            Ok(HeartbeatAnswer::Fenced) => self.register_again(id),
            Err(NotLeader) => node.next_beat = sent + self.timings.heartbeat_without_leader,
        }
    }

    /// What a fenced node does, and a process that starts again.
    pub fn register_again(&mut self, id: u64) {
        let boots = self.nodes[&id].boots + 1;
        let node_epoch = self.commit(|log| log.register(id, id * 1_000_000 + boots));
        let next_beat = self.now();
        self.nodes.insert(id, SimNode { node_epoch, boots, next_beat, ..SimNode::default() });
    }

    /// Whoever may act is counted: until its lease is over, and `S` for stopping.
    fn check_one_owner(&self) {
        let mut acting: BTreeMap<Incarnation, u64> = BTreeMap::new();
        for (id, node) in &self.nodes {
            if self.now() < node.lease_until + self.timings.lease_stop {
                for incarnation in node.running.keys() {
                    if let Some(other) = acting.insert(*incarnation, *id) {
                        panic!("{incarnation} has two owners, {other} and {id}, at {:?}", self.now());
                    }
                }
            }
        }
    }

    pub fn runs_on(&self, incarnation: Incarnation) -> Option<u64> {
        self.nodes.iter().find(|(_, node)| node.running.contains_key(&incarnation)).map(|(id, _)| *id)
    }

    pub fn is_fenced(&self, id: u64) -> bool {
        matches!(self.log.lock().unwrap().state.nodes[&RaftId(id)].state, NodeState::Fenced { .. })
    }
}

fn lead(
    log: &Arc<Mutex<TestLog>>,
    clock: &Arc<TestClock>,
    timings: &Timings,
    by_transfer: bool,
) -> (Arc<MemoryPort>, Arc<LeaderService>, DropGuard) {
    let (applied, term) = {
        let log = log.lock().unwrap();
        (log.state.applied, log.term)
    };
    let port = Arc::new(MemoryPort {
        log: Arc::clone(log),
        applied: watch::Sender::new(applied),
        term,
        leads: AtomicBool::new(true),
        proofs: AtomicUsize::new(0),
    });
    let leader = LeaderService::new(port.clone(), clock.clone(), timings.clone());
    let cancel = CancellationToken::new();
    tokio::spawn(Arc::clone(&leader).run(cancel.clone()));
    leader.elected(term, by_transfer);
    (port, leader, cancel.drop_guard())
}
