//! From a disk to a running Raft.
//!
//! ```text
//! identity.json has a cluster? ── yes ─► open meta/, start Raft ─► log empty? ── no ─► catch up ─► running
//!        │ no                                                        │ yes: still part of the bootstrap
//!        ▼                                                           ▼
//! ask all peers ─► a member somewhere ─► join
//!               ─► first initial voter and *all* others empty or adopted ─► bootstrap
//!               ─► else wait: to be adopted, or for a member
//!
//! bootstrap: bootstrap.json ─► adopt each ─► own identity ─► Raft ─► initialize with all ─► remove the file
//! ```
//!
//! After a crash at any step the first voter finds `bootstrap.json` and an empty log, and resumes the same plan; when
//! a disk of the plan was replaced meanwhile, it makes a newer one. That is safe because nobody has an entry: the
//! first voter's own log gets the first one before anybody else hears of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_types::{ClusterId, LogIndex, NodeName, RaftId};
use tokio::sync::{mpsc, oneshot};

use crate::durable_file;
use crate::fatal::FatalReason;
use crate::identity::{DiskIdentity, Membership, WentBack};
use crate::peers::{Hello, PeerError, Plan, PlannedMember, Stage, StandingQuestion};
use crate::raft::{NodeSettings, OpenedNode, RaftNode, meta_dir};
use crate::shared::Shared;
use crate::standing::{BOOTSTRAP_ID_MAX, Standing};
use crate::state::Disk;

/// Between two rounds of questions.
const ROUND_EVERY: Duration = Duration::from_millis(250);
/// A member that hears no leader for so many rounds asks whether it was removed.
const ROUNDS_WITHOUT_LEADER: u32 = 20;
/// Less free space than this and `meta/` is not opened: a write that fails then would end the process again.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// What a node that is not running yet waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootStatus {
    Starting,
    /// The disk is too full to write to `meta/`.
    WaitingForRoom {
        free_bytes: u64,
    },
    /// The first initial voter waits for the others; each with what is wrong.
    WaitingForVoters {
        missing: Vec<String>,
    },
    /// Waits for the first initial voter, or for a member of a cluster to appear.
    WaitingForCluster {
        asked: Vec<String>,
    },
    WaitingForLeader,
    CatchingUp,
    Running,
}

impl std::fmt::Display for BootStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::WaitingForRoom { free_bytes } => {
                write!(f, "waiting for room on the disk: {free_bytes} bytes free, {FREE_BYTES_MIN} needed")
            }
            Self::WaitingForVoters { missing } => write!(f, "waiting for the initial voters: {}", missing.join("; ")),
            Self::WaitingForCluster { asked } => {
                write!(f, "waiting to be taken into a cluster; asked: {}", asked.join("; "))
            }
            Self::WaitingForLeader => f.write_str("waiting for a leader"),
            Self::CatchingUp => f.write_str("catching up with the leader"),
            Self::Running => f.write_str("running"),
        }
    }
}

