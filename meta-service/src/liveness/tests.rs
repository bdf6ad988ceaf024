use std::time::Duration;

use api_types::assignment::AssignmentState;
use api_types::status::TaskReport;

use super::*;
use crate::state::CommandBody;
use crate::state::fixtures::TestLog;

const START: Duration = Duration::from_secs(1000);

/// One leader's liveness over a log, with the time in milliseconds since its election.
struct Bench {
    log: TestLog,
    liveness: Liveness,
}

impl Bench {
    fn new(log: TestLog, by_transfer: bool) -> Self {
        let liveness = Liveness::new(Timings::default(), log.term, START, by_transfer, &log.state);
        Self { log, liveness }
    }

    fn heartbeat(&self, node: u64, catalogue_index: LogIndex) -> Heartbeat {
        Heartbeat {
            node: RaftId(node),
            node_epoch: self.log.state.nodes[&RaftId(node)].node_epoch,
            number: 0,
            catalogue_index,
            running: Vec::new(),
            stopped: Vec::new(),
            load: NodeLoad::default(),
            stopping: false,
        }
    }

    fn beat_with(&mut self, ms: u64, heartbeat: &Heartbeat) -> HeartbeatAnswer {
        let now = at(ms);
        self.liveness.observe(now, &self.log.state);
        self.liveness.received(now, heartbeat);
        self.liveness.renew(now, now, heartbeat.node, heartbeat.node_epoch)
    }

    /// A heartbeat of a node that has applied everything.
    fn beat(&mut self, ms: u64, node: u64) -> HeartbeatAnswer {
        let heartbeat = self.heartbeat(node, self.log.state.applied);
        self.beat_with(ms, &heartbeat)
    }

    fn overdue(&mut self, ms: u64) -> Vec<u64> {
        self.liveness.observe(at(ms), &self.log.state);
        let overdue = self.liveness.overdue(at(ms), &self.log.state);
        for late in &overdue {
            self.liveness.not_fenced(late.node, late.node_epoch);
        }
        overdue.iter().map(|late| late.node.0).collect()
    }

    fn missing(&mut self, ms: u64, index: LogIndex) -> Vec<u64> {
        self.liveness.observe(at(ms), &self.log.state);
        self.liveness.missing(at(ms), index).0.iter().map(|node| node.0).collect()
    }
}

fn at(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

fn renewed(answer: &HeartbeatAnswer) -> bool {
    matches!(answer, HeartbeatAnswer::Renewed { lease_ms: 2200, .. })
}

#[test]
fn a_new_leader_waits_before_it_calls_a_node_dead() {
    let check = |by_transfer: bool, first_dead_ms: u64| {
        let mut bench = Bench::new(TestLog::with_nodes(2), by_transfer);
        assert_eq!(bench.overdue(first_dead_ms - 1), [] as [u64; 0]);
        assert_eq!(bench.overdue(first_dead_ms), [1, 2]);
    };
    check(false, 2800 - 600);
    check(true, 2800);
}

#[test]
fn a_node_is_dead_dead_after_its_last_renewal() {
    let mut bench = Bench::new(TestLog::with_nodes(2), false);
    let incarnation = bench.log.create("c");
    bench.log.assign(incarnation, 1);
    for ms in [100, 5000] {
        assert!(renewed(&bench.beat(ms, 1)));
        assert!(renewed(&bench.beat(ms, 2)));
    }
    assert!(renewed(&bench.beat(7000, 2)));
    assert_eq!(bench.overdue(7799), [] as [u64; 0]);
    assert_eq!(bench.overdue(7800), [1]);
}

#[test]
fn a_node_being_fenced_gets_no_lease() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    bench.beat(100, 1);
    assert_eq!(bench.liveness.overdue(at(2900), &bench.log.state).len(), 1);
    assert_eq!(bench.liveness.overdue(at(2901), &bench.log.state).len(), 0, "proposed once");
    assert_eq!(bench.beat(2901, 1), HeartbeatAnswer::Fenced);
}

#[test]
fn a_lease_belongs_to_one_registration() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    let old = bench.heartbeat(1, LogIndex(999));
    bench.log.register(1, 999);
    assert_eq!(bench.beat_with(100, &old), HeartbeatAnswer::Fenced);
    assert!(renewed(&bench.beat(100, 1)));
    bench.log.fence(1);
    assert_eq!(bench.beat(200, 1), HeartbeatAnswer::Fenced);
}

#[test]
fn a_lease_needs_the_catalogue_as_it_was_a_second_ago() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    assert!(renewed(&bench.beat(100, 1)));
    let before = bench.log.state.applied;
    let created = LogIndex(bench.log.create("c").0);
    let lagging = bench.heartbeat(1, before);
    assert!(renewed(&bench.beat_with(2000, &lagging)), "seen for the first time just now");
    assert!(renewed(&bench.beat_with(2999, &lagging)));
    assert_eq!(bench.beat_with(3000, &lagging), HeartbeatAnswer::Behind { required: created });
    assert!(renewed(&bench.beat(3001, 1)));
}

