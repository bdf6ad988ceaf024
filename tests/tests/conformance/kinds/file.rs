//! A folder, and in it a file for each destination: the example of an adapter. There is no server, so nothing can be
//! killed, paused or stand behind a proxy; the folder can be taken away.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::envelope;
use crate::adapter::{Adapter, Breakage, Carried, Destination, Facts, Refused, Repeats, Safety, Seen, Start, Way};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;

const NO_FOLDER: Breakage = Breakage {
    name: "a file where the folder should be",
    health_reason: "TARGET_UNREACHABLE",
    class: "target_unreachable",
    words: "File exists",
};

/// A record that is refused needs `raw`: then a line break in it would be two lines.
const LINE_BREAK: Refused = Refused { class: "line_break", words: "line break", offline: true };

pub struct File {
    folder: PathBuf,
}

impl File {
    fn folder_of(&self, destination: &Destination) -> PathBuf {
        self.folder.join(&destination.name)
    }

    fn path(&self, destination: &Destination) -> PathBuf {
        self.folder_of(destination).join("out.log")
    }
}

impl Adapter for File {
    const KIND: &'static str = "file";

    async fn start(start: &Start) -> Result<Self> {
        let folder = start.folder.join("files");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: envelope::PARTS,
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: 1,
            repeats: Repeats::AfterChangeOfOwner,
            loses_when_killed: None,
            poison: LINE_BREAK,
            breakages: &[NO_FOLDER],
            has_login: false,
            has_tls: false,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        envelope::carries(shape)
    }

    /// The connector makes it.
    async fn make(&mut self, _: &Destination) -> Result<()> {
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = json!({ "local_file_path": self.path(destination) });
        match way.safety {
            Safety::Confirmed => config["batch_records"] = BATCH_RECORDS.into(),
            Safety::SeedDefaults => {}
        }
        if destination.guarded {
            config["payload_format"] = "raw".into();
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let lines = complete_lines(&self.path(destination))?;
        let text = |line: &[u8]| String::from_utf8(line.to_vec()).context("a line that is no text");
        if destination.guarded {
            return Ok(lines.into_iter().map(|payload| Seen { payload, ..Seen::default() }).collect());
        }
        lines.iter().map(|line| envelope::seen(&text(line)?)).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let mut strangers = Vec::new();
        for folder in std::fs::read_dir(&self.folder)? {
            for file in std::fs::read_dir(folder?.path())? {
                let path = file?.path();
                if path.file_name().is_none_or(|name| name != "out.log") {
                    strangers.push(path.display().to_string());
                }
            }
        }
        Ok(strangers)
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        format!("{{\"message\":\"{name}\",\n\"celsius\":21.5}}").into_bytes()
    }

    async fn break_by(&mut self, _: &Breakage, destination: &Destination) -> Result<()> {
        std::fs::write(self.folder_of(destination), "in the way").context("write into the way")
    }

    async fn mend(&mut self, _: &Breakage, destination: &Destination) -> Result<()> {
        std::fs::remove_file(self.folder_of(destination)).context("clear the way")
    }

    async fn kill(&mut self) -> Result<()> {
        anyhow::bail!("there is no server")
    }

    async fn start_again(&mut self) -> Result<()> {
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        anyhow::bail!("there is no server")
    }

    fn resume(&self) -> Result<()> {
        Ok(())
    }

    fn upstream(&self) -> Option<u16> {
        None
    }

    fn finish(self) {}
}

/// A last line without its end is under way, and none yet.
fn complete_lines(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Ok(bytes[..end].split_inclusive(|byte| *byte == b'\n').map(|line| line[..line.len() - 1].to_vec()).collect())
}