/// A plan somebody sent, and where the answer goes.
pub(crate) struct Adoption {
    pub plan: Plan,
    pub answer: oneshot::Sender<Result<(), AdoptionRefused>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AdoptionRefused {
    #[error("the plan does not name this disk")]
    NotNamed,
    #[error("only the first of this node's initial voters may adopt it")]
    NotTheFirstVoter,
    #[error("this disk belongs to cluster {0}")]
    Member(ClusterId),
    #[error("not started yet")]
    Starting,
    #[error("this disk cannot be written: {0}")]
    Disk(String),
}

pub(crate) struct Boot {
    shared: Arc<Shared>,
    adoptions: mpsc::Receiver<Adoption>,
    rounds_without_leader: u32,
}

enum Step {
    Again,
    Wait,
    Done,
}

type Answers = BTreeMap<String, Result<Hello, PeerError>>;

impl Boot {
    pub(crate) fn new(shared: Arc<Shared>, adoptions: mpsc::Receiver<Adoption>) -> Self {
        Self { shared, adoptions, rounds_without_leader: 0 }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let pause = match self.step().await {
                Ok(Step::Again) => Duration::ZERO,
                Ok(Step::Wait) => ROUND_EVERY,
                Ok(Step::Done) => return,
                Err(reason) => return self.shared.fatal.raise(reason),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(Adoption { plan, answer }) = self.adoptions.recv() => {
                    let outcome = self.take_plan(&plan).await;
                    // Who does not wait for the answer any more asks again.
                    drop(answer.send(outcome));
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, FatalReason> {
        let seat = &self.shared.seat;
        match (seat.disk().membership, seat.node()) {
            (None, _) => self.seek(None).await,
            (Some(membership), None) => self.start_raft(membership).await,
            (Some(membership), Some(node)) if node.log_is_empty() => self.seek(Some(membership)).await,
            (Some(membership), Some(node)) => self.catch_up(membership, &node).await,
        }
    }

    /// No entry yet: looks for a cluster, or founds one.
    async fn seek(&mut self, mine: Option<Membership>) -> Result<Step, FatalReason> {
        let answers = self.ask_all().await;
        for (address, answer) in &answers {
            let Ok(Hello { stage: Stage::Member(theirs), .. }) = answer else { continue };
            match mine {
                // The leader will bring the log.
                Some(mine) if mine.cluster_id == theirs.cluster_id => {
                    self.shared.set_boot_status(BootStatus::WaitingForLeader);
                    return Ok(Step::Wait);
                }
                Some(_) | None => return self.join(address).await,
            }
        }
        let bootstraps = mine.is_none_or(|mine| mine.raft_id.0 <= BOOTSTRAP_ID_MAX);
        if bootstraps && self.shared.is_first_voter() {
            return self.bootstrap(&answers).await;
        }
        let asked = answers.iter().map(|(address, answer)| described(address, answer)).collect();
        self.shared.set_boot_status(BootStatus::WaitingForCluster { asked });
        Ok(Step::Wait)
    }

    async fn ask_all(&self) -> Answers {
        let questions = self.others().map(async |address| (address.clone(), self.shared.peers.hello(address).await));
        futures::future::join_all(questions).await.into_iter().collect()
    }

    /// Whom this node knows from its configuration.
    fn others(&self) -> impl Iterator<Item = &String> {
        let options = &self.shared.options;
        let voters = options.initial_voters.iter().map(|(_, address)| address);
        voters.chain(&options.join).filter(|address| **address != options.rpc_address)
    }

    async fn join(&mut self, address: &str) -> Result<Step, FatalReason> {
        let disk = self.shared.disk();
        match self.shared.peers.join(address, &disk).await {
            Ok(membership) => {
                tracing::info!(cluster_id = %membership.cluster_id, raft_id = %membership.raft_id, "joined a cluster");
                self.become_member(membership).await?;
                Ok(Step::Again)
            }
            Err(error) => {
                let asked = vec![format!("{address}: {error}")];
                self.shared.set_boot_status(BootStatus::WaitingForCluster { asked });
                Ok(Step::Wait)
            }
        }
    }

    async fn bootstrap(&mut self, answers: &Answers) -> Result<Step, FatalReason> {
        let disks = match self.voters_disks(answers) {
            Ok(disks) => disks,
            Err(missing) => {
                self.shared.set_boot_status(BootStatus::WaitingForVoters { missing });
                return Ok(Step::Wait);
            }
        };
        let plan = self.plan(disks)?;
        for member in plan.members.iter().skip(1) {
            if let Err(error) = self.shared.peers.adopt(&member.disk.rpc_address, &plan).await {
                let missing = vec![format!("{} at {}: {error}", member.disk.name, member.disk.rpc_address)];
                self.shared.set_boot_status(BootStatus::WaitingForVoters { missing });
                return Ok(Step::Wait);
            }
        }
        let own = Membership { cluster_id: plan.cluster_id, raft_id: plan.members[0].raft_id };
        if self.shared.seat.disk().membership != Some(own) {
            self.become_member(own).await?;
        }
        let Some(node) = self.shared.seat.node() else { return Ok(Step::Again) };
        let members: Vec<(RaftId, Disk)> =
            plan.members.iter().map(|member| (member.raft_id, member.disk.clone())).collect();
        if let Err(error) = node.initialize(&members).await {
            tracing::warn!(%error, "bootstrap failed and will be tried again");
            return Ok(Step::Wait);
        }
        tracing::info!(cluster_id = %plan.cluster_id, voters = members.len(), "founded a cluster");
        Ok(Step::Again)
    }

    /// The disks of all initial voters, or who is missing and why.
    fn voters_disks(&self, answers: &Answers) -> Result<Vec<Disk>, Vec<String>> {
        let mut disks = vec![self.shared.disk()];
        let mut missing = Vec::new();
        for (name, address) in self.shared.options.initial_voters.iter().skip(1) {
            match answers.get(address) {
                Some(Ok(hello)) if hello.name != *name => {
                    missing.push(format!("{name} at {address} calls itself {}", hello.name));
                }
                Some(Ok(Hello { disk_id, stage: Stage::Empty | Stage::Adopted(_), .. })) => {
                    disks.push(Disk { disk_id: *disk_id, name: name.clone(), rpc_address: address.clone() });
                }
                Some(answer) => missing.push(format!("{name} at {}", described(address, answer))),
                None => missing.push(format!("{name} at {address} was not asked: it has this node's own address")),
            }
        }
        if missing.is_empty() { Ok(disks) } else { Err(missing) }
    }

    /// The plan of an earlier attempt if it still fits, else a new one; on the disk before anybody hears of it.
    fn plan(&self, disks: Vec<Disk>) -> Result<Plan, FatalReason> {
        let path = plan_path(&self.shared);
        let unreadable = |error| FatalReason::MetaRead { what: "bootstrap.json", error };
        if let Some(bytes) = durable_file::read(&path).map_err(unreadable)? {
            let earlier: Plan = serde_json::from_slice(&bytes)
                .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
            if earlier.members.iter().map(|member| &member.disk).eq(&disks) {
                return Ok(earlier);
            }
        }
        let members = (1..).map(RaftId).zip(disks).map(|(raft_id, disk)| PlannedMember { raft_id, disk }).collect();
        let plan = Plan { cluster_id: ClusterId(rand::random()), members };
        let unwritten = |error| FatalReason::MetaWrite { what: "bootstrap.json", error };
        let bytes = serde_json::to_vec_pretty(&plan).map_err(|error| unwritten(std::io::Error::other(error)))?;
        durable_file::replace(&path, &bytes).map_err(unwritten)?;
        Ok(plan)
    }

    /// The other side of a bootstrap.
    async fn take_plan(&mut self, plan: &Plan) -> Result<(), AdoptionRefused> {
        let DiskIdentity { disk_id, membership, went_back: _ } = self.shared.seat.disk();
        let own = plan.members.iter().find(|member| member.disk.disk_id == disk_id).ok_or(AdoptionRefused::NotNamed)?;
        let founder: Option<&NodeName> = plan.members.first().map(|member| &member.disk.name);
        if founder.is_none() || founder != self.shared.options.initial_voters.first().map(|(name, _)| name) {
            return Err(AdoptionRefused::NotTheFirstVoter);
        }
        let planned = Membership { cluster_id: plan.cluster_id, raft_id: own.raft_id };
        match membership {
            Some(membership) if membership == planned => return Ok(()),
            None => {}
            Some(membership) if membership.raft_id.0 > BOOTSTRAP_ID_MAX => {
                return Err(AdoptionRefused::Member(membership.cluster_id));
            }
            Some(membership) => {
                let node = self.shared.seat.node().ok_or(AdoptionRefused::Starting)?;
                if !node.log_is_empty() {
                    return Err(AdoptionRefused::Member(membership.cluster_id));
                }
            }
        }
        let became = self.become_member(planned).await;
        became.map_err(|error| AdoptionRefused::Disk(error.to_string()))
    }

    /// Synced before it returns. An earlier membership ends here, and what its Raft had: votes, but no entry.
    async fn become_member(&mut self, membership: Membership) -> Result<(), FatalReason> {
        let unwritten = |what| move |error| FatalReason::MetaWrite { what, error };
        let seat = &self.shared.seat;
        if let Some(node) = seat.node() {
            seat.set_node(None);
            node.shutdown().await;
            let removed = tokio::fs::remove_dir_all(meta_dir(&self.shared.options.data_dir)).await;
            removed.map_err(unwritten("folder meta"))?;
        }
        let disk = DiskIdentity { membership: Some(membership), went_back: None, ..seat.disk() };
        disk.store(&self.shared.options.data_dir).map_err(unwritten("identity.json"))?;
        seat.set_disk(disk);
        Ok(())
    }

    async fn start_raft(&mut self, membership: Membership) -> Result<Step, FatalReason> {
        let shared = &self.shared;
        let free_bytes = free_bytes(&shared.options.data_dir)
            .map_err(|error| FatalReason::MetaRead { what: "free space of the disk", error })?;
        if free_bytes < FREE_BYTES_MIN {
            shared.set_boot_status(BootStatus::WaitingForRoom { free_bytes });
            return Ok(Step::Wait);
        }
        let disk = shared.seat.disk();
        if let Some(WentBack { expected, found }) = disk.went_back {
            return Err(FatalReason::DiskWentBack { expected, found });
        }
        let Some(identity) = disk.identity() else { return Ok(Step::Again) };
        let opened = OpenedNode::open(NodeSettings {
            data_dir: shared.options.data_dir.clone(),
            identity,
            timings: shared.options.timings.clone(),
            snapshot_every: shared.options.snapshot_every,
            replica: Arc::clone(&shared.seat.replica),
            rpc: shared.vital_rpc.clone(),
            snapshot_rpc: shared.snapshot_rpc.clone(),
            fatal: shared.fatal.clone(),
        });
        let opened = opened.await?;
        // A disk that forgot must not vote. Where nobody leads, as when all nodes start at once, it is found out when it
        // registers.
        if let Err(reason) = self.ask_standing(membership.raft_id, Some(opened.last_log())).await {
            opened.close().await;
            return Err(reason);
        }
        shared.seat.set_node(Some(opened.start().await?));
        shared.set_boot_status(BootStatus::WaitingForLeader);
        tracing::info!(cluster_id = %membership.cluster_id, raft_id = %membership.raft_id, "raft started");
        Ok(Step::Again)
    }

    /// Has entries: the bootstrap is behind us. Ready when one linearizable read was answered.
    async fn catch_up(&mut self, membership: Membership, node: &Arc<RaftNode>) -> Result<Step, FatalReason> {
        let status = node.status();
        if status.leader.is_none() {
            self.shared.set_boot_status(BootStatus::WaitingForLeader);
            self.rounds_without_leader += 1;
            if self.rounds_without_leader.is_multiple_of(ROUNDS_WITHOUT_LEADER) {
                self.ask_standing(membership.raft_id, None).await?;
            }
            return Ok(Step::Wait);
        }
        self.shared.set_boot_status(BootStatus::CatchingUp);
        if status.applied.is_none() {
            return Ok(Step::Wait);
        }
        // The first entry is synced now, here or at a majority: the plan is history.
        durable_file::remove(&plan_path(&self.shared))
            .map_err(|error| FatalReason::MetaWrite { what: "bootstrap.json", error })?;
        if !node.is_recovered() {
            return Ok(Step::Wait);
        }
        match self.shared.reads.read().await {
            // Before the founding is applied, the state knows no members: nobody could register.
            Ok(view) if view.state.cluster_id == membership.cluster_id => {}
            Ok(_) | Err(_) => return Ok(Step::Wait),
        }
        self.shared.set_boot_status(BootStatus::Running);
        Ok(Step::Done)
    }

    /// Believed only from a leader that proved its leadership; the nodes asked see to that.
    async fn ask_standing(&self, raft_id: RaftId, last_log: Option<LogIndex>) -> Result<(), FatalReason> {
        let question = StandingQuestion { raft_id, last_log };
        let questions = self.others().map(|address| self.shared.peers.standing(address, &question));
        for standing in futures::future::join_all(questions).await.into_iter().flatten() {
            match standing {
                Standing::Removed => return Err(FatalReason::Removed(raft_id)),
                Standing::WentBack { expected } => {
                    let found = last_log.unwrap_or_default();
                    self.shared.note_went_back(WentBack { expected, found })?;
                    return Err(FatalReason::DiskWentBack { expected, found });
                }
                Standing::Member | Standing::NotYetKnown => {}
            }
        }
        Ok(())
    }
}

fn plan_path(shared: &Shared) -> PathBuf {
    shared.options.data_dir.join("bootstrap.json")
}

fn described(address: &str, answer: &Result<Hello, PeerError>) -> String {
    match answer {
        Ok(Hello { stage: Stage::Empty, .. }) => format!("{address} is empty"),
        Ok(Hello { stage: Stage::Adopted(theirs), .. }) => {
            format!("{address} was adopted for cluster {}", theirs.cluster_id)
        }
        Ok(Hello { stage: Stage::Member(theirs), .. }) => format!("{address} belongs to cluster {}", theirs.cluster_id),
        Ok(Hello { stage: Stage::Starting(_), .. }) => format!("{address} is starting"),
        Err(error) => format!("{address}: {error}"),
    }
}

fn free_bytes(directory: &std::path::Path) -> std::io::Result<u64> {
    let volume = rustix::fs::statvfs(directory)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}
