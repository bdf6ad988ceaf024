//! Three members of etcd with its defaults.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::scratch::Scratch;
use tests::{api, ports, wait};

use super::{Server, program};

const MEMBERS: usize = 3;
const READY_LIMIT: Duration = Duration::from_secs(30);

pub struct Etcd {
    members: Vec<Server>,
    leader: usize,
}

impl Etcd {
    pub async fn start() -> Result<Self> {
        let peer_ports: Vec<u16> = (0..MEMBERS).map(|_| ports::free()).collect::<Result<_>>()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            peer_ports.iter().enumerate().map(|(member, port)| format!("m{member}={}", url(*port))).collect();
        let starts = peer_ports.iter().enumerate().map(|(member, peer_port)| {
            let (cluster, peer) = (cluster.join(","), url(*peer_port));
            async move {
                let (scratch, port) = (Scratch::new("etcd")?, ports::free()?);
                let client = format!("http://127.0.0.1:{port}");
                let mut command = Command::new(program("etcd"));
                command.args(["--name", &format!("m{member}"), "--log-level", "error"]);
                command.arg("--data-dir").arg(scratch.path().join("data"));
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &cluster]);
                Server::start("etcd", &mut command, port, scratch).await
            }
        });
        let members = futures::future::try_join_all(starts).await?;
        let leader = leader(&members).await?;
        Ok(Self { members, leader })
    }

    pub fn leader_address(&self) -> String {
        format!("127.0.0.1:{}", self.members[self.leader].port)
    }

    pub fn follower_address(&self) -> String {
        format!("127.0.0.1:{}", self.members[(self.leader + 1) % MEMBERS].port)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Server::pid).collect()
    }
}

async fn leader(members: &[Server]) -> Result<usize> {
    let http = api::http_client()?;
    wait::until(READY_LIMIT, "etcd has a leader", || async {
        for (member, server) in members.iter().enumerate() {
            let url = format!("http://127.0.0.1:{}/v3/maintenance/status", server.port);
            let answer = http.post(url).body("{}").send().await?.text().await?;
            let status: Value = serde_json::from_str(&answer)?;
            let leader = status["leader"].as_str().context("no leader")?;
            ensure!(leader != "0", "no leader yet");
            if status["header"]["member_id"] == leader {
                return Ok(member);
            }
        }
        anyhow::bail!("no member leads")
    })
    .await
}
