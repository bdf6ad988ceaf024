//! Where Kafka's programs are: its jars, fetched once by `scripts/setup bench`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::cache;

pub const VERSION: &str = "4.3.1";

/// The folder with Kafka's jars.
pub fn jars() -> Result<PathBuf> {
    let folder = cache::folder()?.join(format!("servers/kafka-{VERSION}"));
    ensure!(
        folder.join("complete").is_file(),
        "Kafka {VERSION} is not in {}: run `scripts/setup bench`, which fetches it with Maven (mvn)",
        folder.display()
    );
    Ok(folder)
}

pub fn class_path(jars: &Path) -> String {
    format!("{}/*", jars.display())
}
