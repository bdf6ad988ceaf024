//! The command line: what it prints and what it exits with.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, webhook_connector};
use tests::process::{self, Finished};
use tests::{binary, scratch::Scratch};

use crate::LIMIT;

async fn sluice(arguments: &[&str]) -> Result<Finished> {
    process::run(tokio::process::Command::new(binary::sluice()?).args(arguments).env_remove("SLUICE_API"), LIMIT).await
}

#[tokio::test]
async fn connectors_are_listed_shown_explained_and_deleted() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let connector = webhook_connector("from_file", "cli/#", "http://127.0.0.1:9/");
    let spec = cluster.scratch().join("connector.json");
    std::fs::write(&spec, connector.to_string())?;
    let api = cluster.api(1).base().to_owned();
    let on_node = async |arguments: &[&str]| sluice(&[&["--api", &api], arguments].concat()).await;

    on_node(&["connector", "create", "--file", &spec.display().to_string()]).await?.success()?;
    cluster.owner_seen_by(0, "from_file").await?;
    let listed = on_node(&["connector", "list", "-o", "json"]).await?.success()?;
    let rows: Value = serde_json::from_str(&listed.stdout).with_context(|| listed.stdout.clone())?;
    ensure!(rows.to_string().contains("from_file"), "{rows}");
    let table = on_node(&["connector", "list"]).await?.success()?.stdout;
    let header = table.lines().next().unwrap_or_default();
    ensure!(header.contains("STATUS") && header.contains("HEALTH"), "{table}");
    ensure!(table.contains("from_file") && table.contains("Running"), "{table}");
    for command in ["show", "explain"] {
        let text = on_node(&["connector", command, "from_file"]).await?.success()?.stdout;
        ensure!(text.contains("from_file") || text.contains("sluice-"), "{command}: {text}");
    }
    let types = on_node(&["connector", "types"]).await?.success()?.stdout;
    ensure!(types.contains("kafka") && types.contains("webhook"), "{types}");

    let twice = on_node(&["connector", "create", "--file", &spec.display().to_string()]).await?;
    ensure!(twice.code != Some(0) && twice.stderr.contains("Connector from_file already exists."), "{twice:?}");
    on_node(&["connector", "delete", "from_file", "--yes"]).await?.success()?;
    let gone = on_node(&["connector", "delete", "from_file", "--yes"]).await?;
    ensure!(gone.code != Some(0) && gone.stderr.contains("Connector from_file does not exist."), "{gone:?}");
    ensure!(cluster.api(0).names().await?.is_empty());

    let status = on_node(&["cluster", "status"]).await?.success()?.stdout;
    let nodes = on_node(&["cluster", "nodes"]).await?.success()?.stdout;
    for node in &cluster.nodes {
        ensure!(nodes.contains(&node.name), "{nodes}");
    }
    ensure!(status.contains("leader"), "{status}");
    cluster.nodes[0].check_sound()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_node_that_is_not_there_is_a_failure() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", tests::ports::free()?);
    let failed = sluice(&["--api", &nobody, "connector", "list"]).await?;
    ensure!(failed.code != Some(0) && failed.stdout.is_empty() && failed.stderr.contains(&nobody), "{failed:?}");
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_all_its_problems() -> Result<()> {
    let mut scratch = Scratch::new("config")?;
    let bad = "[node]\nnam = \"a\"\n[cluster]\nlease = \"two\"\n[mqtt]\nwindow = -1\n";
    check_refused(&scratch, bad, &["node.nam", "node.data_dir", "cluster.lease", "mqtt.window"]).await?;
    // Listeners beyond loopback without authentication, and a lease that outlives the fence.
    let open = format!(
        "[node]\nname = \"a\"\ndata_dir = {}\n[api]\nlisten = \"0.0.0.0:0\"\n[rpc]\nlisten = \"0.0.0.0:0\"\n\
         [mqtt]\nlisten = \"0.0.0.0:0\"\n[cluster]\nlease = \"5s\"\n",
        json!(scratch.path().join("open"))
    );
    check_refused(&scratch, &open, &["api.listen", "rpc.listen", "mqtt.listen", "cluster.dead_after"]).await?;
    let good = scratch.path().join("good.toml");
    let data = scratch.path().join("data").display().to_string();
    std::fs::write(&good, format!("[node]\nname = \"a\"\ndata_dir = {}\n[cluster]\nsecret = \"top\"\n", json!(data)))?;
    let shown = good.display().to_string();
    sluice(&["config", "check", "--config", &shown]).await?.success()?;
    let effective = sluice(&["config", "show", "--config", &shown]).await?.success()?.stdout;
    ensure!(effective.contains("127.0.0.1:8080") && !effective.contains("\"top\""), "{effective}");
    scratch.passed();
    Ok(())
}

/// Both `config check` and `server` refuse it, with every problem in one message.
async fn check_refused(scratch: &Scratch, text: &str, problems: &[&str]) -> Result<()> {
    let path = scratch.path().join("bad.toml");
    std::fs::write(&path, text)?;
    let shown = path.display().to_string();
    for arguments in [&["config", "check", "--config", &shown][..], &["server", "--config", &shown]] {
        let refused = sluice(arguments).await?;
        ensure!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
        for problem in problems {
            ensure!(refused.stderr.contains(problem), "{problem} is not named: {}", refused.stderr);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_version_is_told() -> Result<()> {
    let version = sluice(&["--version"]).await?.success()?.stdout;
    ensure!(version.starts_with("sluice "), "{version}");
    Ok(())
}
