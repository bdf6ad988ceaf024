//! Data folders of servers that take seconds to make: each is made once, kept with what else is built, and copied.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::{cache, process};

static MAKING: Mutex<()> = Mutex::new(());

/// Gives a copy at `data`, made by `make` unless one that was made from the same is kept.
pub fn copy_of(name: &str, made_from: impl Hash, data: &Path, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut hash = DefaultHasher::new();
    made_from.hash(&mut hash);
    let kept = cache::folder()?.join(format!("{name}-{:016x}", hash.finish()));
    let _one_of_this_process = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.exists() {
        return copy(&kept, data);
    }
    make()?;
    let half = cache::folder()?.join(format!("{name}-half-{}", std::process::id()));
    copy(data, &half)?;
    // Another test program may have been faster.
    if std::fs::rename(&half, &kept).is_err() {
        std::fs::remove_dir_all(&half)?;
    }
    Ok(())
}

/// Runs a program that makes such a folder, not as root. It reads `input`, if there is any.
pub fn run(mut command: Command, folder: &Path, input: Option<&Path>) -> Result<()> {
    process::without_root(&mut command, folder)?;
    command.stdin(match input {
        Some(path) => std::fs::File::open(path)?.into(),
        None => Stdio::null(),
    });
    let output = command.current_dir(folder).output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).output().context("start cp")?;
    ensure!(copied.status.success(), "cp: {}", String::from_utf8_lossy(&copied.stderr));
    Ok(())
}
