//! A listener on a free port over queues in memory.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use broker_node::mqtt::{Auth, ClusterLink, Limits, MqttMetrics, MqttOptions, MqttServer, WithoutLease};
use connector_runtime::lease::Lease;

use crate::memory::MemoryQueues;

pub struct Server {
    pub mqtt: MqttServer,
    pub queues: Arc<MemoryQueues>,
    pub lease: Lease,
    pub metrics: MqttMetrics,
    pub address: SocketAddr,
}

pub struct Setup {
    pub limits: Limits,
    pub auth: Auth,
    pub cluster: Option<ClusterLink>,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits {
            window: NonZeroU16::new(16).expect("not 0"),
            packet_bytes_max: 1 << 20,
            connections_max: 100,
            inflight_bytes_max: 8 << 20,
            without_lease: WithoutLease::Accept,
        };
        Self { limits, auth: Auth::new(None, true), cluster: None }
    }
}

impl Setup {
    pub fn window(window: u16) -> Self {
        let setup = Self::default();
        let window = NonZeroU16::new(window).expect("not 0");
        Self { limits: Limits { window, ..setup.limits }, ..setup }
    }

    /// Starts a server whose connectors want these filters.
    pub async fn start(self, filters: &[&str]) -> Server {
        let queues = MemoryQueues::new(filters);
        let lease = Lease::new(true);
        let metrics = MqttMetrics::new(&prometheus::Registry::new()).expect("fresh registry");
        let options = MqttOptions { auth: self.auth, limits: self.limits, cluster: self.cluster };
        let mqtt = MqttServer::start(options, queues.clone(), lease.clone(), metrics.clone());
        let address = mqtt.listen(([127, 0, 0, 1], 0).into()).await.expect("free port");
        Server { mqtt, queues, lease, metrics, address }
    }
}

/// A server with the defaults, whose connectors want everything below `wanted/`.
pub async fn server() -> Server {
    Setup::default().start(&["wanted/#"]).await
}

impl Server {
    pub fn refused(&self, reason: broker_node::mqtt::Refused) -> u64 {
        self.metrics.refused_total(reason)
    }

    pub async fn until_refused(&self, reason: broker_node::mqtt::Refused, count: u64) {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(5));
        let wait = async {
            while self.refused(reason) < count {
                looks.tick().await;
            }
        };
        tokio::time::timeout(crate::raw::PATIENCE, wait).await.expect("refused in time");
    }

    /// Waits until no client is connected.
    pub async fn until_empty(&self) {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(5));
        let wait = async {
            while self.metrics.connections.get() != 0 {
                looks.tick().await;
            }
        };
        tokio::time::timeout(crate::raw::PATIENCE, wait).await.expect("all clients are gone");
    }
}
