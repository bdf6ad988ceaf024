//! RocksDB. Nobody else in this crate names it.
//!
//! ```text
//! Batch ──► write(batch, sync) ──► one WAL ──► records | letters | meta
//! scan / get ◄── bounded iterators, each from a position: what lies below is never visited
//! set_dead ──► compaction filter (records that are passed and synced)
//! ```
//!
//! A write that fails leaves RocksDB's WAL in an unknown state: the owner of the store calls [`Store::close`] and
//! [`Store::open`] again and reads everything back.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use api_types::{Incarnation, Sequence};
use bytes::Bytes;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Options, ReadOptions, WriteBatch};

use super::disk::Disk;
use super::rows::{FormatError, MetaKey, number, parse_record_key, record_key};

const RECORDS: &str = "records";
const LETTERS: &str = "letters";
const META: &str = "meta";

/// Memtable of the records.
const RECORDS_BUFFER_BYTES: usize = 16 << 20;
/// One takes what comes while others wait for the disk; writes stall when all are full. 64 MiB, however far the disk is behind.
const RECORDS_BUFFERS_MAX: i32 = 4;
/// Files of a buffer each before they are merged: fewer would be merged too often.
const NEW_FILES_MERGED: i32 = 8;
/// Keeps what a restart must replay, and what the WAL takes of the disk, small.
const WAL_BYTES_MAX: u64 = 256 << 20;
/// A recycled WAL file saves the journal write of a growing one.
const WAL_FILES_RECYCLED: usize = 4;
const LOG_FILE_BYTES_MAX: usize = 4 << 20;
/// What RocksDB's text says of `ENOSPC` and `EDQUOT`; it has no other sign for them.
const NO_ROOM_TEXTS: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the queue store is closed")]
    Closed,
    #[error("rocksdb cannot {action}")]
    Engine {
        action: &'static str,
        #[source]
        source: rocksdb::Error,
    },
    #[error("{what} in the queue store cannot be read")]
    Format {
        what: &'static str,
        #[source]
        source: FormatError,
    },
    #[error("the disk does not take a write")]
    Disk(#[source] std::io::Error),
}

impl StoreError {
    /// Whether it failed for want of room, which may come back; a disk that is broken may be nearly full as well.
    pub(super) fn is_no_room(&self) -> bool {
        match self {
            Self::Engine { source, .. } => {
                source.kind() == rocksdb::ErrorKind::IOError
                    && NO_ROOM_TEXTS.iter().any(|text| source.as_ref().contains(text))
            }
            Self::Disk(error) => {
                matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            Self::Closed | Self::Format { .. } => false,
        }
    }
}

pub(super) fn engine(action: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |source| StoreError::Engine { action, source }
}

pub(super) fn format(what: &'static str) -> impl FnOnce(FormatError) -> StoreError {
    move |source| StoreError::Format { what, source }
}

/// Changes that are written together or not at all.
#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    PutRecord(Incarnation, Sequence, Bytes),
    DeleteRecord(Incarnation, Sequence),
    PutMeta(MetaKey, Vec<u8>),
    DeleteMeta(MetaKey),
    PutLetter(u64, Vec<u8>),
    DeleteLetter(u64),
    /// One range tombstone over the whole incarnation. An incarnation is dropped once and never comes back, so these
    /// tombstones cannot overlap.
    DropRecords(Incarnation),
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn put_record(&mut self, incarnation: Incarnation, sequence: Sequence, value: Bytes) {
        self.changes.push(Change::PutRecord(incarnation, sequence, value));
    }

    pub fn delete_record(&mut self, incarnation: Incarnation, sequence: Sequence) {
        self.changes.push(Change::DeleteRecord(incarnation, sequence));
    }

    pub fn put_meta(&mut self, key: MetaKey, value: Vec<u8>) {
        self.changes.push(Change::PutMeta(key, value));
    }

    pub fn delete_meta(&mut self, key: MetaKey) {
        self.changes.push(Change::DeleteMeta(key));
    }

    pub fn put_letter(&mut self, letter: u64, value: Vec<u8>) {
        self.changes.push(Change::PutLetter(letter, value));
    }

    pub fn delete_letter(&mut self, letter: u64) {
        self.changes.push(Change::DeleteLetter(letter));
    }

    pub fn drop_records(&mut self, incarnation: Incarnation) {
        self.changes.push(Change::DropRecords(incarnation));
    }
}

/// Records of one queue that nobody needs any more, as far as that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    /// Everything below.
    pub below: Sequence,
    /// And `[from, to)`: dropped behind sealed batches that are not committed yet.
    pub hole: (Sequence, Sequence),
}

impl Dead {
    fn covers(self, sequence: Sequence) -> bool {
        sequence < self.below || (self.hole.0 <= sequence && sequence < self.hole.1)
    }
}

type DeadRecords = HashMap<Incarnation, Dead>;

pub(super) struct Store {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    db: RwLock<Option<DB>>,
    dead: Arc<RwLock<DeadRecords>>,
}

