//! Snapshots of the state: one file per node, streamed, never whole in memory.
//!
//! ```text
//! header (log id, membership) | row | row | … | end (rows, crc32c of all before)       each in an envelope
//! written to a temporary file ─► sync ─► rename ─► sync of the directory
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::super::types::SnapshotMeta;
use super::super::wire::{self, HEADER_BYTES, Kind, Wire};
use crate::durable_file;
use crate::state::{ClusterState, StateBuilder, StateRow};

const FILE: &str = "snapshot";
const TEMPORARY_PREFIX: &str = "snapshot.tmp-";

#[derive(Serialize, Deserialize)]
struct Header {
    meta: SnapshotMeta,
}

#[derive(Serialize, Deserialize)]
struct End {
    rows: u64,
    checksum: u32,
}

impl Wire for Header {
    const KIND: Kind = Kind::SnapshotHeader;
}

impl Wire for StateRow {
    const KIND: Kind = Kind::SnapshotRow;
}

impl Wire for End {
    const KIND: Kind = Kind::SnapshotEnd;
}

/// An open snapshot. The file behind it may be replaced meanwhile; this one stays readable.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    pub file: File,
    pub bytes: u64,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// The current snapshot of the node with this folder.
    Current(PathBuf),
    /// Received from the leader, synced, not yet installed.
    Received(Temporary),
}

/// A file that goes when nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed into place, or left for the next start to remove.
        let _gone = fs::remove_file(&self.path);
    }
}

#[derive(Debug)]
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    current: Mutex<Option<SnapshotMeta>>,
    next_temporary: AtomicU64,
}

impl SnapshotStore {
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                fs::remove_file(entry.path())?;
            }
        }
        let current = match File::open(directory.join(FILE)) {
            Ok(file) => Some(read_frame::<Header>(&mut BufReader::new(file))?.0.meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { directory: directory.to_owned(), current: Mutex::new(current), next_temporary: AtomicU64::new(0) })
    }

    /// The current snapshot, if any.
    pub(crate) fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.clone() {
            None => Ok(None),
            Some(meta) => Ok(Some((meta, self.open_current()?))),
        }
    }

    /// A place for a snapshot that is about to come.
    pub(crate) fn temporary(&self) -> Temporary {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        Temporary { path: self.directory.join(format!("{TEMPORARY_PREFIX}{number}")) }
    }

    /// Checks a received file from end to end and hands it out for the installation.
    pub(crate) fn received(&self, temporary: Temporary) -> io::Result<SnapshotFile> {
        let mut file = File::open(temporary.path())?;
        file.sync_all()?;
        read(&file)?;
        file.rewind()?;
        let bytes = file.metadata()?.len();
        Ok(SnapshotFile { file, bytes, origin: Origin::Received(temporary) })
    }

    /// Writes the state as the current snapshot, unless a newer one came in between.
    pub(crate) fn build(&self, meta: &SnapshotMeta, state: &ClusterState) -> io::Result<SnapshotFile> {
        let temporary = self.temporary();
        let file = File::create(temporary.path())?;
        write(&file, meta, state)?;
        file.sync_all()?;
        let file = File::open(temporary.path())?;
        let bytes = file.metadata()?.len();
        self.publish(meta, &temporary)?;
        Ok(SnapshotFile { file, bytes, origin: Origin::Current(self.directory.clone()) })
    }

    /// Reads the state and makes the file the current snapshot.
    pub(crate) fn install(&self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<ClusterState> {
        let SnapshotFile { mut file, origin, .. } = snapshot;
        let (found, state) = read(&file)?;
        if found != *meta {
            return Err(invalid(format!("snapshot is of {found}, not of {meta}")));
        }
        match origin {
            Origin::Current(directory) if directory == self.directory => {}
            Origin::Current(_) => {
                let temporary = self.temporary();
                let mut copy = File::create(temporary.path())?;
                file.rewind()?;
                io::copy(&mut file, &mut copy)?;
                copy.sync_all()?;
                self.publish(meta, &temporary)?;
            }
            Origin::Received(temporary) => self.publish(meta, &temporary)?,
        }
        Ok(state)
    }

    fn publish(&self, meta: &SnapshotMeta, temporary: &Temporary) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        durable_file::rename(temporary.path(), &self.directory.join(FILE))?;
        *current = Some(meta.clone());
        Ok(())
    }

    fn open_current(&self) -> io::Result<SnapshotFile> {
        let file = File::open(self.directory.join(FILE))?;
        let bytes = file.metadata()?.len();
        Ok(SnapshotFile { file, bytes, origin: Origin::Current(self.directory.clone()) })
    }
}

fn write(file: &File, meta: &SnapshotMeta, state: &ClusterState) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    let mut checksum = 0;
    let mut put = |frame: Vec<u8>| {
        checksum = crc32c::crc32c_append(checksum, &frame);
        out.write_all(&frame)
    };
    put(wire::encode(&Header { meta: meta.clone() })?)?;
    let mut rows = 0;
    for row in state.to_rows() {
        put(wire::encode(&row)?)?;
        rows += 1;
    }
    let end = wire::encode(&End { rows, checksum })?;
    out.write_all(&end)?;
    out.flush()
}

fn read(file: &File) -> io::Result<(SnapshotMeta, ClusterState)> {
    let mut input = BufReader::new(file);
    let (Header { meta }, frame) = read_frame(&mut input)?;
    let mut checksum = crc32c::crc32c(&frame);
    let mut builder = StateBuilder::default();
    let mut rows = 0;
    loop {
        let frame = read_envelope(&mut input)?;
        if wire::kind_of(&frame) == Some(Kind::SnapshotEnd as u16) {
            let end: End = wire::decode(&frame)?;
            if end.rows != rows || end.checksum != checksum {
                return Err(invalid("snapshot does not match its checksum".to_owned()));
            }
            break;
        }
        builder.push(wire::decode(&frame)?).map_err(|error| invalid(error.to_string()))?;
        checksum = crc32c::crc32c_append(checksum, &frame);
        rows += 1;
    }
    if input.read(&mut [0])? != 0 {
        return Err(invalid("snapshot goes on after its end".to_owned()));
    }
    let state = builder.finish().map_err(|error| invalid(error.to_string()))?;
    Ok((meta, state))
}

fn read_frame<T: Wire>(input: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let frame = read_envelope(input)?;
    Ok((wire::decode(&frame)?, frame))
}

fn read_envelope(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    input.read_exact(&mut frame)?;
    let length = wire::body_length(&frame)?;
    frame.resize(HEADER_BYTES + length, 0);
    input.read_exact(&mut frame[HEADER_BYTES..])?;
    Ok(frame)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
