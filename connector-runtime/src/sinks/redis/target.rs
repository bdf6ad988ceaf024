//! Where commands go: one server, the masters of a cluster, or whom the sentinels name.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::address::Address;
use super::cluster::Cluster;
use super::fault::down;
use super::sentinel::Sentinels;
use super::server::Server;
use crate::sink::TargetFault;

/// Who waits for longer looks whether the server is still the one to wait for: a master that hangs is replaced within
/// seconds, and what it confirms after that is lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) enum Target {
    Single(Arc<Server>),
    Cluster(Cluster),
    Sentinel(Sentinels),
}

/// Where commands may go right now.
pub(super) enum Ready<'a> {
    One(Arc<Server>),
    BySlot(&'a Cluster),
}

/// How a command finds its server.
#[derive(Clone)]
pub(super) enum Way {
    BySlot,
    /// There, although the map of the slots may say something else by now.
    To(Address),
    /// There, and only this once.
    Asking(Address),
}

impl Target {
    /// A connection that works, and what has to be known of a cluster.
    pub(super) async fn open(&self) -> Result<(), TargetFault> {
        match self {
            Self::Single(server) => server.link(0).await.map(drop),
            Self::Cluster(cluster) => cluster.refresh(Instant::now()).await,
            Self::Sentinel(sentinels) => sentinels.master().await?.link(0).await.map(drop),
        }
    }

    pub(super) async fn ready(&self) -> Result<Ready<'_>, TargetFault> {
        Ok(match self {
            Self::Single(server) => Ready::One(Arc::clone(server)),
            Self::Cluster(cluster) => {
                cluster.refresh_if_doubtful().await?;
                Ready::BySlot(cluster)
            }
            Self::Sentinel(sentinels) => Ready::One(sentinels.master().await?),
        })
    }

    /// Ends when another server has taken the place of this one.
    pub(super) async fn replaced(&self, server: &Server) -> TargetFault {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Self::Single(_) = self {
                return std::future::pending().await;
            }
            // As long as nobody can be asked, nobody has said so.
            if let Ok(false) = self.is_master(server).await {
                return no_master(server);
            }
        }
    }

    /// Whether what this server has confirmed counts: it was the one to write to. A fault says that nobody knows.
    pub(super) async fn confirm(&self, server: &Server, sent: Instant) -> Result<bool, TargetFault> {
        let in_time = sent.elapsed() < LOOK_EVERY;
        match self {
            Self::Single(_) => Ok(true),
            // A node that answers in time has heard of the others since.
            Self::Cluster(_) if in_time => Ok(true),
            Self::Sentinel(sentinels) if in_time => Ok(sentinels.master().await?.address == server.address),
            Self::Cluster(_) | Self::Sentinel(_) => self.is_master(server).await,
        }
    }

    /// Nobody is asked. A node of a cluster that has no slots yet, or no more, can be replaced by none.
    pub(super) fn is_known_master(&self, server: &Server) -> bool {
        match self {
            Self::Single(_) | Self::Sentinel(_) => true,
            Self::Cluster(cluster) => cluster.has(&server.address),
        }
    }

    /// Asks those who know, now.
    async fn is_master(&self, server: &Server) -> Result<bool, TargetFault> {
        let now = Instant::now();
        match self {
            Self::Single(_) => Ok(true),
            Self::Cluster(cluster) => {
                cluster.refresh(now).await?;
                Ok(cluster.has(&server.address))
            }
            Self::Sentinel(sentinels) => Ok(sentinels.master_since(now).await?.address == server.address),
        }
    }

    /// Before what failed is tried again: where it belongs may have changed since this moment.
    pub(super) async fn look_again(&self, since: Instant) {
        match self {
            Self::Single(_) => {}
            // Whoever sends next finds the same fault.
            Self::Cluster(cluster) => drop(cluster.refresh(since).await),
            Self::Sentinel(sentinels) => sentinels.doubt().await,
        }
    }

    /// The same, before the next call.
    pub(super) async fn look_again_later(&self) {
        match self {
            Self::Single(_) => {}
            Self::Cluster(cluster) => cluster.doubt(),
            Self::Sentinel(sentinels) => sentinels.doubt().await,
        }
    }
}

pub(super) fn no_master(server: &Server) -> TargetFault {
    down(format!("{} is not the master any more", server.address))
}

impl Ready<'_> {
    pub(super) fn server_for(&self, way: &Way, slot: u16) -> Result<Arc<Server>, TargetFault> {
        match (self, way) {
            (Self::One(server), _) => Ok(Arc::clone(server)),
            (Self::BySlot(cluster), Way::BySlot) => cluster.server_of(slot),
            (Self::BySlot(cluster), Way::To(address) | Way::Asking(address)) => Ok(cluster.server_at(address)),
        }
    }
}
