//! The node's configuration: one list of keys, from which the types, the reading, the showing and the table in
//! `docs/operations.md` follow.
//!
//! ```text
//! TOML file ─► environment ─► --set ─► {path → value} ─► sections (typed) ─► checks across keys ─► Config
//!                                            └── problems of every phase are collected and reported together ──┘
//! ```

mod check;
mod load;
mod setting;
mod units;

use std::path::PathBuf;
use std::time::Duration;

use api_types::secret::Secret;

pub use load::{ConfigError, Problem, Sources};
pub use setting::{Network, OneOf, Voter, Word};
pub use units::{HostPort, Size, parse_duration, parse_size, show_duration};

use load::Values;
use setting::Setting;

/// What a key means when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// The node does not start without a value.
    Required,
    Unset,
    Text(&'static str),
}

/// A key as documentation and messages need it.
pub struct Key {
    pub path: &'static str,
    pub default: DefaultValue,
    pub allowed: fn() -> String,
    pub about: &'static str,
}

/// Keys of features that this version does not have: known, and refused instead of ignored.
pub const LATER: &[&str] = &[
    "api.tls.cert",
    "api.tls.key",
    "api.tls.client_ca",
    "api.auth.tokens_file",
    "rpc.tls.cert",
    "rpc.tls.key",
    "rpc.tls.client_ca",
    "mqtt.tls_listen",
    "mqtt.tls.cert",
    "mqtt.tls.key",
    "mqtt.tls.client_ca",
    "cluster.lost_disk_after",
    "cluster.voter_replace_after",
];

macro_rules! default_value {
    (required) => {
        DefaultValue::Required
    };
    (unset) => {
        DefaultValue::Unset
    };
    ($text:literal) => {
        DefaultValue::Text($text)
    };
}

macro_rules! sections {
    ($($(#[$doc:meta])* $struct:ident $section:ident { $($field:ident $path:literal : $type:ty = $default:tt, $about:literal;)+ })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub struct $struct {
                $(#[doc = $about] pub $field: $type,)+
            }

            impl $struct {
                fn read(values: &mut Values) -> Option<Self> {
                    $(let $field = values.take::<$type>($path, default_value!($default));)+
                    Some(Self { $($field: $field?,)+ })
                }

                fn show(&self) -> Vec<(&'static str, Option<String>)> {
                    vec![$(($path, self.$field.show()),)+]
                }
            }
        )+

        /// The configuration of one node, checked.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(pub $section: $struct,)+
        }

        impl Config {
            fn read(values: &mut Values) -> Option<Self> {
                $(let $section = $struct::read(values);)+
                Some(Self { $($section: $section?,)+ })
            }

            fn sections(&self) -> Vec<(&'static str, Vec<(&'static str, Option<String>)>)> {
                vec![$((stringify!($section), self.$section.show()),)+]
            }
        }

        /// Every key of this version, in the order of the documentation.
        pub const KEYS: &[Key] = &[
            $($(Key { path: $path, default: default_value!($default), allowed: <$type as Setting>::allowed, about: $about },)+)+
        ];
    };
}