#[test]
fn a_first_lease_needs_the_own_registration() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    let epoch = bench.log.register(1, 999);
    let lagging = bench.heartbeat(1, LogIndex(epoch.0 - 1));
    assert_eq!(bench.beat_with(100, &lagging), HeartbeatAnswer::Behind { required: LogIndex(epoch.0) });
}

#[test]
fn a_new_leader_counts_the_whole_catalogue_as_old() {
    let mut log = TestLog::with_nodes(1);
    let before = log.state.applied;
    let created = LogIndex(log.create("c").0);
    let mut bench = Bench::new(log, false);
    let lagging = bench.heartbeat(1, before);
    assert_eq!(bench.beat_with(1, &lagging), HeartbeatAnswer::Behind { required: created });
}

#[test]
fn no_lease_goes_behind_an_answered_barrier() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    bench.beat(1, 1);
    let before = bench.log.state.applied;
    let created = LogIndex(bench.log.create("c").0);
    bench.liveness.observe(at(3000), &bench.log.state);
    assert_eq!(bench.missing(3000, created), [] as [u64; 0], "its lease is over");
    bench.liveness.answered(created);
    let lagging = bench.heartbeat(1, before);
    assert_eq!(bench.beat_with(3001, &lagging), HeartbeatAnswer::Behind { required: created });
}

#[test]
fn a_barrier_waits_for_every_lease_that_may_hold() {
    let mut bench = Bench::new(TestLog::with_nodes(3), false);
    bench.beat(5000, 1);
    bench.beat(5000, 2);
    bench.beat(6000, 3);
    let created = LogIndex(bench.log.create("c").0);
    assert_eq!(bench.missing(6001, created), [1, 2, 3]);
    bench.beat(6002, 2);
    assert_eq!(bench.missing(6002, created), [1, 3]);
    assert_eq!(bench.missing(7202, created), [1, 3], "a lease ends by the slowest clock");
    assert_eq!(bench.missing(7203, created), [3]);
    bench.log.fence(3);
    assert_eq!(bench.missing(7204, created), [] as [u64; 0]);
}

#[test]
fn a_new_leader_counts_unheard_nodes_as_holding_a_lease() {
    let mut log = TestLog::with_nodes(2);
    let created = LogIndex(log.create("c").0);
    let mut bench = Bench::new(log, false);
    assert_eq!(bench.missing(0, created), [1, 2]);
    bench.beat(10, 1);
    assert_eq!(bench.missing(2202, created), [2]);
    assert_eq!(bench.missing(2203, created), [] as [u64; 0]);
}

#[test]
fn a_node_that_registered_after_the_change_is_not_waited_for() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    let created = LogIndex(bench.log.create("c").0);
    bench.log.register(1, 999);
    assert_eq!(bench.missing(1, created), [] as [u64; 0]);
}

#[test]
fn a_goodbye_ends_the_lease() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    bench.beat(1, 1);
    let created = LogIndex(bench.log.create("c").0);
    let node_epoch = bench.log.state.nodes[&RaftId(1)].node_epoch;
    bench.liveness.goodbye(RaftId(1), node_epoch);
    assert_eq!(bench.missing(2, created), [] as [u64; 0]);
    assert_eq!(bench.beat(3, 1), HeartbeatAnswer::Fenced);
    assert_eq!(bench.liveness.gone(), [(RaftId(1), node_epoch)]);
}

#[test]
fn a_node_without_tasks_is_not_fenced_for_being_behind() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    let incarnation = bench.log.create("c");
    let lagging = bench.heartbeat(1, LogIndex(0));
    for ms in (0..10_000).step_by(500) {
        assert!(matches!(bench.beat_with(ms, &lagging), HeartbeatAnswer::Behind { .. }));
        assert_eq!(bench.overdue(ms), [] as [u64; 0]);
    }
    bench.log.assign(incarnation, 1);
    assert_eq!(bench.overdue(10_000), [1]);
}

#[test]
fn voluntary_moves_wait_until_every_node_was_heard() {
    let mut bench = Bench::new(TestLog::with_nodes(2), false);
    assert_eq!(bench.liveness.view(at(0)).moves_in, Duration::from_millis(2200));
    bench.beat(10, 1);
    assert_eq!(bench.liveness.view(at(200)).moves_in, Duration::from_millis(2000));
    bench.beat(20, 2);
    assert_eq!(bench.liveness.view(at(200)).moves_in, Duration::ZERO);
}

#[test]
fn presence_follows_the_lease() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    let presence = |bench: &Bench, ms: u64| bench.liveness.view(at(ms)).nodes[&RaftId(1)].presence;
    assert_eq!(presence(&bench, 800), Presence::Joining { awaited: Duration::from_millis(2000) });
    assert_eq!(presence(&bench, 2800), Presence::Silent);
    bench.beat(3000, 1);
    assert_eq!(presence(&bench, 5199), Presence::Alive);
    assert_eq!(presence(&bench, 5200), Presence::Silent);
}

