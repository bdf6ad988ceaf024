//! The bytes that are on disks and wires. A test that fails here means that nodes of two builds would not understand
//! each other, or a node its own disk: raise the version of the kind, and keep reading the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};

use api_types::{ClusterId, DiskId, Epoch, Incarnation, LogIndex, NodeEpoch, RaftId, RequestId};
use openraft::EntryPayload;
use openraft::impls::Entry as RaftEntry;
use openraft::vote::RaftLeaderId;

use super::types::{Entry, LogId, Peer, Proposal, StoredMembership, Types, Vote};
use super::wire::{self, HEADER_BYTES, Wire, WireError};
use crate::state::{Command, CommandBody, Disk, NodeRegistration, PlanStep};

type LeaderId = openraft::alias::LeaderIdOf<Types>;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1).to_committed(), index)
}

fn membership() -> openraft::Membership<u64, Peer> {
    let peer = |number: u64| Peer {
        name: format!("node-{number}").as_str().into(),
        disk_id: DiskId(number.into()),
        rpc_address: format!("n{number}:7480"),
    };
    let nodes = BTreeMap::from([(1, peer(1)), (2, peer(2)), (1042, peer(3))]);
    openraft::Membership::new(vec![BTreeSet::from([1, 2])], nodes).expect("voters are nodes")
}

fn command(body: CommandBody) -> Command {
    Command { request_id: RequestId(0x0102_0304), time_ms: 1_700_000_000_000, body }
}

