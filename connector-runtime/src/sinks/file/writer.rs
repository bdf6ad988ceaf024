//! The open file: whole lines only, synced before they count, rotated without ever writing over anything.
//!
//! ```text
//! open ──► torn tail cut off ──► append(lines) ──► [rotate] ──► write ──► fdatasync ──► delivered
//!                                                                  │ failed: cut back to the length before
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::config::Rotation;

/// A line is at most one record, and a batch is at most 64 MiB: a longer tail without a line break is not ours.
const TAIL_BYTES_MAX: u64 = 128 << 20;
const TAIL_CHUNK_BYTES: u64 = 64 << 10;
/// Names tried for one rotated file before something is taken to be wrong with the folder.
const NAMES_MAX: u32 = 1_000_000;

pub(super) struct Writer {
    path: PathBuf,
    rotation: Rotation,
    size_bytes_max: u64,
    file: File,
    /// When the last line was written: a file holds the lines of one period.
    last_write: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WriterError {
    #[error("another process writes this file")]
    Locked,
    #[error("the file does not end with a line, and its last line is too long to be Sluice's")]
    NotLines,
    #[error("cannot {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Lines of one batch, each with its line break, in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn with_capacity(lines: usize, bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), ends: Vec::with_capacity(lines) }
    }

    /// One line more, which `write` appends without its line break.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.text.push(b'\n');
        self.ends.push(self.text.len());
    }

    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Of the lines `from..to`.
    fn bytes(&self, from: usize, to: usize) -> &[u8] {
        let end = |count: usize| count.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        self.text.get(end(from)..end(to)).unwrap_or_default()
    }
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> WriterError {
    move |source| WriterError::Io { doing, source }
}

impl Writer {
    /// `path` has no links in it and its folder exists.
    pub(super) fn open(path: PathBuf, rotation: Rotation, size_bytes_max: u64) -> Result<Self, WriterError> {
        let file = open_file(&path)?;
        cut_torn_tail(&file)?;
        let modified = file.metadata().and_then(|metadata| metadata.modified()).map_err(io_error("read the file"))?;
        Ok(Self { path, rotation, size_bytes_max, file, last_write: modified.into() })
    }

    /// Appends the lines and syncs them. Returns how many are safe, and what failed after them: those that are not safe
    /// left nothing behind.
    pub(super) fn append(&mut self, lines: &Lines, now: DateTime<Utc>) -> (usize, Option<WriterError>) {
        let mut safe = 0;
        while safe < lines.count() {
            match self.append_some(lines, safe, now) {
                Ok(written) => safe += written,
                Err(error) => return (safe, Some(error)),
            }
        }
        (safe, None)
    }

    /// As many lines, from this one on, as the current file takes; at least one.
    fn append_some(&mut self, lines: &Lines, from: usize, now: DateTime<Utc>) -> Result<usize, WriterError> {
        if self.was_replaced() {
            // Should the name lead to this very file again, our own lock must not be in the way.
            flock(&self.file, FlockOperation::Unlock)
                .map_err(|error| io_error("unlock the file that was moved away")(error.into()))?;
            *self = Self::open(self.path.clone(), self.rotation, self.size_bytes_max)?;
        }
        let mut length = self.file.metadata().map_err(io_error("read the file's length"))?.len();
        if let Some(suffix) = self.rotation_due(length, lines.bytes(from, from + 1).len() as u64, now) {
            self.rotate(&suffix)?;
            length = 0;
        }
        let count = self.lines_that_fit(lines, from, length);
        let bytes = lines.bytes(from, from + count);
        if let Err(error) = self.file.write_all(bytes).and_then(|()| self.file.sync_data()) {
            // After a failed sync nobody knows what is on the disk; what was not confirmed must not stay.
            self.file.set_len(length).map_err(io_error("cut the file back after a failed write"))?;
            return Err(WriterError::Io { doing: "write", source: error });
        }
        self.last_write = now;
        Ok(count)
    }

