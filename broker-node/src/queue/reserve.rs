//! Which sequences were given out, and under which Raft id.
//!
//! Sequences belong to the node, not to a queue: a message gets one for all its connectors. They are reserved in
//! blocks of 2^20, and a block is on disk twice – in the store and in a small file beside it – before its first
//! sequence is used. Every start begins a fresh block, so no sequence is used twice, whatever the store lost.
//!
//! A copy of the disk does not know how far the original went on. So every registration with the cluster has a range
//! of its own, which begins where its number says: what a restored copy gives out lies above all that was given out
//! under earlier registrations.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api_types::{NodeEpoch, RaftId, Sequence};

pub(super) const BLOCK_SEQUENCES: u64 = 1 << 20;
const FILE_NAME: &str = "sequences-reserved";
/// Sequences of one registration, as a power of two: eight days at 100,000 messages a second. Who goes on longer runs
/// into the next registration's range, which only matters if that is a copy's.
const REGISTRATION_BITS: u32 = 36;
/// Targets count with signed numbers of 64 bits. Registrations are log indexes; there will not be so many.
const REGISTRATION_MAX: u64 = (1 << (63 - REGISTRATION_BITS)) - 1;

/// Whether this registration has a range of its own. Those behind the last one share its range.
pub(super) fn has_range(node_epoch: NodeEpoch) -> bool {
    node_epoch.0 <= REGISTRATION_MAX
}

/// Where the sequences of a registration begin, unless earlier ones got further.
pub(super) fn first_of(node_epoch: NodeEpoch) -> Sequence {
    Sequence(node_epoch.0.min(REGISTRATION_MAX) << REGISTRATION_BITS)
}

#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    next: u64,
    end: u64,
    /// First sequence of each run of blocks that were appended under one Raft id.
    runs: BTreeMap<u64, RaftId>,
}

impl Blocks {
    /// A block found on disk, in ascending order. Nothing of it is given out again.
    pub fn found(&mut self, start: Sequence, raft_id: RaftId) {
        self.add(start.0, raft_id);
        self.next = self.end;
    }

    /// Skips everything below.
    pub fn skip_to(&mut self, next: u64) {
        self.next = self.next.max(next);
        self.end = self.end.max(self.next);
    }

    /// The start of the block that follows all others; `reserved` once it is on disk.
    pub fn following(&self) -> Sequence {
        Sequence(self.end)
    }

    /// `fresh`: what is left of the block before is given up.
    pub fn reserved(&mut self, start: Sequence, raft_id: RaftId, fresh: bool) {
        self.add(start.0, raft_id);
        if fresh {
            self.next = start.0;
        }
    }

    pub fn left(&self) -> u64 {
        self.end - self.next
    }

    pub fn allocate(&mut self) -> Sequence {
        debug_assert!(self.next < self.end, "a sequence outside a reserved block");
        let sequence = Sequence(self.next);
        self.next += 1;
        sequence
    }

    pub fn next(&self) -> Sequence {
        Sequence(self.next)
    }

    pub fn raft_id(&self, sequence: Sequence) -> RaftId {
        self.runs.range(..=sequence.0).next_back().map(|(_, raft_id)| *raft_id).unwrap_or_default()
    }

    /// The Raft id of a sequence and where the next one's sequences begin: no sealed batch crosses it.
    pub fn run(&self, sequence: Sequence) -> (RaftId, Sequence) {
        let end = self.runs.range(sequence.0 + 1..).next().map_or(u64::MAX, |(start, _)| *start);
        (self.raft_id(sequence), Sequence(end))
    }

    fn add(&mut self, start: u64, raft_id: RaftId) {
        if self.runs.values().next_back() != Some(&raft_id) {
            self.runs.insert(start, raft_id);
        }
        self.end = start + BLOCK_SEQUENCES;
    }
}

/// The end of the last reserved block, in a file of its own.
#[derive(Clone, Debug)]
pub(super) struct ReservedFile {
    dir: PathBuf,
}

impl ReservedFile {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// 0 when there is none; a file that cannot be understood is an error, for guessing could repeat a sequence.
    pub fn read(&self) -> io::Result<u64> {
        let text = match fs::read_to_string(self.dir.join(FILE_NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    pub fn write(&self, end: u64) -> io::Result<()> {
        let temporary = self.dir.join(format!("{FILE_NAME}.new"));
        let mut file = File::create(&temporary)?;
        writeln!(file, "{end}")?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(FILE_NAME))?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_found_block_is_never_given_out_again() {
        let mut blocks = Blocks::default();
        blocks.found(Sequence(0), RaftId(1));
        let start = blocks.following();
        assert_eq!(start, Sequence(BLOCK_SEQUENCES));
        assert_eq!(blocks.left(), 0);
        blocks.reserved(start, RaftId(1), true);
        assert_eq!(blocks.allocate(), Sequence(BLOCK_SEQUENCES));
        assert_eq!(blocks.left(), BLOCK_SEQUENCES - 1);
    }

    #[test]
    fn a_block_reserved_ahead_follows_without_a_gap_and_a_fresh_one_jumps() {
        let mut blocks = Blocks::default();
        blocks.reserved(Sequence(0), RaftId(1), true);
        assert_eq!(blocks.allocate(), Sequence(0));
        blocks.reserved(blocks.following(), RaftId(1), false);
        assert_eq!(blocks.allocate(), Sequence(1));
        blocks.reserved(blocks.following(), RaftId(1007), true);
        assert_eq!(blocks.allocate(), Sequence(2 * BLOCK_SEQUENCES));
        assert_eq!(blocks.run(Sequence(5)), (RaftId(1), Sequence(2 * BLOCK_SEQUENCES)));
        assert_eq!(blocks.raft_id(Sequence(2 * BLOCK_SEQUENCES)), RaftId(1007));
    }

    #[test]
    fn a_copy_of_a_disk_gives_out_nothing_that_the_original_did() {
        let mut original = Blocks::default();
        original.skip_to(first_of(NodeEpoch(57)).0);
        original.reserved(original.following(), RaftId(1042), true);
        let mut copy = original.clone();
        for _ in 0..10_000 {
            original.reserved(original.following(), RaftId(1042), false);
        }
        copy.skip_to(first_of(NodeEpoch(58)).0);
        copy.reserved(copy.following(), RaftId(1042), true);
        assert!(copy.allocate() >= original.following());
        // The original itself never goes back.
        original.skip_to(first_of(NodeEpoch(57)).0);
        assert_eq!(original.following(), Sequence((57 << 36) + 10_001 * BLOCK_SEQUENCES));
        assert_eq!(first_of(NodeEpoch(u64::MAX)).0 >> 63, 0);
        let last = NodeEpoch(REGISTRATION_MAX);
        let behind = NodeEpoch(REGISTRATION_MAX + 1);
        assert!(has_range(last) && !has_range(behind));
        assert_eq!(first_of(last), first_of(behind));
    }

    #[test]
    fn the_file_reads_back_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = ReservedFile::new(dir.path());
        assert_eq!(file.read().expect("absent"), 0);
        file.write(3 * BLOCK_SEQUENCES).expect("writes");
        assert_eq!(file.read().expect("reads"), 3 * BLOCK_SEQUENCES);
        fs::write(dir.path().join(FILE_NAME), "x").expect("writes");
        assert!(file.read().is_err());
    }
}
