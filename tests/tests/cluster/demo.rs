//! `sluice demo` tells its story to the end, and its numbers are those of the exit code.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{binary, cluster, process};

/// About a minute is promised.
const DEMO_LIMIT: Duration = Duration::from_secs(600);
const MESSAGES: &str = "6000";

#[tokio::test]
async fn the_demo_loses_nothing_and_says_so() -> Result<()> {
    let _turn = cluster::turn().await;
    let began = std::time::Instant::now();
    let mut command = tokio::process::Command::new(binary::sluice()?);
    let told = process::run(command.args(["demo", "--messages", MESSAGES]), DEMO_LIMIT).await?.success()?.stdout;
    tests::wait::within(Duration::from_secs(60), "sluice demo", began.elapsed())?;

    for (label, expected) in [("acknowledged", MESSAGES), ("delivered", MESSAGES), ("pending", "0"), ("lost", "0")] {
        let row = told.lines().find(|line| line.starts_with(label) && line.contains("  ")).context(label)?;
        let cells: Vec<&str> = row[label.len()..].split_whitespace().collect();
        ensure!(cells == [expected, expected], "{row}");
    }
    let moved = told.lines().filter(|line| line.trim_start().starts_with("before")).count();
    ensure!(moved == 2 && told.contains("Nothing was lost."), "{told}");
    // The nodes and their folder are gone.
    let folder = told.split_whitespace().find(|word| word.contains("sluice-demo-")).context("the folder")?;
    ensure!(!std::path::Path::new(folder).exists(), "{folder} was left behind");
    Ok(())
}
