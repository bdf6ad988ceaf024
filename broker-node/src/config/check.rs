//! What the type of a key cannot say, and what no single key can know: contradictions between keys. Pure.

use std::collections::BTreeSet;

use meta_service::Timings;

use super::load::Problem;
use super::{Config, HostPort};

const NODE_NAME_MAX: usize = 128;

/// Everything that is wrong, and which keys prove nothing any more.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) problems: Vec<Problem>,
    /// Keys that were refused; a default stands in for them.
    pub(super) failed: BTreeSet<String>,
    /// A source could not be read, so that any key may be missing only for that.
    pub(super) unread: bool,
}

impl Checks {
    /// A value that is wrong whatever the others are.
    pub(super) fn wrong(&mut self, path: &str, text: impl Into<String>) {
        if !self.failed.contains(path) {
            self.problems.push(Problem::new(path, text));
            self.failed.insert(path.to_owned());
        }
    }

    /// A value that does not go with those of other keys. It is left out when one of them was refused itself.
    pub(super) fn contradiction(&mut self, path: &str, others: &[&str], text: impl Into<String>) {
        let refused = |key: &str| self.failed.contains(key);
        if !self.unread && !refused(path) && !others.iter().any(|key| refused(key)) {
            self.problems.push(Problem::new(path, text));
        }
    }
}

/// First each key alone, then the keys together.
pub(super) fn check(config: &Config, checks: &mut Checks) {
    node(config, checks);
    voters(config, checks);
    mqtt_bounds(config, checks);
    kinds(config, checks);
    if let Err(error) = crate::telemetry::check_level(&config.log.level) {
        checks.wrong("log.level", error);
    }
    members(config, checks);
    timings(config, checks);
    listeners(config, checks);
    mqtt(config, checks);
    folders(config, checks);
}

fn node(config: &Config, checks: &mut Checks) {
    let name = &config.node.name;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > NODE_NAME_MAX || !name.chars().all(good) {
        let text = format!("must be 1 to {NODE_NAME_MAX} of the characters a-z, A-Z, 0-9, '-', '_' and '.'");
        checks.wrong("node.name", text);
    }
}

fn voters(config: &Config, checks: &mut Checks) {
    let voters = &config.cluster.initial_voters;
    let names: BTreeSet<&str> = voters.iter().map(|voter| voter.name.as_str()).collect();
    let addresses: BTreeSet<String> = voters.iter().map(|voter| voter.address.to_string()).collect();
    let mut problems = Vec::new();
    if !voters.is_empty() && !matches!(voters.len(), 1 | 3 | 5 | 7) {
        problems.push(format!("must name 1, 3, 5 or 7 voters, not {}", voters.len()));
    }
    if names.len() < voters.len() {
        problems.push("names a voter twice".to_owned());
    }
    if addresses.len() < voters.len() {
        problems.push("names an address twice".to_owned());
    }
    if !problems.is_empty() {
        checks.wrong("cluster.initial_voters", problems.join("; "));
    }
    if !matches!(config.cluster.target_voters, 1 | 3 | 5 | 7) {
        checks.wrong("cluster.target_voters", "must be 1, 3, 5 or 7");
    }
}

fn members(config: &Config, checks: &mut Checks) {
    let voters = &config.cluster.initial_voters;
    if voters.is_empty() && config.cluster.join.is_empty() {
        let text = "set cluster.initial_voters to found a cluster, or cluster.join to join one";
        checks.contradiction("cluster.initial_voters", &["cluster.join"], text);
    }
    let own = voters.iter().find(|voter| voter.name == config.node.name);
    if let (Some(own), Some(advertised)) = (own, &config.rpc.advertise)
        && own.address != *advertised
    {
        let text = format!("is {advertised}, but cluster.initial_voters says {} for this node", own.address);
        checks.contradiction("rpc.advertise", &["cluster.initial_voters", "node.name"], text);
    }
    if config.rpc_address().is_unspecified() {
        let text = format!("is required when rpc.listen is {}: others cannot connect to that", config.rpc.listen);
        checks.contradiction("rpc.advertise", &["rpc.listen", "cluster.initial_voters", "node.name"], text);
    }
    if config.cluster.secret_previous.is_some() && config.cluster.secret.is_none() {
        let others = ["cluster.secret", "cluster.secret_file"];
        checks.contradiction("cluster.secret_previous", &others, "needs cluster.secret or cluster.secret_file");
    }
}

fn timings(config: &Config, checks: &mut Checks) {
    let cluster = &config.cluster;
    let shown = super::show_duration;
    // What nobody sets – W, S, the clocks' drift, elections – is the metadata service's.
    let fixed = Timings { lease: cluster.lease, ..Timings::default() };
    let drift = fixed.lease_over() - cluster.lease;
    let least = cluster.lease + fixed.watchdog + fixed.lease_stop + drift;
    if cluster.dead_after < least {
        let text = format!(
            "must be at least {} with cluster.lease = {}: lease + {} (watchdog) + {} (stop) + {} (clock drift), or two nodes could act for one connector",
            shown(least),
            shown(cluster.lease),
            shown(fixed.watchdog),
            shown(fixed.lease_stop),
            shown(drift),
        );
        checks.contradiction("cluster.dead_after", &["cluster.lease"], text);
    }
    // A lost round and a second one; a lease must outlast it, or connectors blink at each change of the leader.
    let leader_change = 2 * fixed.election_max;
    if cluster.lease < leader_change + 2 * cluster.heartbeat {
        let text = format!(
            "must be at least {} with cluster.heartbeat = {}: two heartbeats + {} (leader change), or every leader change stops all connectors",
            shown(leader_change + 2 * cluster.heartbeat),
            shown(cluster.heartbeat),
            shown(leader_change),
        );
        checks.contradiction("cluster.lease", &["cluster.heartbeat"], text);
    }
}