fn disk() -> Disk {
    Disk { disk_id: DiskId(7), name: "n".into(), rpc_address: "n:1".to_owned() }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// Collects what differs, so that one run shows all of it.
#[derive(Default)]
struct Golden {
    differ: Vec<String>,
}

impl Golden {
    fn check<T: Wire + Debug + PartialEq>(&mut self, what: &str, value: &T, expect: &str) {
        let envelope = wire::encode(value).expect("encodes");
        assert_eq!(&wire::decode::<T>(&envelope).expect("decodes"), value, "{what}");
        let found = hexadecimal(&envelope[HEADER_BYTES..]);
        if found != expect {
            self.differ.push(format!("{what}: {found}"));
        }
    }

    fn verdict(self) {
        assert!(self.differ.is_empty(), "layouts have changed:\n{}", self.differ.join("\n"));
    }
}

#[test]
fn layouts_of_raft_do_not_change() {
    let mut golden = Golden::default();
    golden.check("vote", &Vote { leader_id: LeaderId::new(300, 2), committed: true }, "fb2c01010201");
    golden.check("log id", &Some(log_id(5, 1000)), "0105fbe803");
    golden.check("no log id", &None::<LogId>, "00");
    let blank: Entry = RaftEntry { log_id: log_id(5, 1000), payload: EntryPayload::Blank };
    golden.check("blank entry", &blank, "05fbe80300");
    let body = CommandBody::Released { incarnation: Incarnation(9), epoch: Epoch(10) };
    let normal: Entry = RaftEntry { log_id: log_id(5, 1000), payload: EntryPayload::Normal(Proposal(command(body))) };
    golden.check("command entry", &normal, "05fbe8030101fc04030201fd0068e5cf8b0100000a090a");
    let changed: Entry = RaftEntry { log_id: log_id(5, 1000), payload: EntryPayload::Membership(membership()) };
    golden.check("membership entry", &changed, "05fbe80302010201020301066e6f64652d3101076e313a3734383002066e6f64652d3202076e323a37343830fb1204066e6f64652d3303076e333a37343830");
    golden.check("membership", &StoredMembership::new(Some(log_id(5, 1000)), membership()), "0105fbe803010201020301066e6f64652d3101076e313a3734383002066e6f64652d3202076e323a37343830fb1204066e6f64652d3303076e333a37343830");
    golden.verdict();
}

#[test]
fn layouts_of_commands_do_not_change() {
    let mut golden = Golden::default();
    let mut check = |what: &str, body: CommandBody, expect: &str| {
        golden.check(what, &Proposal(command(body)), expect);
    };
    check(
        "delete",
        CommandBody::DeleteConnector { name: "c".into(), incarnation: Some(Incarnation(300)) },
        "01fc04030201fd0068e5cf8b01000001016301fb2c01",
    );
    check(
        "plan",
        CommandBody::ApplyPlan {
            decided_term: 3,
            steps: vec![
                PlanStep::Assign {
                    incarnation: Incarnation(1),
                    expect_epoch: Epoch(2),
                    node: RaftId(3),
                    node_epoch: NodeEpoch(4),
                    why: "w".to_owned(),
                },
                PlanStep::Release { incarnation: Incarnation(1), expect_epoch: Epoch(2), why: "w".to_owned() },
            ],
        },
        "01fc04030201fd0068e5cf8b010000030302000102030401770101020177",
    );
    check(
        "fence",
        CommandBody::FenceNode { node: RaftId(1), node_epoch: NodeEpoch(2), decided_term: 3, reason: "r".to_owned() },
        "01fc04030201fd0068e5cf8b010000040102030172",
    );
    check(
        "synced",
        CommandBody::NoteSyncedLogs { synced: vec![(RaftId(1), LogIndex(2))] },
        "01fc04030201fd0068e5cf8b01000006010102",
    );
    check("admit", CommandBody::AdmitDisk { disk: disk() }, "01fc04030201fd0068e5cf8b0100000707016e036e3a31");
    let registration = NodeRegistration {
        raft_id: RaftId(1),
        disk_id: DiskId(2),
        name: "n".into(),
        rpc_address: "a".to_owned(),
        api_address: "b".to_owned(),
        mqtt_address: "c".to_owned(),
        zone: "z".to_owned(),
        version: "v".to_owned(),
        kinds: vec!["file".to_owned()],
        boot_nonce: 3,
        lock_proof: true,
        last_log: LogIndex(4),
    };
    check(
        "register",
        CommandBody::RegisterNode { registration },
        "01fc04030201fd0068e5cf8b010000080102016e016101620163017a0176010466696c65030104",
    );
    check(
        "found",
        CommandBody::FoundCluster { cluster_id: ClusterId(5), members: vec![(RaftId(1), disk())] },
        "01fc04030201fd0068e5cf8b0100000b05010107016e036e3a31",
    );
    check(
        "delete held",
        CommandBody::DeleteHeld { incarnation: Incarnation(300), held_at: LogIndex(7) },
        "01fc04030201fd0068e5cf8b0100000dfb2c0107",
    );
    golden.verdict();
}

#[test]
fn an_envelope_that_is_not_whole_is_refused() {
    let vote = Vote { leader_id: LeaderId::new(3, 2), committed: true };
    let good = wire::encode(&vote).expect("encodes");
    let check = |change: fn(&mut Vec<u8>), expect: fn(&WireError) -> bool| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = wire::decode::<Vote>(&bad).expect_err("refused");
        assert!(expect(&error), "{error:?}");
    };
    check(|bytes| bytes.truncate(HEADER_BYTES - 1), |error| matches!(error, WireError::NoEnvelope));
    check(|bytes| bytes[0] ^= 1, |error| matches!(error, WireError::NoEnvelope));
    check(|bytes| bytes[2] = 2, |error| matches!(error, WireError::Kind { expected: 1, found: 2 }));
    check(|bytes| bytes[4] = 9, |error| matches!(error, WireError::Version { found: 9, newest: 1, .. }));
    check(|bytes| bytes[4] = 0, |error| matches!(error, WireError::Version { found: 0, .. }));
    check(|bytes| bytes[6] = 1, |error| matches!(error, WireError::Flags(1)));
    check(|bytes| bytes[11] = 0xff, |error| matches!(error, WireError::TooLarge(_)));
    check(|bytes| bytes.push(0), |error| matches!(error, WireError::Length { .. }));
    check(|bytes| *bytes.last_mut().expect("a body") ^= 1, |error| matches!(error, WireError::Checksum));
    assert!(matches!(wire::decode::<Option<LogId>>(&good), Err(WireError::Kind { .. })));
}

#[test]
fn bytes_after_the_value_are_refused() {
    // A whole envelope whose body is longer than its value: what a newer layout looks like to an older reader.
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Longer(Vote, u8);
    impl Wire for Longer {
        const KIND: wire::Kind = wire::Kind::Vote;
    }
    let longer = Longer(Vote { leader_id: LeaderId::new(3, 2), committed: true }, 7);
    let envelope = wire::encode(&longer).expect("encodes");
    assert!(matches!(wire::decode::<Vote>(&envelope), Err(WireError::Trailing(1))));
}

#[test]
fn a_command_of_an_unknown_version_is_not_read() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Newer(u16, u64);
    impl Wire for Newer {
        const KIND: wire::Kind = wire::Kind::Command;
    }
    let envelope = wire::encode(&Newer(2, 0)).expect("encodes");
    let error = wire::decode::<Proposal>(&envelope).expect_err("refused");
    assert!(matches!(error, WireError::Decode(_)), "{error:?}");
}