impl Store {
    pub fn new(dir: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { dir: dir.to_owned(), disk, db: RwLock::new(None), dead: Arc::default() }
    }

    /// Recovers what was written. RocksDB flushes and syncs what it replays from the WAL, so all that can be read
    /// after this is on disk.
    pub fn open(&self) -> Result<(), StoreError> {
        self.disk.admit_write().map_err(StoreError::Disk)?;
        let families = [
            ColumnFamilyDescriptor::new(RECORDS, self.records_options()),
            ColumnFamilyDescriptor::new(LETTERS, family_options()),
            ColumnFamilyDescriptor::new(META, family_options()),
        ];
        let db = DB::open_cf_descriptors(&database_options(), &self.dir, families).map_err(engine("open"))?;
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Some(db);
        Ok(())
    }

    /// Waits for the reads that are under way.
    pub fn close(&self) {
        // A manual compaction holds the lock as a read does: tell it to end before waiting for it.
        if let Some(db) = &*self.db.read().unwrap_or_else(PoisonError::into_inner) {
            db.cancel_all_background_work(false);
        }
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
        self.dead.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        self.disk.admit_write().map_err(StoreError::Disk)?;
        self.with(|db| {
            if batch.is_empty() {
                return if sync { db.flush_wal(true).map_err(engine("sync")) } else { Ok(()) };
            }
            let mut options = rocksdb::WriteOptions::default();
            options.set_sync(sync);
            db.write_opt(to_engine(db, batch)?, &options).map_err(engine("write"))
        })
    }

    pub fn record(&self, incarnation: Incarnation, sequence: Sequence) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| {
            db.get_cf(family(db, RECORDS)?, record_key(incarnation, sequence)).map_err(engine("read a record"))
        })
    }

    /// Visits the records of `[from, to)` in order until told to stop.
    pub fn scan(
        &self,
        incarnation: Incarnation,
        from: Sequence,
        to: Sequence,
        mut visit: impl FnMut(Sequence, &[u8]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let bounds = (record_key(incarnation, from).to_vec(), record_key(incarnation, to).to_vec());
        self.scan_family(RECORDS, Some(bounds), |key, value| {
            let (_, sequence) = parse_record_key(key).map_err(format("a record's key"))?;
            visit(sequence, value)
        })
    }

    pub fn last_record(&self, incarnation: Incarnation) -> Result<Option<Sequence>, StoreError> {
        self.with(|db| {
            let mut records = db.raw_iterator_cf(family(db, RECORDS)?);
            records.seek_for_prev(record_key(incarnation, Sequence(u64::MAX)));
            records.status().map_err(engine("seek"))?;
            let Some(key) = records.key() else { return Ok(None) };
            let (found, sequence) = parse_record_key(key).map_err(format("a record's key"))?;
            Ok((found == incarnation).then_some(sequence))
        })
    }

    pub fn scan_meta(&self, mut visit: impl FnMut(MetaKey, &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.scan_family(META, None, |key, value| {
            visit(MetaKey::parse(key).map_err(format("a key"))?, value)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    pub fn letter(&self, letter: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.with(|db| db.get_cf(family(db, LETTERS)?, letter.to_be_bytes()).map_err(engine("read a letter")))
    }

    pub fn scan_letters(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let bounds = (from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec());
        self.scan_family(LETTERS, Some(bounds), |key, value| {
            visit(number(key).map_err(format("a letter's key"))?, value)
        })
    }

    /// Only for what is synced: compaction removes these records for good.
    pub fn set_dead(&self, changes: impl IntoIterator<Item = (Incarnation, Option<Dead>)>) {
        let mut dead = self.dead.write().unwrap_or_else(PoisonError::into_inner);
        for (incarnation, change) in changes {
            match change {
                Some(change) => dead.insert(incarnation, change),
                None => dead.remove(&incarnation),
            };
        }
    }

    /// Removes the files that hold nothing but records of this queue below `below`.
    pub fn delete_files(&self, incarnation: Incarnation, below: Sequence) -> Result<(), StoreError> {
        // The range is inclusive at both ends: `below` itself must not be in it.
        let Some(last) = below.0.checked_sub(1) else { return Ok(()) };
        self.with(|db| {
            let (from, to) = (record_key(incarnation, Sequence(0)), record_key(incarnation, Sequence(last)));
            db.delete_file_in_range_cf(family(db, RECORDS)?, from, to).map_err(engine("delete files"))
        })
    }

    /// Runs the compaction filter over what is dead of a queue.
    ///
    /// What is alive is left where it is: on a disk without room, rewriting it would take more than it gives, and a
    /// flush of what is only in memory, which begins a new log beside the old one, too.
    pub fn compact_queue(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        let dead = self.dead.read().unwrap_or_else(PoisonError::into_inner).get(&incarnation).copied();
        // Nothing is known while the store is being opened again; who wants the space then asks anew.
        let Some(dead) = dead else { return Ok(()) };
        // That needs no room at all.
        self.delete_files(incarnation, dead.below)?;
        // What is behind the hole is unsealed.
        self.compact_below(incarnation, dead.below.max(dead.hole.1))
    }

    /// Gives back all of a queue whose deletion is synced.
    pub fn compact_deleted(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        self.compact_below(incarnation, Sequence(u64::MAX))
    }

    fn compact_below(&self, incarnation: Incarnation, end: Sequence) -> Result<(), StoreError> {
        let Some(last) = end.0.checked_sub(1) else { return Ok(()) };
        self.with(|db| {
            let (from, to) = (record_key(incarnation, Sequence(0)), record_key(incarnation, Sequence(last)));
            db.compact_range_cf(family(db, RECORDS)?, Some(from), Some(to));
            Ok(())
        })
    }

    /// Runs the compaction filter over everything.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.with(|db| {
            for name in [RECORDS, LETTERS] {
                db.compact_range_cf(family(db, name)?, None::<&[u8]>, None::<&[u8]>);
            }
            Ok(())
        })
    }

    /// Bytes of the files of records and letters, live or not.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        self.with(|db| {
            let mut sum = 0;
            for name in [RECORDS, LETTERS] {
                let bytes = db
                    .property_int_value_cf(family(db, name)?, rocksdb::properties::TOTAL_SST_FILES_SIZE)
                    .map_err(engine("tell its size"))?;
                sum += bytes.unwrap_or_default();
            }
            Ok(sum)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&DB) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        act(db.as_ref().ok_or(StoreError::Closed)?)
    }

    fn scan_family(
        &self,
        name: &'static str,
        bounds: Option<(Vec<u8>, Vec<u8>)>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        self.with(|db| {
            let mut options = ReadOptions::default();
            let mut start = Vec::new();
            if let Some((from, to)) = bounds {
                start = from;
                options.set_iterate_upper_bound(to);
            }
            let mut rows = db.raw_iterator_cf_opt(family(db, name)?, options);
            rows.seek(start);
            while let Some((key, value)) = rows.item() {
                if visit(key, value)?.is_break() {
                    return Ok(());
                }
                rows.next();
            }
            rows.status().map_err(engine("scan"))
        })
    }

    fn records_options(&self) -> Options {
        let mut options = family_options();
        options.set_write_buffer_size(RECORDS_BUFFER_BYTES);
        options.set_max_write_buffer_number(RECORDS_BUFFERS_MAX);
        options.set_level_zero_file_num_compaction_trigger(NEW_FILES_MERGED);
        options.set_compaction_filter_factory(PassedFactory { dead: self.dead.clone() });
        options
    }
}

