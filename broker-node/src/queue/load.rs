//! Reads the state back from the store: at the start, and after a failed write.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::{Incarnation, RaftId, Sequence};

use super::reserve::{Blocks, ReservedFile};
use super::rows::{self, LettersRow, MetaKey, NodeRow, QueueNames, QueueRow, SealedRow};
use super::state::{Queue, Sealed, State};
use super::store::{Batch, Store, StoreError, format};

/// What the store holds.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub queues: BTreeMap<Incarnation, Queue>,
    pub blocks: Blocks,
    pub letters: LettersRow,
    pub node: NodeRow,
    /// Milliseconds the queues were open before this opening.
    pub open_ms: u64,
}

impl Loaded {
    pub fn read(store: &Store, reserved: &ReservedFile) -> Result<Self, StoreError> {
        let mut loaded = Self::default();
        let mut sealed: Vec<(Incarnation, Sequence, SealedRow)> = Vec::new();
        let mut names: BTreeMap<Incarnation, QueueNames> = BTreeMap::new();
        let mut positions: BTreeMap<Incarnation, QueueRow> = BTreeMap::new();
        store.scan_meta(|key, value| {
            match key {
                MetaKey::Block(start) => {
                    loaded.blocks.found(start, rows::decode::<RaftId>(value).map_err(format("a sequence block"))?);
                }
                MetaKey::Clock => loaded.open_ms = rows::decode(value).map_err(format("the clock"))?,
                MetaKey::Letters => loaded.letters = rows::decode(value).map_err(format("the dead letters"))?,
                MetaKey::Names(incarnation) => {
                    names.insert(incarnation, rows::decode(value).map_err(format("a queue's names"))?);
                }
                MetaKey::Node => loaded.node = rows::decode(value).map_err(format("the node's totals"))?,
                MetaKey::Queue(incarnation) => {
                    positions.insert(incarnation, rows::decode(value).map_err(format("a queue"))?);
                }
                MetaKey::Sealed(incarnation, from) => {
                    sealed.push((incarnation, from, rows::decode(value).map_err(format("a sealed batch"))?));
                }
            }
            Ok(())
        })?;
        for (incarnation, row) in positions {
            let names = Arc::new(names.remove(&incarnation).unwrap_or_default());
            loaded.queues.insert(incarnation, Queue { row, ..Queue::new(names, Sequence(0)) });
        }
        for (incarnation, from, row) in sealed {
            if let Some(queue) = loaded.queues.get_mut(&incarnation) {
                queue.sealed.insert(from, Sealed { row, group: 0 });
            }
        }
        loaded.set_heads(store)?;
        loaded.blocks.skip_to(reserved.read().map_err(StoreError::Disk)?);
        Ok(loaded)
    }

    fn set_heads(&mut self, store: &Store) -> Result<(), StoreError> {
        for (incarnation, queue) in &mut self.queues {
            let written = store.last_record(*incarnation)?.map_or(Sequence(0), Sequence::next);
            let head = written.max(queue.row.unsealed_from).max(queue.sealed_end());
            queue.head.send_replace(head);
            self.blocks.skip_to(head.0);
        }
        Ok(())
    }

    /// Puts what was read in the place of what was known. Reservations of submissions that still wait are kept, and
    /// so are the heads that fetches wait on.
    pub fn install(self, state: &mut State) {
        let mut before = std::mem::take(&mut state.queues);
        state.bytes = self.queues.values().map(|queue| queue.row.bytes).sum();
        state.queues = self.queues;
        for (incarnation, queue) in &mut state.queues {
            if let Some(known) = before.remove(incarnation) {
                known.head.send_replace(queue.head());
                queue.head = known.head;
                queue.bounds = known.bounds;
            }
        }
        state.blocks = self.blocks;
        state.letters_synced = self.letters.next;
        state.letters = self.letters;
        state.node = self.node;
    }
}

/// Puts the block that follows all others on disk. `fresh` gives up what is left of the one before: at a start, and
/// under a new identity.
pub(super) fn reserve_block(
    store: &Store,
    file: &ReservedFile,
    blocks: &mut Blocks,
    raft_id: RaftId,
    fresh: bool,
    sync: bool,
) -> Result<(), StoreError> {
    let start = blocks.following();
    file.write(start.0 + super::reserve::BLOCK_SEQUENCES).map_err(StoreError::Disk)?;
    let mut batch = Batch::default();
    batch.put_meta(MetaKey::Block(start), rows::encode(&raft_id).map_err(format("a sequence block"))?);
    store.write(batch, sync)?;
    blocks.reserved(start, raft_id, fresh);
    Ok(())
}