fn listeners(config: &Config, checks: &mut Checks) {
    let secret = config.cluster.secret.is_some() || config.cluster.secret_file.is_some();
    let password = config.mqtt.password_file.is_some();
    // Listener, whether it asks who comes, what to do otherwise, the keys that decide.
    let cases: [(&str, &HostPort, bool, &str, &[&str]); 3] = [
        (
            "api",
            &config.api.listen,
            config.api.insecure,
            "authentication of the API is not available in this version",
            &["api.insecure"],
        ),
        (
            "rpc",
            &config.rpc.listen,
            config.rpc.insecure || secret,
            "set cluster.secret or cluster.secret_file",
            &["rpc.insecure", "cluster.secret", "cluster.secret_file"],
        ),
        (
            "mqtt",
            &config.mqtt.listen,
            config.mqtt.insecure || password,
            "set mqtt.auth.password_file",
            &["mqtt.insecure", "mqtt.auth.password_file"],
        ),
    ];
    for (section, listen, allowed, otherwise, others) in cases {
        if !listen.is_loopback() && !allowed {
            let text = format!(
                "{listen} is not loopback, and the listener has no authentication: {otherwise}, or set {section}.insecure = true"
            );
            checks.contradiction(&format!("{section}.listen"), others, text);
        }
    }
    let mut seen: Vec<(&str, &HostPort)> = Vec::new();
    let metrics = config.metrics.listen.iter().map(|listen| ("metrics.listen", listen));
    let all =
        [("api.listen", &config.api.listen), ("rpc.listen", &config.rpc.listen), ("mqtt.listen", &config.mqtt.listen)];
    for (path, listen) in all.into_iter().chain(metrics) {
        if let Some((other, _)) = seen.iter().find(|(_, other)| listen.port != 0 && *other == listen) {
            checks.contradiction(path, &[other], format!("{listen} is also {other}"));
        }
        seen.push((path, listen));
    }
}

fn mqtt_bounds(config: &Config, checks: &mut Checks) {
    // The receive maximum of MQTT 5 has 16 bits.
    if config.mqtt.window > u32::from(u16::MAX) {
        checks.wrong("mqtt.window", "must be at most 65535");
    }
    // Four length bytes of seven bits each, and the fixed header.
    const PACKET_BYTES_MAX: u64 = 268_435_455 + 5;
    if config.mqtt.packet_bytes_max.0 > PACKET_BYTES_MAX {
        checks.wrong("mqtt.packet_bytes_max", format!("must be at most {PACKET_BYTES_MAX}B"));
    }
}

fn mqtt(config: &Config, checks: &mut Checks) {
    let section = &config.mqtt;
    match section.allow_anonymous {
        Some(false) if section.password_file.is_none() => {
            let text = "false without mqtt.auth.password_file lets nobody in";
            checks.contradiction("mqtt.allow_anonymous", &["mqtt.auth.password_file"], text);
        }
        Some(true) if !section.listen.is_loopback() && !section.insecure => {
            let text = "true on a listener that is not loopback needs mqtt.insecure = true";
            checks.contradiction("mqtt.allow_anonymous", &["mqtt.listen", "mqtt.insecure"], text);
        }
        Some(_) | None => {}
    }
    if section.inflight_bytes_max < section.packet_bytes_max {
        let text = "must be at least mqtt.packet_bytes_max";
        checks.contradiction("mqtt.inflight_bytes_max", &["mqtt.packet_bytes_max"], text);
    }
}

fn kinds(config: &Config, checks: &mut Checks) {
    let kinds = config.connectors.kinds.iter().flatten();
    let unknown: Vec<String> =
        kinds.filter_map(|kind| connector_runtime::registry::kind(kind).err()).map(|error| error.to_string()).collect();
    if !unknown.is_empty() {
        checks.wrong("connectors.kinds", unknown.join("; "));
    }
    if config.connectors.env_prefix.starts_with("SLUICE__") || "SLUICE__".starts_with(&config.connectors.env_prefix) {
        let text = "must not reach the variables of the configuration itself (SLUICE__…)";
        checks.wrong("connectors.env_prefix", text);
    }
}

fn folders(config: &Config, checks: &mut Checks) {
    for (path, folders) in [
        ("connectors.file_roots", &config.connectors.file_roots),
        ("connectors.secret_dirs", &config.connectors.secret_dirs),
    ] {
        for folder in folders {
            if !folder.is_absolute() && !folder.starts_with(&config.node.data_dir) {
                let text = format!("{} must be an absolute path", folder.display());
                checks.contradiction(path, &["node.data_dir"], text);
            }
        }
    }
}
