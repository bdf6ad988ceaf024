//! The newest entries, as they were appended: who replicates or applies them need not read and decode them again.

use std::collections::VecDeque;

use super::super::types::Entry;

/// Of their encoded form. Every member that follows closely, and the state machine, finds what it needs in here.
const BYTES_MAX: usize = 4 << 20;

/// Without holes; what is older is in the database only.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Recent {
    /// `bytes`: of its envelope. An entry that does not follow the last one begins anew.
    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        let follows = self.entries.back().is_none_or(|(last, _)| last.log_id.index + 1 == entry.log_id.index);
        if !follows {
            self.clear();
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.bytes > BYTES_MAX
            && let Some((_, bytes)) = self.entries.pop_front()
        {
            self.bytes -= bytes;
        }
    }

    /// Takes `end` and what follows it off.
    pub(super) fn truncate(&mut self, end: u64) {
        while let Some((entry, bytes)) = self.entries.back()
            && entry.log_id.index >= end
        {
            self.bytes -= bytes;
            self.entries.pop_back();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The entries of `first..end` up to `bytes_max` (at least one), when the first one is here.
    pub(super) fn get(&self, first: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let oldest = self.entries.front()?.0.log_id.index;
        let skipped = usize::try_from(first.checked_sub(oldest)?).ok()?;
        if skipped >= self.entries.len() || first >= end {
            return None;
        }
        let mut bytes = 0;
        let wanted = self.entries.range(skipped..).take_while(|(entry, of_entry)| {
            let is_first = bytes == 0;
            bytes += of_entry;
            entry.log_id.index < end && (is_first || bytes <= bytes_max)
        });
        Some(wanted.map(|(entry, _)| entry.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::super::super::types::LogId;
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        let log_id = LogId::new_term_index(term, index);
        openraft::impls::Entry { log_id, payload: EntryPayload::Blank }
    }

    fn recent(indexes: std::ops::Range<u64>, bytes: usize) -> Recent {
        let mut recent = Recent::default();
        indexes.for_each(|index| recent.push(entry(1, index), bytes));
        recent
    }

    fn check(recent: &Recent, first: u64, end: u64, bytes_max: usize, expect: Option<std::ops::Range<u64>>) {
        let found = recent.get(first, end, bytes_max).map(|entries| {
            let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
            indexes.first().copied().unwrap_or(0)..indexes.last().map_or(0, |last| last + 1)
        });
        assert_eq!(found, expect, "{first}..{end} of at most {bytes_max} bytes");
    }

    #[test]
    fn only_what_begins_here_is_found() {
        let recent = recent(10..20, 100);
        check(&recent, 9, 12, 10_000, None);
        check(&recent, 10, 12, 10_000, Some(10..12));
        check(&recent, 15, u64::MAX, 10_000, Some(15..20));
        check(&recent, 20, 21, 10_000, None);
        check(&recent, 12, 12, 10_000, None);
        check(&Recent::default(), 0, 1, 10_000, None);
    }

    #[test]
    fn bytes_are_bounded_but_for_the_first_entry() {
        let recent = recent(10..20, 100);
        check(&recent, 10, 20, 350, Some(10..13));
        check(&recent, 10, 20, 300, Some(10..13));
        check(&recent, 10, 20, 1, Some(10..11));
    }

    #[test]
    fn the_oldest_go_and_what_was_taken_off_is_gone() {
        let entries = (BYTES_MAX / 1000) as u64;
        let mut recent = recent(0..entries + 50, 1000);
        let oldest = recent.entries.front().expect("some").0.log_id.index;
        assert!(oldest >= 50 && recent.bytes <= BYTES_MAX, "{oldest}");
        check(&recent, oldest - 1, entries, usize::MAX, None);
        recent.truncate(entries + 40);
        check(&recent, entries + 39, u64::MAX, usize::MAX, Some(entries + 39..entries + 40));
        recent.push(entry(2, entries + 40), 1000);
        let newest = recent.get(entries + 40, u64::MAX, usize::MAX).expect("is there");
        assert_eq!(newest, [entry(2, entries + 40)]);
        // After a snapshot from the leader the log goes on elsewhere.
        recent.push(entry(2, entries + 90), 1000);
        check(&recent, entries + 40, u64::MAX, usize::MAX, None);
        check(&recent, entries + 90, u64::MAX, usize::MAX, Some(entries + 90..entries + 91));
        assert_eq!(recent.bytes, 1000);
    }
}
