//! Where what is built or downloaded for the tests is kept between runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The folder itself, made if need be: `SLUICE_CACHE`, or one below the home folder.
pub fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("SLUICE_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("no HOME")?).join(".cache/sluice"),
    };
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A program that `scripts/setup` built, if it is there.
pub fn program(name: &str) -> Result<Option<PathBuf>> {
    let path = folder()?.join("tools/bin").join(name);
    Ok(path.exists().then_some(path))
}

/// The same file or folder where those can read it who are not root: a copy, where root starts servers as `nobody`.
pub fn readable(path: &Path, scratch: &Path) -> Result<PathBuf> {
    if !rustix::process::getuid().is_root() {
        return Ok(path.to_owned());
    }
    let copy = scratch.join(path.file_name().context("a path without a name")?);
    if !copy.exists() {
        let copied = Command::new("cp").arg("-r").arg(path).arg(&copy).output().context("start cp")?;
        ensure!(copied.status.success(), "cp: {}", String::from_utf8_lossy(&copied.stderr));
    }
    Ok(copy)
}
