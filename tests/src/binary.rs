//! Where the `sluice` program is: `SLUICE_BIN`, or the target folder that this test program was built into.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Path of the program under test. `cargo build --workspace` makes it; `make test` does that first.
pub fn sluice() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return Ok(PathBuf::from(path));
    }
    // <target>/<profile>/deps/<test program>
    let program = std::env::current_exe().context("path of the test program")?;
    let profile = program.parent().and_then(|deps| deps.parent()).context("test program is not in a target folder")?;
    let path = profile.join("sluice");
    ensure!(path.is_file(), "{} does not exist; run `cargo build --workspace` first", path.display());
    Ok(path)
}
