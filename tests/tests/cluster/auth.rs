//! Password files, tried with the client and the password tool that people have.

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, ClusterOptions};
use tests::scratch::Scratch;
use tests::{mosquitto, records};

use crate::{LIMIT, all_arrived};

const MESSAGE: &str = r#"{"message":"known"}"#;

#[tokio::test]
async fn only_who_knows_the_password_publishes() -> Result<()> {
    let mut scratch = Scratch::new("passwords")?;
    let passwords = scratch.path().join("passwords");
    mosquitto::add_password(&passwords, "device", "right horse").await?;
    let set = vec![format!("mqtt.auth.password_file={}", passwords.display()), "mqtt.allow_anonymous=false".to_owned()];
    let mut cluster = Cluster::with(ClusterOptions { nodes: 1, set, ..ClusterOptions::default() }).await?;
    let (file, path) = cluster.file_connector("auth", "auth/#");
    cluster.create_running(0, &file).await?;

    let port = cluster.nodes[0].mqtt_port;
    let attempt = async |version: &str, login: &[&str], message: &str| {
        let mut arguments = vec!["-V", version, "-q", "1", "-t", "auth/a", "-m", message];
        arguments.extend(login);
        mosquitto::publish(port, &arguments).await
    };
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        attempt(version, &["-u", "device", "-P", "right horse"], MESSAGE).await?.success()?;
        for login in [&["-u", "device", "-P", "wrong"][..], &["-u", "nobody", "-P", "right horse"], &[]] {
            let refused = attempt(version, login, r#"{"message":"unknown"}"#).await?;
            // Exit codes of mosquitto_pub: CONNACK 4 or 5 of version 3, reason 134 or 135 of version 5.
            let expected: &[i32] = if version == "mqttv5" { &[134, 135] } else { &[4, 5] };
            ensure!(refused.code.is_some_and(|code| expected.contains(&code)), "{version} {login:?}: {refused:?}");
        }
    }
    let known = "known".to_owned();
    let arrived = all_arrived("auth", LIMIT, [&known], || records::of_file(&path)).await?;
    ensure!(!arrived.messages.contains_key("unknown"), "a refused client's message was delivered");
    cluster.drained(0, "auth", LIMIT).await?;
    ensure!(records::of_file(&path)?.messages["known"] == 3);
    scratch.passed();
    cluster.finish().await
}
