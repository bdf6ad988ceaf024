//! A folder for one test. It goes when the test passed, and stays, with its path printed, when it did not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub struct Scratch {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    passed: bool,
}

impl Scratch {
    pub fn new(purpose: &str) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix(&format!("sluice-{purpose}-")).tempdir().context("scratch folder")?;
        let path = folder.path().canonicalize()?;
        // Servers that run as another user have to get in.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { folder: Some(folder), path, passed: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has_passed(&self) -> bool {
        self.passed
    }

    /// The folder may go.
    pub fn passed(&mut self) {
        self.passed = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.passed && !std::thread::panicking() {
            return;
        }
        if let Some(folder) = self.folder.take() {
            eprintln!("the test did not pass; its folder stays: {}", folder.keep().display());
        }
    }
}
