//! What writing into a table means, whatever the database: a batch is one transaction, and either all of its rows are
//! kept or none.

use std::time::Duration;

use super::pool::PoolOptions;
use crate::sink::{Batch, Outcome, RecordFault, TargetFault, TargetFaultKind};

/// How long one transaction may take. Then it is called off, and its records are asked for in smaller ones: rows that
/// are slow one by one are too many together. A table that is locked is told apart by the server, much earlier.
pub(crate) const TRANSACTION_WITHIN: Duration = Duration::from_secs(60);

/// The statement and the table do not fit together, and only a person can change that.
pub(crate) const DOES_NOT_FIT: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT");

/// Whose an error of the server is.
#[derive(Clone, Debug)]
pub(crate) enum Judgement {
    Record(RecordFault),
    Target(TargetFault),
}

/// Faults of records by their place in the batch.
pub(crate) type Unfit = Vec<(usize, RecordFault)>;

/// What is known of a transaction also when nobody waits for its end any more.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Found without the server.
    pub(crate) unfit: Unfit,
    /// COMMIT was sent: whether the rows stay is no longer ours to say.
    pub(crate) committing: bool,
    /// COMMIT was confirmed, and something after it was not.
    pub(crate) committed: bool,
}

impl Progress {
    /// Nobody has answered for [`TRANSACTION_WITHIN`].
    pub(crate) fn too_slow(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        if self.committed {
            return batch.all(&Outcome::Delivered);
        }
        let what = if self.committing { "answer to COMMIT" } else { "answer" };
        let message = format!("no {what} within {} s", TRANSACTION_WITHIN.as_secs());
        // What was found unfit was never sent.
        let sent = batch.records.len().saturating_sub(self.unfit.len());
        // One record alone is as small as it gets: waiting for it is the target's fault.
        if sent > 1 && !self.committing {
            batch.all(&Outcome::Unclear(RecordFault::refused("too_slow", message)))
        } else {
            batch.all(&Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, message)))
        }
    }
}

/// Nothing of the batch was kept, because of these records, as far as they are known.
pub(crate) fn none_kept(batch: &Batch<'_>, judgement: Judgement, culprits: Unfit) -> Vec<Outcome> {
    match judgement {
        Judgement::Target(fault) => batch.all(&Outcome::TargetFault(fault)),
        Judgement::Record(fault) => {
            let mut outcomes = batch.all(&Outcome::Unclear(fault));
            put_faults(&mut outcomes, culprits);
            outcomes
        }
    }
}

pub(crate) fn put_faults(outcomes: &mut [Outcome], faults: Unfit) {
    for (place, fault) in faults {
        if let Some(outcome) = outcomes.get_mut(place) {
            *outcome = Outcome::RecordFault(fault);
        }
    }
}

/// What happens to a row that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// The server decides: with a unique index it refuses.
    Refuse,
    /// The row is ours, from before.
    Skip {
        id_column: String,
    },
    Replace {
        key: Vec<String>,
    },
}

impl Conflict {
    pub(crate) fn new(id_column: Option<&str>, upsert: bool, key: Option<&[String]>) -> Self {
        match (id_column, key) {
            (Some(column), _) => Self::Skip { id_column: column.to_owned() },
            (None, Some(key)) if upsert => Self::Replace { key: key.to_vec() },
            (None, Some(_) | None) => Self::Refuse,
        }
    }

    /// Where the key's columns stand among those that are written.
    pub(crate) fn places_of_key(&self, columns: &[String]) -> Result<Vec<usize>, TargetFault> {
        let key = match self {
            Self::Replace { key } => key.as_slice(),
            Self::Refuse | Self::Skip { .. } => &[],
        };
        let place = |column: &String| {
            columns.iter().position(|name| name == column).ok_or_else(|| {
                let message = format!("conflict_columns has {column}, which is not among the columns that are written");
                TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), message)
            })
        };
        key.iter().map(place).collect()
    }
}

/// The columns that are written, and what they get: those of `ours` that are there, and the column for the id.
pub(crate) fn written_columns<S>(
    table: &str,
    ours: impl IntoIterator<Item = (&'static str, S)>,
    is_there: impl Fn(&str) -> bool,
    id: Option<(&str, S)>,
) -> Result<(Vec<String>, Vec<S>), TargetFault> {
    let (mut known, mut columns) = (Vec::new(), Vec::new());
    for (name, source) in ours {
        known.push(name);
        if is_there(name) {
            columns.push((name.to_owned(), source));
        }
    }
    if columns.is_empty() {
        let message = format!("{table} has none of the columns {}", known.join(", "));
        return Err(TargetFault::new(TargetFaultKind::Missing, message));
    }
    if let Some((id_column, source)) = id {
        columns.retain(|(name, _)| name != id_column);
        columns.push((id_column.to_owned(), source));
    }
    Ok(columns.into_iter().unzip())
}

/// The seed's fields of a pool.
pub(crate) struct PoolSeconds {
    pub(crate) connect: u64,
    pub(crate) acquire: u64,
    /// 0 is off, here and below.
    pub(crate) idle: u64,
    pub(crate) lifetime: u64,
}

impl PoolSeconds {
    pub(crate) fn options(&self, min_size: u32, max_size: u32) -> PoolOptions {
        let unless_off = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        PoolOptions {
            max_size,
            min_size,
            connect_timeout: Duration::from_secs(self.connect),
            acquire_timeout: Duration::from_secs(self.acquire),
            idle_timeout: unless_off(self.idle),
            max_lifetime: unless_off(self.lifetime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::BatchId;
    use crate::sinks::opened::record;

    fn check(progress: &Progress, expect: fn(&Outcome) -> bool) {
        let records = [record(1, "x"), record(2, "y")];
        let [first, last] = &records;
        let id = BatchId {
            raft_id: first.id.raft_id,
            incarnation: first.id.incarnation,
            from: first.id.sequence,
            to: last.id.sequence.next(),
        };
        let outcomes = progress.too_slow(&Batch { id, records: &[first, last] });
        assert!(outcomes.len() == 2 && outcomes.iter().all(expect), "{progress:?}: {outcomes:?}");
    }

    #[test]
    fn what_was_sent_and_confirmed_says_who_is_too_slow() {
        let unfit = vec![(0, RecordFault::offline("too_long", "x"))];
        let committing = Progress { committing: true, ..Progress::default() };
        let committed = Progress { committing: true, committed: true, ..Progress::default() };
        check(&Progress::default(), |outcome| matches!(outcome, Outcome::Unclear(_)));
        check(&Progress { unfit, ..Progress::default() }, |outcome| matches!(outcome, Outcome::TargetFault(_)));
        check(&committing, |outcome| matches!(outcome, Outcome::TargetFault(_)));
        check(&committed, |outcome| matches!(outcome, Outcome::Delivered));
    }
}
