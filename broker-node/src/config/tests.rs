use std::io::Write;

use super::*;

fn load(toml: &str, environment: &[(&str, &str)], sets: &[&str], dev: bool) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(toml.as_bytes()).expect("written");
    let sources = Sources {
        file: Some(file.path().to_owned()),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
        dev,
    };
    Config::load(&sources)
}

/// A good configuration and one more piece of TOML.
fn problems(more: &str) -> Vec<Problem> {
    let mut table: toml::Table = GOOD.parse().expect("TOML");
    let added: toml::Table = more.parse().expect("TOML");
    merge(&mut table, added);
    match load(&table.to_string(), &[], &[], false) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems,
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

const GOOD: &str = r#"
[node]
name = "n1"
data_dir = "/var/lib/sluice"
[cluster]
initial_voters = ["n1=10.0.0.1:7480", "n2=10.0.0.2:7480", "n3=10.0.0.3:7480"]
secret = "hunter2"
[rpc]
listen = "0.0.0.0:7480"
"#;

#[test]
fn every_default_is_a_good_value() {
    let config = Config::load(&Sources { dev: true, ..Sources::default() }).expect("--dev needs nothing else");
    assert_eq!(config.cluster.lease, Duration::from_millis(2200));
    assert_eq!(config.queue.bytes_max, Size(8 << 30));
    assert_eq!(config.cluster.initial_voters.len(), 1);
    assert_eq!(config.rpc_address().to_string(), "127.0.0.1:7480");
    assert_eq!(config.connectors.file_roots, [PathBuf::from("/tmp"), PathBuf::from("./sluice-data/files")]);
    assert!(config.anonymous_allowed());
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}

#[test]
fn the_later_source_wins() {
    let environment = [("SLUICE__LOG__LEVEL", "warn"), ("SLUICE__MQTT__WINDOW", "8"), ("OTHER", "x")];
    let more = format!("{GOOD}\n[log]\nlevel = \"error\"\nformat = \"json\"\n[mqtt]\nwindow = 4\n");
    let config = load(&more, &environment, &["mqtt.window=16"], false).expect("good");
    assert_eq!((config.log.level.as_str(), config.mqtt.window), ("warn", 16));
    assert_eq!(config.log.format, OneOf(LogFormat::Json));
}

#[test]
fn lists_come_as_comma_list_or_json() {
    for text in ["n1=h:1,n2=h:2,n3=h:3", r#"["n1=h:1", "n2=h:2", "n3=h:3"]"#, " n1=h:1 , n2=h:2,n3=h:3,"] {
        let environment = [("SLUICE__CLUSTER__INITIAL_VOTERS", text), ("SLUICE__NODE__NAME", "n2")];
        let config = load(GOOD, &environment, &[], false).expect(text);
        assert_eq!(config.cluster.initial_voters.len(), 3);
        assert_eq!(config.rpc_address().to_string(), "h:2");
    }
}

#[test]
fn bad_configurations_are_refused_by_key() {
    assert_eq!(problems(""), [], "the good one is good");
    for (more, path, says) in [
        ("[node]\nname = \"a b\"", "node.name", "characters"),
        ("[node]\nname = 7", "node.name", "a text"),
        ("[node]\ndata_dir = \"\"", "node.data_dir", "a path"),
        ("[nodes]\nname = \"a\"", "nodes.name", "did you mean node.name?"),
        ("[api]\nlisten = \"8080\"", "api.listen", "host:port"),
        ("[api]\nlisten = \"0.0.0.0:8080\"", "api.listen", "api.insecure = true"),
        ("[api]\nbody_bytes_max = 1024", "api.body_bytes_max", "a size with a unit"),
        ("[api]\napply_wait = \"3.5\"", "api.apply_wait", "a duration with a unit"),
        ("[api]\napply_wait = \"0s\"", "api.apply_wait", "a duration with a unit"),
        ("[api]\ninsecure = \"yes\"", "api.insecure", "true or false"),
        ("[api.tls]\ncert = \"/x\"", "api.tls.cert", "not available in this version"),
        ("[api.auth]\ntokens_file = \"/x\"", "api.auth.tokens_file", "not available in this version"),
        ("[mqtt]\ntls_listen = \"0.0.0.0:8883\"", "mqtt.tls_listen", "not available in this version"),
        ("[cluster]\nvoter_replace_after = \"10m\"", "cluster.voter_replace_after", "not available in this version"),
        ("[mqtt]\nlisten = \"0.0.0.0:1883\"", "mqtt.listen", "mqtt.auth.password_file, or set mqtt.insecure = true"),
        (
            "[mqtt]\nlisten = \"127.0.0.1:7480\"\n[rpc]\nlisten = \"127.0.0.1:7480\"",
            "mqtt.listen",
            "is also rpc.listen",
        ),
        ("[mqtt]\nallow_anonymous = false", "mqtt.allow_anonymous", "lets nobody in"),
        ("[mqtt]\nwindow = 0", "mqtt.window", "from 1"),
        ("[mqtt]\nwindow = 65536", "mqtt.window", "65535"),
        ("[mqtt]\npacket_bytes_max = \"1GiB\"", "mqtt.packet_bytes_max", "at most"),
        ("[mqtt]\ninflight_bytes_max = \"1KiB\"", "mqtt.inflight_bytes_max", "mqtt.packet_bytes_max"),
        ("[mqtt]\ningest_without_lease = \"maybe\"", "mqtt.ingest_without_lease", "\"accept\" or \"refuse\""),
        ("[mqtt]\ncolour = 1", "mqtt.colour", "known: mqtt.listen"),
        ("[cluster]\ninitial_voters = [\"n1=h:1\", \"n2=h:2\"]", "cluster.initial_voters", "1, 3, 5 or 7"),
        ("[cluster]\ninitial_voters = [\"n1\"]", "cluster.initial_voters", "name=host:port"),
        ("[cluster]\ninitial_voters = [\"n1=h:1\", \"n1=h:2\", \"n3=h:3\"]", "cluster.initial_voters", "twice"),
        ("[cluster]\ninitial_voters = []", "cluster.initial_voters", "cluster.join"),
        ("[cluster]\ntarget_voters = 4", "cluster.target_voters", "1, 3, 5 or 7"),
        ("[cluster]\ndead_after = \"2.6s\"", "cluster.dead_after", "at least"),
        ("[cluster]\nlease = \"1s\"", "cluster.lease", "two heartbeats"),
        ("[cluster]\nsecret_file = \"/nowhere/secret\"", "cluster.secret_file", "not both"),
        ("[rpc]\nadvertise = \"10.0.0.9:7480\"", "rpc.advertise", "cluster.initial_voters says 10.0.0.1:7480"),
        ("[node]\nname = \"n4\"", "rpc.advertise", "is required"),
        ("[queue]\nwhen_full = \"panic\"", "queue.when_full", "\"block\" or \"drop_oldest\""),
        ("[queue]\nfsync = true", "queue.fsync", "\"group\" or \"off\""),
        ("[connectors]\nkinds = [\"file\", \"pigeon\"]", "connectors.kinds", "unknown connector type pigeon"),
        ("[connectors]\nenv_prefix = \"SLUICE_\"", "connectors.env_prefix", "SLUICE__"),
        ("[connectors]\nfile_roots = [\"relative\"]", "connectors.file_roots", "absolute"),
        ("[connectors]\ndeny_networks = [\"10.0.0.0/33\"]", "connectors.deny_networks", "IP network"),
        ("[log]\nlevel = \"loud\"", "log.level", "error, warn, info"),
        ("[log]\nformat = \"xml\"", "log.format", "\"text\" or \"json\""),
    ] {
        let found = problems(more);
        assert!(found.iter().any(|problem| problem.path == path && problem.text.contains(says)), "{more}: {found:?}");
    }
}

#[test]
fn everything_is_reported_at_once() {
    let environment = [("SLUICE__QUEUE__FSYNC", "never"), ("SLUICE__API__PORT", "1")];
    let error = load("[mqtt]\nwindow = -1\n", &environment, &["log", "metrics.listen=x"], false).expect_err("bad");
    let paths: Vec<&str> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    let expect = [
        "--set log",
        "api.port",
        "node.name",
        "node.data_dir",
        "mqtt.window",
        "queue.fsync",
        "metrics.listen",
        "cluster.initial_voters",
    ];
    assert_eq!(paths, expect, "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("the configuration has 8 problems\n") && text.contains("(SLUICE__QUEUE__FSYNC)"),
        "{text}"
    );
}

#[test]
fn contradictions_are_reported_beside_unknown_keys_and_bad_values() {
    let paths = |more: &str| -> Vec<String> { problems(more).into_iter().map(|problem| problem.path).collect() };
    let mixed = "[mqtt]\ncolour = 1\nwindow = -1\nlisten = \"0.0.0.0:1883\"\n[cluster]\ndead_after = \"2.3s\"\n\
        [connectors]\nkinds = [\"pigeon\", \"owl\"]\ndeny_networks = [\"x\"]\n[log]\nlevel = \"loud\"\n";
    assert_eq!(
        paths(mixed),
        [
            "mqtt.colour",
            "mqtt.window",
            "connectors.deny_networks",
            "connectors.kinds",
            "log.level",
            "cluster.dead_after",
            "mqtt.listen"
        ]
    );
    // What stands in for a refused value contradicts nothing.
    for (more, only) in [
        ("[cluster]\nlease = \"long\"\ndead_after = \"1s\"", "cluster.lease"),
        ("[api]\nlisten = \"0.0.0.0:8080\"\ninsecure = \"yes\"", "api.insecure"),
        ("[cluster]\ninitial_voters = [\"n1\"]", "cluster.initial_voters"),
        ("[node]\nname = 7", "node.name"),
        ("[node]\nname = \"a b\"", "node.name"),
        (
            "[mqtt]\nlisten = \"0.0.0.0:1883\"\nallow_anonymous = false\n[mqtt.auth]\npassword_file = 1",
            "mqtt.auth.password_file",
        ),
    ] {
        assert_eq!(paths(more), [only], "{more}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_the_only_problem() {
    let sources = Sources { file: Some("/nowhere/sluice.toml".into()), ..Sources::default() };
    let error = Config::load(&sources).expect_err("no file");
    assert_eq!(error.problems.len(), 1, "{error}");
    let broken = load("[node\n", &[], &["mqtt.window=0"], false).expect_err("broken");
    let paths: Vec<&str> = broken.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert!(paths.len() == 2 && paths[1] == "mqtt.window", "{broken}");
}

#[test]
fn a_password_file_that_the_server_would_refuse_is_a_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let malformed = folder.path().join("passwords");
    std::fs::write(&malformed, "# users\nann\n").expect("written");
    for (path, says) in [
        (folder.path(), "directory"),
        (&folder.path().join("missing"), "No such file"),
        (&malformed, "line 2 of the password file"),
    ] {
        let found = problems(&format!("[mqtt.auth]\npassword_file = {:?}", path.display().to_string()));
        let [problem] = found.as_slice() else { panic!("{path:?}: {found:?}") };
        assert!(problem.path == "mqtt.auth.password_file" && problem.text.contains(says), "{problem:?}");
    }
    std::fs::write(&malformed, "# nobody yet\n").expect("written");
    assert_eq!(problems(&format!("[mqtt.auth]\npassword_file = {:?}", malformed.display().to_string())), []);
}

#[test]
fn listeners_are_opened_with_a_key_or_on_purpose() {
    for more in ["[api]\nlisten = \"0.0.0.0:8080\"\ninsecure = true", "[mqtt]\nlisten = \"[::]:1883\"\ninsecure = true"]
    {
        assert_eq!(problems(more), [], "{more}");
    }
    let without = GOOD.replace("secret = \"hunter2\"", "");
    let error = load(&without, &[], &[], false).expect_err("no secret");
    assert_eq!(error.problems[0].path, "rpc.listen");
    assert!(load(&without, &[], &["rpc.insecure=true"], false).is_ok());
}

#[test]
fn a_secret_comes_from_a_file_too() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b" s3cret\n").expect("written");
    let without = GOOD.replace("secret = \"hunter2\"", "");
    let set = format!("cluster.secret_file={}", file.path().display());
    let config = load(&without, &[], &[&set], false).expect("good");
    assert_eq!(config.cluster.secret.as_ref().map(Secret::reveal), Some("s3cret"));
    let missing = load(&without, &[], &["cluster.secret_file=/nowhere/secret"], false).expect_err("no file");
    assert_eq!(missing.problems[0].path, "cluster.secret_file");
}

