//! Random histories against a model that shares no code with the queues.

use std::collections::{HashMap, HashSet, VecDeque};

use api_types::RecordId;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append { records: usize, both: bool },
    Seal { records_max: u32 },
    Refetch { records_max: u32 },
    Split { batch: usize, at: usize },
    Commit { batches: usize, dead: usize },
    RepeatCommit,
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6usize, any::<bool>()).prop_map(|(records, both)| Step::Append { records, both }),
        4 => (1..5u32).prop_map(|records_max| Step::Seal { records_max }),
        1 => (1..9u32).prop_map(|records_max| Step::Refetch { records_max }),
        1 => (0..3usize, 1..4usize).prop_map(|(batch, at)| Step::Split { batch, at }),
        3 => (1..3usize, 0..3usize).prop_map(|(batches, dead)| Step::Commit { batches, dead }),
        1 => Just(Step::RepeatCommit),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

/// What the queue of `ONE` must hold.
#[derive(Default)]
struct Model {
    sealed: VecDeque<Vec<u64>>,
    unsealed: VecDeque<u64>,
    queued: u64,
    sent: u64,
    dead_lettered: u64,
    other: u64,
    next_payload: u64,
    last_commit: Option<Commit>,
}

/// The model beside the real thing.
struct History {
    bench: Bench,
    model: Model,
    /// No id may ever stand for two payloads, nor a payload for two ids.
    ids: HashMap<RecordId, u64>,
    delivered: HashSet<u64>,
}

impl History {
    async fn run(&mut self, step: Step) {
        match step {
            Step::Append { records, both } => self.append(records, both).await,
            Step::Seal { records_max } => self.seal(records_max).await,
            Step::Refetch { records_max } => self.refetch(records_max).await,
            Step::Split { batch, at } => self.split(batch, at).await,
            Step::Commit { batches, dead } => self.commit(batches, dead).await,
            Step::RepeatCommit => {
                if let Some(commit) = self.model.last_commit.clone() {
                    self.bench.queues.commit(ONE, EPOCH, commit).await.expect("a repeat is a success");
                }
            }
            Step::Restart => self.bench.restart().await,
            Step::Kill => self.bench = self.bench.crash(),
        }
        self.check().await;
    }

    async fn append(&mut self, records: usize, both: bool) {
        let catalogue = catalogue([target(ONE, "#"), target(TWO, "both")]);
        let messages: Vec<Message> = (0..records)
            .map(|_| {
                let payload = self.model.next_payload;
                self.model.next_payload += 1;
                self.model.unsealed.push_back(payload);
                message(if both { "both" } else { "one" }, &payload.to_string())
            })
            .collect();
        self.bench.submit(&catalogue, messages).expect("let in").await.expect("synced");
        self.model.queued += records as u64;
        self.model.other += if both { records as u64 } else { 0 };
    }

    async fn position(&self) -> Option<Sequence> {
        self.bench.queues.open_queue(ONE, EPOCH).await.ok()
    }

    /// Fetches all sealed batches and checks them; the sequence where the next one begins.
    async fn walk(&mut self, records_max: u32) -> Option<(Vec<SealedBatch>, Sequence)> {
        let mut from = self.position().await?;
        let mut batches = Vec::new();
        for expect in self.model.sealed.clone() {
            let batch = self.bench.batch(from, records_max).await;
            self.meet(&batch, &expect);
            from = batch.to;
            batches.push(batch);
        }
        Some((batches, from))
    }

    fn meet(&mut self, batch: &SealedBatch, expect: &[u64]) {
        let found: Vec<u64> = payloads(&batch.records).iter().map(|text| text.parse().expect("a number")).collect();
        assert_eq!(found, expect);
        for (record, payload) in batch.records.iter().zip(found) {
            assert_eq!(*self.ids.entry(record.id).or_insert(payload), payload, "{} twice", record.id);
            assert!((batch.from..batch.to).contains(&record.id.sequence));
            assert!(!self.delivered.contains(&payload), "{payload} after its commit");
        }
    }

    async fn seal(&mut self, records_max: u32) {
        let Some((_, from)) = self.walk(99).await else { return };
        match self.bench.fetch(from, records_max).await.expect("fetches") {
            Fetched::Empty { .. } => assert!(self.model.unsealed.is_empty()),
            Fetched::Batch(batch) => {
                let records = self.model.unsealed.len().min(records_max as usize);
                let expect: Vec<u64> = self.model.unsealed.drain(..records).collect();
                self.meet(&batch, &expect);
                self.model.sealed.push_back(expect);
            }
        }
    }

    async fn refetch(&mut self, records_max: u32) {
        let _ = self.walk(records_max).await;
    }

    async fn split(&mut self, index: usize, at: usize) {
        let Some((batches, _)) = self.walk(9).await else { return };
        let Some(batch) = batches.get(index).filter(|batch| at < batch.records.len()) else { return };
        self.bench.queues.split(ONE, EPOCH, batch.from, batch.records[at].id.sequence).await.expect("splits");
        let right = self.model.sealed[index].split_off(at);
        self.model.sealed.insert(index + 1, right);
    }

    async fn commit(&mut self, number: usize, dead: usize) {
        let Some((batches, _)) = self.walk(9).await else { return };
        let batches: Vec<SealedBatch> = batches.into_iter().take(number).collect();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return };
        let records: Vec<Sequence> =
            batches.iter().flat_map(|batch| &batch.records).map(|record| record.id.sequence).collect();
        let ends: Vec<(Sequence, End)> = records
            .iter()
            .take(dead)
            .map(|sequence| {
                let end = End::DeadLettered { error_class: "c".into(), error_message: "m".into(), retry_times: 1 };
                (*sequence, end)
            })
            .collect();
        self.model.dead_lettered += ends.len() as u64;
        self.model.sent += (records.len() - ends.len()) as u64;
        let commit = Commit { from: first.from, to: last.to, ends };
        self.bench.queues.commit(ONE, EPOCH, commit.clone()).await.expect("commits");
        self.model.last_commit = Some(commit);
        for batch in self.model.sealed.drain(..batches.len()) {
            self.delivered.extend(batch);
        }
    }

    async fn check(&self) {
        let model = &self.model;
        if model.queued == 0 {
            return;
        }
        let pending = (model.unsealed.len() + model.sealed.iter().map(Vec::len).sum::<usize>()) as u64;
        let expect = Ledger {
            queued: model.queued,
            sent: model.sent,
            dead_lettered: model.dead_lettered,
            pending,
            ..Ledger::default()
        };
        assert_eq!(self.bench.ledger(), expect);
        assert_eq!(self.bench.queues.local_lag(TWO), model.other);
        let letters = self.bench.queues.letters(None, 0, 10_000).await.expect("reads");
        assert_eq!(letters.len() as u64, model.dead_lettered);
    }

    /// Everything that is left, delivered: nothing may be missing.
    async fn finish(mut self) {
        while !self.model.unsealed.is_empty() {
            self.seal(100).await;
        }
        self.commit(usize::MAX, 0).await;
        self.check().await;
        assert_eq!(self.delivered.len() as u64, self.model.next_payload);
        assert_eq!(self.ids.len() as u64, self.model.next_payload);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_promise(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut history = History {
                bench: Bench::new(),
                model: Model::default(),
                ids: HashMap::new(),
                delivered: HashSet::new(),
            };
            for step in steps {
                history.run(step).await;
            }
            history.finish().await;
        });
    }
}