fn family<'a>(db: &'a DB, name: &'static str) -> Result<&'a ColumnFamily, StoreError> {
    db.cf_handle(name).ok_or(StoreError::Closed)
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_recycle_log_file_num(WAL_FILES_RECYCLED);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    // A torn tail ends the replay: what follows was never acknowledged.
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(LOG_FILE_BYTES_MAX);
    options
}

fn to_engine(db: &DB, batch: Batch) -> Result<WriteBatch, StoreError> {
    let (records, letters, meta) = (family(db, RECORDS)?, family(db, LETTERS)?, family(db, META)?);
    let mut written = WriteBatch::default();
    for change in batch.changes {
        match change {
            Change::PutRecord(incarnation, sequence, value) => {
                written.put_cf(records, record_key(incarnation, sequence), value);
            }
            Change::DeleteRecord(incarnation, sequence) => {
                written.delete_cf(records, record_key(incarnation, sequence));
            }
            Change::PutMeta(key, value) => written.put_cf(meta, key.to_bytes(), value),
            Change::DeleteMeta(key) => written.delete_cf(meta, key.to_bytes()),
            Change::PutLetter(letter, value) => written.put_cf(letters, letter.to_be_bytes(), value),
            Change::DeleteLetter(letter) => written.delete_cf(letters, letter.to_be_bytes()),
            Change::DropRecords(incarnation) => {
                let from = record_key(incarnation, Sequence(0));
                written.delete_range_cf(records, from, record_key(incarnation, Sequence(u64::MAX)));
            }
        }
    }
    Ok(written)
}

/// Made anew for each compaction, with what was dead when it began.
struct PassedFilter {
    dead: DeadRecords,
}

impl CompactionFilter for PassedFilter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> Decision {
        let passed = parse_record_key(key)
            .is_ok_and(|(incarnation, sequence)| self.dead.get(&incarnation).is_some_and(|dead| dead.covers(sequence)));
        if passed { Decision::Remove } else { Decision::Keep }
    }

    fn name(&self) -> &CStr {
        c"sluice.passed"
    }
}

struct PassedFactory {
    dead: Arc<RwLock<DeadRecords>>,
}

impl CompactionFilterFactory for PassedFactory {
    type Filter = PassedFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> PassedFilter {
        PassedFilter { dead: self.dead.read().unwrap_or_else(PoisonError::into_inner).clone() }
    }

    fn name(&self) -> &CStr {
        c"sluice.passed"
    }
}
