//! The RocksDB below the Raft log: one database, one WAL, so that recovery always sees a prefix of the writes.
//! This is the only module of the crate that names rocksdb.

use std::io;
use std::path::Path;

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, Options,
    ReadOptions, WriteBatch,
};
use tokio::sync::oneshot;

const LOG_FAMILY: &str = "log";
const FACTS_FAMILY: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

/// Replayed at a start, and kept in memory until flushed.
const WAL_BYTES_MAX: u64 = 64 << 20;
const WRITE_BUFFER_BYTES: usize = 16 << 20;
/// RocksDB's own log files.
const INFO_LOGS_MAX: usize = 4;
/// From so many entries on, one range tombstone is cheaper than point deletes. Ranges never overlap: the cost of
/// overlapping ones grows with the square of their number.
const RANGE_DELETE_MIN: u64 = 256;

/// What is stored beside the entries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fact {
    Vote,
    Committed,
    Purged,
}

impl Fact {
    fn key(self) -> &'static [u8] {
        match self {
            Self::Vote => b"vote",
            Self::Committed => b"committed",
            Self::Purged => b"purged",
        }
    }
}

pub(super) struct Database {
    db: DB,
    /// Dropped after `db`: whoever waits for it knows that the directory is free.
    _closed: oneshot::Sender<()>,
}

impl Database {
    pub(super) fn open(path: &Path) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn tail was never acknowledged; anything worse shows against the high-water file.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_recycle_log_file_num(2);
        options.set_manual_wal_flush(false);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_keep_log_file_num(INFO_LOGS_MAX);
        options.set_max_background_jobs(2);
        let family = |name| {
            let mut options = Options::default();
            options.set_compression_type(DBCompressionType::Lz4);
            options.set_write_buffer_size(WRITE_BUFFER_BYTES);
            ColumnFamilyDescriptor::new(name, options)
        };
        let families = [family(FACTS_FAMILY), family(LOG_FAMILY)];
        let db = DB::open_cf_descriptors(&options, path, families).map_err(io::Error::other)?;
        let (sender, closed) = oneshot::channel();
        Ok((Self { db, _closed: sender }, closed))
    }

    pub(super) fn fact(&self, fact: Fact) -> io::Result<Option<Vec<u8>>> {
        self.db.get(fact.key()).map_err(io::Error::other)
    }

    /// Not synced: `sync` makes it durable, together with all that was written before.
    pub(super) fn put_fact(&self, fact: Fact, value: &[u8]) -> io::Result<()> {
        self.db.put(fact.key(), value).map_err(io::Error::other)
    }

    /// Readable at once, durable after `sync`.
    pub(super) fn append(&self, entries: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let log = self.log()?;
        let mut batch = WriteBatch::default();
        for (index, bytes) in entries {
            batch.put_cf(log, index.to_be_bytes(), bytes);
        }
        self.db.write(batch).map_err(io::Error::other)
    }

    /// Takes entries off the end; their number is small.
    pub(super) fn truncate(&self, first: u64, end: u64) -> io::Result<()> {
        let log = self.log()?;
        let mut batch = WriteBatch::default();
        for index in first..end {
            batch.delete_cf(log, index.to_be_bytes());
        }
        self.db.write(batch).map_err(io::Error::other)
    }

    /// Takes entries off the front and remembers up to where, in one batch: no crash leaves a hole.
    pub(super) fn purge(&self, first: u64, end: u64, purged: &[u8]) -> io::Result<()> {
        let log = self.log()?;
        let mut batch = WriteBatch::default();
        batch.put(Fact::Purged.key(), purged);
        if end.saturating_sub(first) >= RANGE_DELETE_MIN {
            batch.delete_range_cf(log, first.to_be_bytes(), end.to_be_bytes());
        } else {
            for index in first..end {
                batch.delete_cf(log, index.to_be_bytes());
            }
        }
        self.db.write(batch).map_err(io::Error::other)
    }

    /// Calls `each` with the entries of `first..end` in order, until it returns false.
    pub(super) fn scan(
        &self,
        first: u64,
        end: u64,
        mut each: impl FnMut(u64, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        if first >= end {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(first.to_be_bytes());
        options.set_iterate_upper_bound(end.to_be_bytes());
        for item in self.db.iterator_cf_opt(self.log()?, options, IteratorMode::Start) {
            let (key, value) = item.map_err(io::Error::other)?;
            if !each(index_of(&key)?, &value)? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn last_entry(&self) -> io::Result<Option<(u64, Box<[u8]>)>> {
        let from_the_end = IteratorMode::From(&u64::MAX.to_be_bytes(), Direction::Reverse);
        match self.db.iterator_cf(self.log()?, from_the_end).next() {
            None => Ok(None),
            Some(item) => {
                let (key, value) = item.map_err(io::Error::other)?;
                Ok(Some((index_of(&key)?, value)))
            }
        }
    }

    /// Makes all writes so far durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(io::Error::other)
    }

    fn log(&self) -> io::Result<&ColumnFamily> {
        self.db.cf_handle(LOG_FAMILY).ok_or_else(|| io::Error::other("column family log is missing"))
    }
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes =
        key.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "key of the log is not an index"))?;
    Ok(u64::from_be_bytes(bytes))
}