#[test]
fn a_node_that_comes_back_in_time_has_returned() {
    let check = |away_ms: u64, expect: bool| {
        let mut bench = Bench::new(TestLog::with_nodes(1), false);
        bench.beat(0, 1);
        let node_epoch = bench.log.state.nodes[&RaftId(1)].node_epoch;
        bench.log.commit(CommandBody::NodeLeft { node: RaftId(1), node_epoch });
        bench.liveness.observe(at(0), &bench.log.state);
        bench.liveness.observe(at(away_ms - 1), &bench.log.state);
        bench.log.register(1, 999);
        bench.liveness.observe(at(away_ms), &bench.log.state);
        let returned = |ms: u64| bench.liveness.view(at(ms)).nodes[&RaftId(1)].returned;
        assert_eq!(returned(away_ms), expect, "{away_ms}");
        assert!(!returned(away_ms + 30_000));
    };
    check(29_000, true);
    check(31_000, false);
}

#[test]
fn released_needs_the_word_of_the_owner_about_that_epoch() {
    let mut bench = Bench::new(TestLog::with_nodes(2), false);
    let incarnation = bench.log.create("c");
    bench.log.assign(incarnation, 1);
    bench.log.release(incarnation);
    let epoch = bench.log.state.assignments[&incarnation].epoch;
    let say = |bench: &mut Bench, node: u64, epoch: Epoch, running: bool| {
        let mut heartbeat = bench.heartbeat(node, bench.log.state.applied);
        heartbeat.stopped.push(StoppedTask { incarnation, epoch });
        if running {
            heartbeat.running.push(TaskReport { incarnation, epoch, ..TaskReport::default() });
        }
        bench.beat_with(10, &heartbeat);
        bench.liveness.released(&bench.log.state)
    };
    assert_eq!(say(&mut bench, 1, Epoch(epoch.0 - 1), false), []);
    assert_eq!(say(&mut bench, 2, epoch, false), [], "not the owner");
    assert_eq!(say(&mut bench, 1, epoch, true), [], "it runs");
    assert_eq!(say(&mut bench, 1, epoch, false), [(incarnation, epoch)]);
    bench.log.released(incarnation);
    assert_eq!(bench.log.state.assignments[&incarnation].state, AssignmentState::Idle);
    bench.liveness.observe(at(11), &bench.log.state);
    assert_eq!(bench.liveness.released(&bench.log.state), []);
}

#[test]
fn reports_follow_the_epoch() {
    let mut bench = Bench::new(TestLog::with_nodes(2), false);
    let incarnation = bench.log.create("c");
    let report = |bench: &mut Bench, node: u64, number: u64, epoch: u64| {
        let mut heartbeat = bench.heartbeat(node, bench.log.state.applied);
        heartbeat.number = number;
        heartbeat.running.push(TaskReport { incarnation, epoch: Epoch(epoch), ..TaskReport::default() });
        bench.beat_with(number, &heartbeat);
        let task = &bench.liveness.tasks()[&incarnation];
        (task.node.0, task.report.epoch.0)
    };
    assert_eq!(report(&mut bench, 1, 1, 10), (1, 10));
    assert_eq!(report(&mut bench, 2, 2, 20), (2, 20));
    assert_eq!(report(&mut bench, 1, 3, 10), (2, 20), "an owner of the past");
    let mut late = bench.heartbeat(2, LogIndex(0));
    late.running.push(TaskReport { incarnation, epoch: Epoch(30), ..TaskReport::default() });
    late.number = 1;
    bench.beat_with(5, &late);
    assert_eq!(bench.liveness.tasks()[&incarnation].report.epoch, Epoch(20), "an older heartbeat that came late");

    bench.log.delete("c");
    bench.log.commit(CommandBody::RemoveConnector { incarnation });
    bench.liveness.observe(at(6), &bench.log.state);
    assert!(bench.liveness.tasks().is_empty());
}

#[test]
fn forgotten_holds_are_found() {
    let mut bench = Bench::new(TestLog::with_nodes(1), false);
    let incarnation = bench.log.create("c");
    bench.log.commit(CommandBody::HoldConnector { name: "c".into(), incarnation: None });
    bench.liveness.observe(at(0), &bench.log.state);
    assert_eq!(bench.liveness.forgotten_holds(at(29_999)), []);
    assert_eq!(bench.liveness.forgotten_holds(at(30_000)), [incarnation]);
}

#[test]
fn an_older_state_changes_nothing_after_a_newer_one() {
    let mut bench = Bench::new(TestLog::with_nodes(2), false);
    let older = bench.log.state.clone();
    bench.log.register(1, 101);
    assert!(renewed(&bench.beat(100, 1)));
    bench.log.fence(2);
    bench.liveness.observe(at(101), &bench.log.state);
    bench.liveness.observe(at(102), &older);
    assert!(bench.liveness.has_lease(RaftId(1)), "its registration was forgotten");
    assert!(!bench.liveness.view(at(103)).nodes.contains_key(&RaftId(2)), "fenced, and yet back");
}
