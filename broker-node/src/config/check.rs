//! What no single key can know: contradictions between keys. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::load::Problem;
use super::{Config, HostPort};

/// How often the node's watchdog looks at the lease (`W`).
const WATCHDOG: Duration = Duration::from_millis(50);
/// How long tasks may take to stop after the lease is over (`S`).
const STOP: Duration = Duration::from_millis(400);
/// Most that two clocks may run apart, in parts per million (ρ).
const CLOCK_PPM: u64 = 500;
/// A leader change takes this long at most; a lease must outlast it, or connectors blink at each one.
const LEADER_CHANGE: Duration = Duration::from_millis(1200);
const NODE_NAME_MAX: usize = 128;

pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    node(config, &mut problems);
    members(config, &mut problems);
    timings(config, &mut problems);
    listeners(config, &mut problems);
    mqtt(config, &mut problems);
    kinds(config, &mut problems);
    if let Err(error) = crate::telemetry::check_level(&config.log.level) {
        problems.push(Problem::new("log.level", error));
    }
    problems
}

fn node(config: &Config, problems: &mut Vec<Problem>) {
    let name = &config.node.name;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > NODE_NAME_MAX || !name.chars().all(good) {
        let text = format!("must be 1 to {NODE_NAME_MAX} of the characters a-z, A-Z, 0-9, '-', '_' and '.'");
        problems.push(Problem::new("node.name", text));
    }
}

fn members(config: &Config, problems: &mut Vec<Problem>) {
    let voters = &config.cluster.initial_voters;
    let mut problem = |path: &str, text: String| problems.push(Problem::new(path, text));
    if voters.is_empty() && config.cluster.join.is_empty() {
        problem(
            "cluster.initial_voters",
            "set cluster.initial_voters to found a cluster, or cluster.join to join one".into(),
        );
    }
    if !voters.is_empty() && !matches!(voters.len(), 1 | 3 | 5 | 7) {
        problem("cluster.initial_voters", format!("must name 1, 3, 5 or 7 voters, not {}", voters.len()));
    }
    if !matches!(config.cluster.target_voters, 1 | 3 | 5 | 7) {
        problem("cluster.target_voters", "must be 1, 3, 5 or 7".into());
    }
    let names: BTreeSet<&str> = voters.iter().map(|voter| voter.name.as_str()).collect();
    if names.len() < voters.len() {
        problem("cluster.initial_voters", "names a voter twice".into());
    }
    let addresses: BTreeSet<String> = voters.iter().map(|voter| voter.address.to_string()).collect();
    if addresses.len() < voters.len() {
        problem("cluster.initial_voters", "names an address twice".into());
    }
    let own = voters.iter().find(|voter| voter.name == config.node.name);
    if let (Some(own), Some(advertised)) = (own, &config.rpc.advertise)
        && own.address != *advertised
    {
        let text = format!("is {advertised}, but cluster.initial_voters says {} for this node", own.address);
        problem("rpc.advertise", text);
    }
    if config.rpc_address().is_unspecified() {
        problem(
            "rpc.advertise",
            format!("is required when rpc.listen is {}: others cannot connect to that", config.rpc.listen),
        );
    }
    if config.cluster.secret_previous.is_some() && config.cluster.secret.is_none() {
        problem("cluster.secret_previous", "needs cluster.secret or cluster.secret_file".into());
    }
}

fn timings(config: &Config, problems: &mut Vec<Problem>) {
    let cluster = &config.cluster;
    let shown = super::show_duration;
    let drift = Duration::from_micros(2 * CLOCK_PPM * (cluster.lease.as_millis() as u64) / 1000);
    let least = cluster.lease + WATCHDOG + STOP + drift;
    if cluster.dead_after < least {
        let text = format!(
            "must be at least {} with cluster.lease = {}: lease + {} (watchdog) + {} (stop) + {} (clock drift), or two nodes could act for one connector",
            shown(least),
            shown(cluster.lease),
            shown(WATCHDOG),
            shown(STOP),
            shown(drift),
        );
        problems.push(Problem::new("cluster.dead_after", text));
    }
    if cluster.lease < LEADER_CHANGE + 2 * cluster.heartbeat {
        let text = format!(
            "must be at least {} with cluster.heartbeat = {}: two heartbeats + {} (leader change), or every leader change stops all connectors",
            shown(LEADER_CHANGE + 2 * cluster.heartbeat),
            shown(cluster.heartbeat),
            shown(LEADER_CHANGE),
        );
        problems.push(Problem::new("cluster.lease", text));
    }
}