#[test]
fn neither_show_nor_errors_print_a_secret() {
    let config = load(GOOD, &[], &[], false).expect("good");
    let shown = config.to_toml();
    assert!(shown.contains("secret = \"******\"") && !shown.contains("hunter2"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"));
    let broken = load("[cluster]\nsecret = \"hunter2\" x\n", &[], &[], false).expect_err("broken").to_string();
    assert!(broken.contains("line 2") && !broken.contains("hunter2"), "{broken}");
}

#[test]
fn what_show_prints_can_be_loaded() {
    let config = load(GOOD, &[], &["queue.age_max=1h", "connectors.kinds=file", "mqtt.window=7"], false).expect("good");
    let shown = config.to_toml();
    let again = load(&shown, &[], &[], false).expect("what show prints is good");
    assert_eq!(again.to_toml(), shown);
    assert_eq!(again.queue.age_max, Some(Duration::from_secs(3600)));
}

const BEGIN: &str = "<!-- keys: begin; written by `UPDATE_DOCS=1 cargo test -p broker-node documentation` -->\n";
const END: &str = "<!-- keys: end -->";

#[test]
fn the_documentation_has_every_key_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let text = std::fs::read_to_string(path).expect("docs/operations.md");
    let (before, rest) = text.split_once(BEGIN).expect("the begin marker");
    let (written, after) = rest.split_once(END).expect("the end marker");
    let expect = key_tables();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{expect}{END}{after}")).expect("written");
        return;
    }
    assert_eq!(written, expect, "docs/operations.md is not what the code says");
    for path in LATER {
        assert!(
            before.contains(&format!("`{path}`")) || after.contains(&format!("`{path}`")),
            "{path} is not mentioned"
        );
    }
}

/// One table per section.
fn key_tables() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (first, _) = key.path.split_once('.').expect("section.key");
        if first != section {
            section = first;
            text.push_str(&format!(
                "\n### `[{section}]`\n\n| key | default | value | what it does |\n|---|---|---|---|\n"
            ));
        }
        let default = match key.default {
            DefaultValue::Required => "none: required".to_owned(),
            DefaultValue::Unset => "unset".to_owned(),
            DefaultValue::Text(text) => format!("`{text}`"),
        };
        let allowed = (key.allowed)();
        text.push_str(&format!("| `{}` | {default} | {allowed} | {} |\n", key.path, key.about));
    }
    text.push('\n');
    text
}