    fn lines_that_fit(&self, lines: &Lines, from: usize, length: u64) -> usize {
        let left = lines.count() - from;
        match self.rotation {
            Rotation::None | Rotation::Hourly | Rotation::Daily => left,
            Rotation::Size => {
                let fits = |count: &usize| length + lines.bytes(from, from + count).len() as u64 <= self.size_bytes_max;
                (1..=left).take_while(fits).count().max(1)
            }
        }
    }

    /// What the full file's name gets, when it is full.
    fn rotation_due(&self, length: u64, next_bytes: u64, now: DateTime<Utc>) -> Option<String> {
        let turn = |format: &str| {
            let period = self.last_write.format(format).to_string();
            (period != now.format(format).to_string()).then_some(period)
        };
        if length == 0 {
            return None;
        }
        match self.rotation {
            Rotation::None => None,
            Rotation::Size => (length + next_bytes > self.size_bytes_max).then(String::new),
            Rotation::Hourly => turn("%Y-%m-%dT%H"),
            Rotation::Daily => turn("%Y-%m-%d"),
        }
    }

    /// Names the full file after its period, or by number, and begins a new one.
    fn rotate(&mut self, period: &str) -> Result<(), WriterError> {
        let target = self.reserve_name(period)?;
        fs::rename(&self.path, &target).map_err(io_error("rename the full file"))?;
        sync_folder(&self.path)?;
        self.file = open_file(&self.path)?;
        Ok(())
    }

    /// An empty file of a name that was free: the rename can only replace this.
    fn reserve_name(&self, period: &str) -> Result<PathBuf, WriterError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut number = if period.is_empty() { self.last_number(&name)? } else { 0 };
        for _ in 0..NAMES_MAX {
            let candidate = match (period.is_empty(), number) {
                (false, 0) => format!("{name}.{period}"),
                (false, number) => format!("{name}.{period}.{number}"),
                (true, number) => format!("{name}.{:06}", number + 1),
            };
            let candidate = self.path.with_file_name(candidate);
            match OpenOptions::new().write(true).create_new(true).open(&candidate) {
                Ok(_) => return Ok(candidate),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(WriterError::Io { doing: "make a name for the full file", source: error }),
            }
        }
        let source = io::Error::other("no free name");
        Err(WriterError::Io { doing: "make a name for the full file", source })
    }

    /// Numbers only grow, also when the first files were taken away.
    fn last_number(&self, name: &str) -> Result<u32, WriterError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut last = 0;
        for entry in fs::read_dir(folder).map_err(io_error("list the folder"))? {
            let entry = entry.map_err(io_error("list the folder"))?;
            let other = entry.file_name();
            let number = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.')?.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        Ok(last)
    }

    /// Somebody moved or removed the file: what is written to it would be lost.
    fn was_replaced(&self) -> bool {
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            (Err(_), _) | (_, Err(_)) => true,
        }
    }
}

fn open_file(path: &Path) -> Result<File, WriterError> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let existed = path.exists();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .custom_flags(no_follow)
        .open(path)
        .map_err(io_error("open the file"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(WriterError::Locked),
        Err(error) => return Err(WriterError::Io { doing: "lock the file", source: error.into() }),
    }
    if !existed {
        sync_folder(path)?;
    }
    Ok(file)
}

fn sync_folder(path: &Path) -> Result<(), WriterError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder"))
}

/// A crash may have left half a line, or a hole, behind the last whole line.
fn cut_torn_tail(mut file: &File) -> Result<(), WriterError> {
    let read = io_error("read the end of the file");
    let whole = (|| {
        let length = file.metadata()?.len();
        let mut end = length;
        let mut chunk = Vec::new();
        while end > 0 {
            if length - end > TAIL_BYTES_MAX {
                return Ok(None);
            }
            let start = end.saturating_sub(TAIL_CHUNK_BYTES);
            file.seek(SeekFrom::Start(start))?;
            chunk.clear();
            file.take(end - start).read_to_end(&mut chunk)?;
            if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
                end = start + at as u64 + 1;
                break;
            }
            end = start;
        }
        Ok(Some((length, end)))
    })();
    let (length, whole) = whole.map_err(read)?.ok_or(WriterError::NotLines)?;
    if whole < length {
        file.set_len(whole).and_then(|()| file.sync_data()).map_err(io_error("cut off half a line"))?;
    }
    Ok(())
}
