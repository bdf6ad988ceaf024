//! A log that applies what is committed to it: what the tests of this crate build their clusters with.

use std::collections::BTreeMap;

use api_types::connector::{ConnectorSpec, Delivery, Desired, Placement, QueueOptions};
use api_types::failure::FailurePolicy;
use api_types::topic::TopicFilter;
use api_types::{ClusterId, ConnectorName, DiskId, Incarnation, LogIndex, NodeEpoch, NodeName, RaftId, RequestId};

use super::*;

#[derive(Clone, Default)]
pub struct TestLog {
    pub state: ClusterState,
    pub term: u64,
    pub entries: Vec<(LogIndex, u64, Command)>,
}

impl TestLog {
    /// A founded cluster of nodes 1..=nodes, named `node-1`…, all registered, all with kind `file`.
    pub fn with_nodes(nodes: u64) -> Self {
        let mut log = Self { term: 1, ..Self::default() };
        let members = (1..=nodes).map(|id| (RaftId(id), disk(id))).collect();
        log.commit(CommandBody::FoundCluster { cluster_id: ClusterId(7), members });
        for id in 1..=nodes {
            log.register(id, id * 100);
        }
        log
    }

    pub fn commit(&mut self, body: CommandBody) -> Reply {
        let request_id = RequestId(u128::from(self.state.applied.0) + 1_000_000);
        self.commit_as(request_id, body)
    }

    pub fn commit_as(&mut self, request_id: RequestId, body: CommandBody) -> Reply {
        let index = LogIndex(self.state.applied.0 + 1);
        let command = Command { request_id, time_ms: index.0 * 10, body };
        let reply = self.state.apply(index, self.term, &command);
        self.entries.push((index, self.term, command));
        reply
    }

    pub fn register(&mut self, id: u64, boot_nonce: u64) -> NodeEpoch {
        match self.commit(CommandBody::RegisterNode { registration: registration(id, boot_nonce) }).body {
            ReplyBody::Registered { node_epoch } => node_epoch,
            other => panic!("not registered: {other:?}"),
        }
    }

    pub fn create(&mut self, name: &str) -> Incarnation {
        self.create_spec(spec(name))
    }

    pub fn create_spec(&mut self, spec: ConnectorSpec) -> Incarnation {
        match self.commit(CommandBody::CreateConnector { spec: Box::new(spec) }).body {
            ReplyBody::Created { incarnation, .. } => incarnation,
            other => panic!("not created: {other:?}"),
        }
    }

    pub fn delete(&mut self, name: &str) -> Reply {
        self.commit(CommandBody::DeleteConnector { name: name.into(), incarnation: None })
    }

    pub fn plan(&mut self, steps: Vec<PlanStep>) -> Reply {
        self.commit(CommandBody::ApplyPlan { decided_term: self.term, steps })
    }

    pub fn assign(&mut self, incarnation: Incarnation, node: u64) -> Reply {
        let expect_epoch = self.state.assignments[&incarnation].epoch;
        let node_epoch = self.state.nodes[&RaftId(node)].node_epoch;
        self.plan(vec![PlanStep::Assign {
            incarnation,
            expect_epoch,
            node: RaftId(node),
            node_epoch,
            why: "test".into(),
        }])
    }

    pub fn release(&mut self, incarnation: Incarnation) -> Reply {
        let expect_epoch = self.state.assignments[&incarnation].epoch;
        self.plan(vec![PlanStep::Release { incarnation, expect_epoch, why: "test".into() }])
    }

    pub fn released(&mut self, incarnation: Incarnation) -> Reply {
        let epoch = self.state.assignments[&incarnation].epoch;
        self.commit(CommandBody::Released { incarnation, epoch })
    }

    pub fn fence(&mut self, node: u64) -> Reply {
        let node_epoch = self.state.nodes[&RaftId(node)].node_epoch;
        let reason = "not heard".to_owned();
        self.commit(CommandBody::FenceNode { node: RaftId(node), node_epoch, decided_term: self.term, reason })
    }
}

pub fn disk(id: u64) -> Disk {
    Disk { disk_id: DiskId(u128::from(id)), name: node_name(id), rpc_address: format!("127.0.0.1:{}", 7000 + id) }
}

pub fn node_name(id: u64) -> NodeName {
    NodeName(format!("node-{id}"))
}

pub fn registration(id: u64, boot_nonce: u64) -> NodeRegistration {
    NodeRegistration {
        raft_id: RaftId(id),
        disk_id: DiskId(u128::from(id)),
        name: node_name(id),
        rpc_address: format!("127.0.0.1:{}", 7000 + id),
        api_address: format!("127.0.0.1:{}", 8000 + id),
        mqtt_address: format!("127.0.0.1:{}", 1000 + id),
        zone: format!("zone-{}", id % 2),
        version: "0.1.0".to_owned(),
        kinds: vec!["file".to_owned()],
        boot_nonce,
        lock_proof: true,
        last_log: LogIndex(u64::MAX),
    }
}

pub fn spec(name: &str) -> ConnectorSpec {
    ConnectorSpec {
        name: ConnectorName::from(name),
        kind: "file".to_owned(),
        config_sent: "{}".to_owned(),
        config_effective: "{}".to_owned(),
        filter: TopicFilter::parse("a/#").expect("a filter"),
        failure: FailurePolicy::default(),
        queue: QueueOptions::default(),
        placement: Placement::default(),
        desired: Desired::Running,
        labels: BTreeMap::new(),
        description: String::new(),
        delivery: Delivery::AtLeastOnce,
    }
}