fn listeners(config: &Config, problems: &mut Vec<Problem>) {
    let secret = config.cluster.secret.is_some() || config.cluster.secret_file.is_some();
    let cases = [
        ("api", &config.api.listen, config.api.insecure, "authentication of the API is not available in this version"),
        ("rpc", &config.rpc.listen, config.rpc.insecure || secret, "set cluster.secret or cluster.secret_file"),
        (
            "mqtt",
            &config.mqtt.listen,
            config.mqtt.insecure || config.mqtt.password_file.is_some(),
            "set mqtt.auth.password_file",
        ),
    ];
    for (section, listen, allowed, otherwise) in cases {
        if !listen.is_loopback() && !allowed {
            let text = format!(
                "{listen} is not loopback, and the listener has no authentication: {otherwise}, or set {section}.insecure = true"
            );
            problems.push(Problem::new(format!("{section}.listen"), text));
        }
    }
    let mut seen: Vec<(&str, &HostPort)> = Vec::new();
    let metrics = config.metrics.listen.iter().map(|listen| ("metrics.listen", listen));
    let all =
        [("api.listen", &config.api.listen), ("rpc.listen", &config.rpc.listen), ("mqtt.listen", &config.mqtt.listen)];
    for (path, listen) in all.into_iter().chain(metrics) {
        if let Some((other, _)) = seen.iter().find(|(_, other)| listen.port != 0 && *other == listen) {
            problems.push(Problem::new(path, format!("{listen} is also {other}")));
        }
        seen.push((path, listen));
    }
}

fn mqtt(config: &Config, problems: &mut Vec<Problem>) {
    let section = &config.mqtt;
    match section.allow_anonymous {
        Some(false) if section.password_file.is_none() => {
            let text = "false without mqtt.auth.password_file lets nobody in";
            problems.push(Problem::new("mqtt.allow_anonymous", text));
        }
        Some(true) if !section.listen.is_loopback() && !section.insecure => {
            let text = "true on a listener that is not loopback needs mqtt.insecure = true";
            problems.push(Problem::new("mqtt.allow_anonymous", text));
        }
        Some(_) | None => {}
    }
    // The receive maximum of MQTT 5 has 16 bits.
    if section.window > u32::from(u16::MAX) {
        problems.push(Problem::new("mqtt.window", "must be at most 65535"));
    }
    // Four length bytes of seven bits each, and the fixed header.
    const PACKET_BYTES_MAX: u64 = 268_435_455 + 5;
    if section.packet_bytes_max.0 > PACKET_BYTES_MAX {
        problems.push(Problem::new("mqtt.packet_bytes_max", format!("must be at most {PACKET_BYTES_MAX}B")));
    }
    if section.inflight_bytes_max < section.packet_bytes_max {
        problems.push(Problem::new("mqtt.inflight_bytes_max", "must be at least mqtt.packet_bytes_max"));
    }
}

fn kinds(config: &Config, problems: &mut Vec<Problem>) {
    for kind in config.connectors.kinds.iter().flatten() {
        if let Err(unknown) = connector_runtime::registry::kind(kind) {
            problems.push(Problem::new("connectors.kinds", unknown.to_string()));
        }
    }
    if config.connectors.env_prefix.starts_with("SLUICE__") || "SLUICE__".starts_with(&config.connectors.env_prefix) {
        let text = "must not reach the variables of the configuration itself (SLUICE__…)";
        problems.push(Problem::new("connectors.env_prefix", text));
    }
    for (path, folders) in [
        ("connectors.file_roots", &config.connectors.file_roots),
        ("connectors.secret_dirs", &config.connectors.secret_dirs),
    ] {
        for folder in folders {
            if !folder.is_absolute() && !folder.starts_with(&config.node.data_dir) {
                problems.push(Problem::new(path, format!("{} must be an absolute path", folder.display())));
            }
        }
    }
}