sections! {
    NodeSection node {
        name "node.name": String = required, "Name of the node, the same for the life of its disk.";
        data_dir "node.data_dir": PathBuf = required, "Folder of `identity.json`, `lock`, `meta/` and `queue/`.";
        zone "node.zone": Option<String> = unset, "Zone of the node, for `placement.zones`.";
    }
    ClusterSection cluster {
        initial_voters "cluster.initial_voters": Vec<Voter> = unset, "The voters that found the cluster together: 1, 3, 5 or 7, the same list on each.";
        join "cluster.join": Vec<HostPort> = unset, "RPC addresses of nodes to ask for admission.";
        secret "cluster.secret": Option<Secret> = unset, "Bearer in every node RPC.";
        secret_file "cluster.secret_file": Option<PathBuf> = unset, "File that holds `cluster.secret`; white space at its ends is cut off.";
        secret_previous "cluster.secret_previous": Option<Secret> = unset, "Second bearer that is accepted, for rotation.";
        heartbeat "cluster.heartbeat": Duration = "500ms", "Time between two heartbeats of a node to the leader.";
        lease "cluster.lease": Duration = "2.2s", "How long a node may act after a heartbeat that was answered.";
        dead_after "cluster.dead_after": Duration = "2.8s", "Silence after which the leader gives a node's tasks to others.";
        restart_grace "cluster.restart_grace": Duration = "30s", "How long a node that stopped gets its own tasks back before others are moved to it.";
        max_moves "cluster.max_moves": Option<u32> = unset, "Most voluntary moves under way at once; unset: the scheduler's own bound.";
        target_voters "cluster.target_voters": u32 = "3", "Number of voters that joining nodes are promoted up to: 1, 3, 5 or 7.";
    }
    ApiSection api {
        listen "api.listen": HostPort = "127.0.0.1:8080", "HTTP API, `/health/*` and, unless `metrics.listen` is set, `/metrics`.";
        advertise "api.advertise": Option<HostPort> = unset, "Address that other nodes and people are told; unset: `api.listen`.";
        body_bytes_max "api.body_bytes_max": Size = "1MiB", "Largest request body.";
        apply_wait "api.apply_wait": Duration = "3.5s", "Longest wait of a change for all nodes to use it; the missing are named in `warnings`.";
        insecure "api.insecure": bool = "false", "Listen beyond loopback without authentication.";
    }
    RpcSection rpc {
        listen "rpc.listen": HostPort = "127.0.0.1:7480", "Node RPC: Raft, heartbeats, queues.";
        advertise "rpc.advertise": Option<HostPort> = unset, "Address that other nodes connect to; unset: this node's entry in `cluster.initial_voters`, else `rpc.listen`.";
        insecure "rpc.insecure": bool = "false", "Listen beyond loopback without `cluster.secret`.";
    }
    MqttSection mqtt {
        listen "mqtt.listen": HostPort = "127.0.0.1:1883", "MQTT 3.1, 3.1.1 and 5 over TCP.";
        password_file "mqtt.auth.password_file": Option<PathBuf> = unset, "Users and password hashes, as mosquitto_passwd writes them.";
        allow_anonymous "mqtt.allow_anonymous": Option<bool> = unset, "Accept clients without a user name; unset: true when there is no password file.";
        window "mqtt.window": u32 = "256", "Publishes of one connection that may wait for the disk; the receive maximum of MQTT 5.";
        packet_bytes_max "mqtt.packet_bytes_max": Size = "1MiB", "Largest packet.";
        connections_max "mqtt.connections_max": u32 = "100000", "Most connections at once.";
        inflight_bytes_max "mqtt.inflight_bytes_max": Size = "256MiB", "Bytes of all publishes that wait for the disk; beyond it nothing is read.";
        ingest_without_lease "mqtt.ingest_without_lease": OneOf<IngestWithoutLease> = "accept", "Whether a node that lost its lease goes on storing for the connectors it knows.";
        insecure "mqtt.insecure": bool = "false", "Listen beyond loopback without authentication.";
    }
    QueueSection queue {
        bytes_max "queue.bytes_max": Size = "8GiB", "Bound of one connector's queue on one node; a connector may override it.";
        age_max "queue.age_max": Option<Duration> = unset, "Age after which a record is dropped and counted; a connector may override it.";
        when_full "queue.when_full": Option<OneOf<QueueWhenFull>> = unset, "What a full queue does; unset: `block` while its connector is to run and a node offers its kind, else `drop_oldest`.";
        total_bytes_max "queue.total_bytes_max": Option<Size> = unset, "Bound of all queues of this node; unset: the disk without `queue.disk_reserve`.";
        disk_reserve "queue.disk_reserve": Option<Size> = unset, "Free space that only commits, deletes, compaction and Raft may use; unset: the greater of 1GiB and 5% of the disk.";
        dead_letter_bytes_max "queue.dead_letter_bytes_max": Size = "1GiB", "Bound of this node's dead-letter store; the oldest go first.";
        dead_letter_age_max "queue.dead_letter_age_max": Duration = "30d", "Age after which a dead letter goes.";
        fsync "queue.fsync": OneOf<QueueFsync> = "group", "`off` acknowledges before the disk has the message: what a power cut then costs is in the log.";
    }
    ConnectorsSection connectors {
        kinds "connectors.kinds": Option<Vec<String>> = unset, "Kinds this node offers; unset: all that were compiled in.";
        file_roots "connectors.file_roots": Vec<PathBuf> = "/tmp,<data_dir>/files", "Folders that file connectors may write in; the rest of `node.data_dir` is always refused.";
        env_prefix "connectors.env_prefix": String = "SLUICE_SECRET_", "Environment variables that `${env:NAME}` may read begin with this.";
        secret_dirs "connectors.secret_dirs": Vec<PathBuf> = "/etc/sluice/secrets", "Folders that `${file:/path}` may read.";
        deny_networks "connectors.deny_networks": Vec<Network> = unset, "Networks that sinks may not connect to.";
        memory_bytes_max "connectors.memory_bytes_max": Size = "512MiB", "Bytes of all batches in the tasks of this node.";
        stop_timeout "connectors.stop_timeout": Duration = "10s", "Longest time a stopping task may take for the batches in flight.";
    }
    MetricsSection metrics {
        listen "metrics.listen": Option<HostPort> = unset, "Own address for `/metrics`; unset: on the API's.";
        connector_histograms "metrics.connector_histograms": bool = "false", "Histograms per connector instead of per type.";
    }
    LogSection log {
        format "log.format": OneOf<LogFormat> = "text", "One line for people, or one JSON object per line.";
        level "log.level": String = "info", "A level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as `info,sluice=debug`.";
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestWithoutLease {
    Accept,
    Refuse,
}

impl Word for IngestWithoutLease {
    const WORDS: &'static [(&'static str, Self)] = &[("accept", Self::Accept), ("refuse", Self::Refuse)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueWhenFull {
    Block,
    DropOldest,
}

impl Word for QueueWhenFull {
    const WORDS: &'static [(&'static str, Self)] = &[("block", Self::Block), ("drop_oldest", Self::DropOldest)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFsync {
    Group,
    Off,
}

impl Word for QueueFsync {
    const WORDS: &'static [(&'static str, Self)] = &[("group", Self::Group), ("off", Self::Off)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Config {
    /// The RPC address that other nodes are told.
    pub fn rpc_address(&self) -> HostPort {
        let own = self.cluster.initial_voters.iter().find(|voter| voter.name == self.node.name);
        self.rpc.advertise.clone().or_else(|| own.map(|voter| voter.address.clone())).unwrap_or(self.rpc.listen.clone())
    }

    /// The API address that people are told. When it listens on every address, the host of the RPC address stands in.
    pub fn api_address(&self) -> HostPort {
        match &self.api.advertise {
            Some(address) => address.clone(),
            None => self.reachable(&self.api.listen),
        }
    }

    pub fn mqtt_address(&self) -> HostPort {
        self.reachable(&self.mqtt.listen)
    }

    fn reachable(&self, listen: &HostPort) -> HostPort {
        let host = if listen.is_unspecified() { self.rpc_address().host } else { listen.host.clone() };
        HostPort { host, port: listen.port }
    }

    /// Clients without a user name are let in.
    pub fn anonymous_allowed(&self) -> bool {
        self.mqtt.allow_anonymous.unwrap_or(self.mqtt.password_file.is_none())
    }

    /// The addresses to ask for admission when this node is not one of the initial voters.
    pub fn join_addresses(&self) -> Vec<String> {
        let voters = self.cluster.initial_voters.iter().map(|voter| &voter.address);
        let asked: Vec<&HostPort> =
            if self.cluster.join.is_empty() { voters.collect() } else { self.cluster.join.iter().collect() };
        asked.into_iter().map(HostPort::to_string).collect()
    }

    /// What deserves a line in the log at the start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.cluster.secret.is_some() && !self.rpc.listen.is_loopback() {
            warnings.push("rpc is not encrypted: connector passwords cross the network in clear".to_owned());
        }
        if self.queue.fsync == OneOf(QueueFsync::Off) {
            warnings.push("queue.fsync is off: a power cut loses messages that were acknowledged".to_owned());
        }
        for (path, listen, insecure) in [
            ("api", &self.api.listen, self.api.insecure),
            ("rpc", &self.rpc.listen, self.rpc.insecure && self.cluster.secret.is_none()),
            ("mqtt", &self.mqtt.listen, self.mqtt.insecure && self.mqtt.password_file.is_none()),
        ] {
            if insecure && !listen.is_loopback() {
                warnings
                    .push(format!("{path}.listen {listen} is open to everybody who can reach it ({path}.insecure)"));
            }
        }
        warnings
    }

    /// The effective configuration as TOML; unset keys are comments, secrets are masked.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (section, keys) in self.sections() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("[{section}]\n"));
            for (path, value) in keys {
                let key = path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')).unwrap_or(path);
                match value {
                    Some(value) => text.push_str(&format!("{key} = {value}\n")),
                    None => text.push_str(&format!("# {key} is unset\n")),
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests;
