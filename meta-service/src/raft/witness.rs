//! A read index without a round of heartbeats, where the asker is a voter that proves the leadership by its own vote.
//!
//! ```text
//! a read begins at F ─► F asks its own Raft for the term of its vote ─► asks L, with that term
//! L, in its own Raft, at one moment: leads a term ≥ F's; voters; commit index ─► answers
//! ```
//!
//! **Why that is enough.** Let L lead term T at the moment it looks. Its commit index has everything that was answered
//! before the read began, unless a leader of a later term answered something before: what terms before T committed
//! stands in L's log before its first entry of T, and that one is committed (asked for below); what L answered itself,
//! it had committed. So let T' be the *first* later term with a leader that was elected before the read began.
//!
//! - *By which voters?* L's newest membership entry is committed, in T or before, so the log of T's successor has it (the
//!   completeness of leaders), and everything it has behind L's first entry of T was written by L, which has no newer one.
//!   So T' was elected by a majority of the voters that L looks at.
//! - *By which votes?* Not by L's: its vote is still for T, later. Not by F's: its vote was for a term ≤ T when it looked,
//!   after the read began, and votes do not go back. (Both know their votes from the disk at a start, before they answer.)
//! - *So by the others alone,* and [`read_index`] refuses when they are a majority. Of three voters one is left; of four
//!   two, of three that are needed; of five three, which could have elected T': one more witness would be needed.
//!
//! Whatever was answered before the read began by a still later leader, was answered after T' had been elected, for the
//! first of them is T'. Who gets no read index here needs the round of heartbeats.

use std::collections::BTreeSet;

use api_types::{LogIndex, RaftId};
use openraft::RaftState;
use serde::{Deserialize, Serialize};

use super::node::ReadIndex;
use super::types::{LogId, Types};

/// What a member knows of its own vote, at a moment after the read began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Witness {
    pub raft_id: RaftId,
    /// It has voted for nobody of a later term.
    pub term: u64,
}

/// What a member's Raft knows at one moment.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// The term that it leads.
    leads: Option<u64>,
    committed: Option<LogId>,
    /// `None` while a change of the members is under way.
    voters: Option<BTreeSet<u64>>,
}

impl Moment {
    pub(super) fn of(state: &RaftState<Types>, here: RaftId) -> Self {
        let vote = state.vote_ref();
        let members = state.membership_state.effective();
        let settled = members.log_id() == state.membership_state.committed().log_id();
        let voters = match members.get_joint_config().as_slice() {
            [voters] if settled => Some(voters.clone()),
            _ => None,
        };
        Self {
            // A vote of its own that was granted by a majority; one from before a restart is no longer taken for that.
            leads: (vote.committed && vote.leader_id.voted_for == here.0).then_some(vote.leader_id.term),
            committed: state.local_committed().copied(),
            voters,
        }
    }
}

/// The read index, if `here` led at that moment and the witness's vote and its own leave no majority.
pub(super) fn read_index(moment: &Moment, here: RaftId, witness: Witness) -> Option<ReadIndex> {
    let term = moment.leads?;
    let committed = moment.committed.filter(|committed| committed.leader_id.term == term)?;
    let voters = moment.voters.as_ref()?;
    if witness.term > term {
        return None;
    }
    let others = voters.iter().filter(|voter| **voter != here.0 && **voter != witness.raft_id.0).count();
    let majority = voters.len() / 2 + 1;
    (others < majority).then_some(ReadIndex { term, index: LogIndex(committed.index) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: RaftId = RaftId(1);

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new_term_index(term, index)
    }

    /// Node 1 leads term 7 and has committed an entry of it, of so many voters.
    fn leading(voters: u64) -> Moment {
        Moment { leads: Some(7), committed: Some(log_id(7, 40)), voters: Some((1..=voters).collect()) }
    }

    fn witness(raft_id: u64, term: u64) -> Witness {
        Witness { raft_id: RaftId(raft_id), term }
    }

    fn check(moment: &Moment, witness: Witness, expect: bool) {
        let expect = expect.then_some(ReadIndex { term: 7, index: LogIndex(40) });
        assert_eq!(read_index(moment, HERE, witness), expect, "{moment:?} {witness:?}");
    }

    #[test]
    fn one_witness_is_enough_where_the_others_are_no_majority() {
        for (voters, expect) in [(1, true), (2, true), (3, true), (4, true), (5, false), (6, false), (7, false)] {
            check(&leading(voters), witness(2, 7), expect);
        }
    }

    #[test]
    fn a_witness_that_has_no_vote_or_is_the_leader_itself_proves_nothing() {
        for raft_id in [1, 9] {
            check(&leading(3), witness(raft_id, 7), false);
        }
    }

    #[test]
    fn a_witness_may_have_voted_for_nobody_later() {
        for (term, expect) in [(0, true), (6, true), (7, true), (8, false)] {
            check(&leading(3), witness(2, term), expect);
        }
    }

    #[test]
    fn only_a_leader_that_has_committed_in_its_term_answers_and_while_the_members_stay() {
        check(&Moment { leads: None, ..leading(3) }, witness(2, 7), false);
        check(&Moment { committed: None, ..leading(3) }, witness(2, 7), false);
        check(&Moment { committed: Some(log_id(6, 40)), ..leading(3) }, witness(2, 7), false);
        check(&Moment { voters: None, ..leading(3) }, witness(2, 7), false);
    }

    /// A model of elections, writes and reads as they may interleave: what Raft itself keeps – a vote never goes back, a
    /// majority elects, a majority commits, a new leader has what was committed – is taken for granted.
    #[derive(Debug)]
    struct Model {
        /// Term of each node's vote.
        votes: Vec<u64>,
        /// Of each node, the last term that it was elected in, and what it knows as committed: term and index.
        leads: Vec<Option<(u64, LogId)>>,
        /// Last index that a client was answered for.
        answered: u64,
        /// A read at each node: what was answered before it began, and the node's witness.
        reads: Vec<Option<(u64, Witness)>>,
        proved: u64,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The candidate, and who hears it.
        Elect {
            candidate: usize,
            heard: u8,
        },
        /// The leader, and who takes the entry.
        Write {
            leader: usize,
            taken: u8,
        },
        BeginRead {
            reader: usize,
        },
        /// Some node that may take itself for the leader looks.
        Look {
            reader: usize,
            leader: usize,
        },
    }

    impl Model {
        fn new(voters: usize) -> Self {
            Self {
                votes: vec![0; voters],
                leads: vec![None; voters],
                answered: 0,
                reads: vec![None; voters],
                proved: 0,
            }
        }

        /// Those of `asked`, and the node itself, that do not know a later term; from now on they know this one.
        fn follow(&mut self, node: usize, asked: u8, term: u64, newer: bool) -> bool {
            let mut followers = 0;
            for (at, vote) in self.votes.iter_mut().enumerate() {
                let fits = if newer { *vote < term } else { *vote <= term };
                if (at == node || asked >> at & 1 == 1) && fits {
                    *vote = term;
                    followers += 1;
                }
            }
            followers > self.votes.len() / 2
        }

        fn step(&mut self, step: Step) {
            let nodes = self.votes.len();
            match step {
                Step::Elect { candidate, heard } => {
                    let candidate = candidate % nodes;
                    let term = self.votes[candidate] + 1;
                    if self.follow(candidate, heard, term, true) {
                        // It has all that was committed, and does not know yet how much of its log that is.
                        self.leads[candidate] = Some((term, log_id(term - 1, 0)));
                    }
                }
                Step::Write { leader, taken } => {
                    let leader = leader % nodes;
                    let Some((term, _)) = self.leads[leader] else { return };
                    if self.votes[leader] == term && self.follow(leader, taken, term, false) {
                        self.answered += 1;
                        self.leads[leader] = Some((term, log_id(term, self.answered)));
                    }
                }
                Step::BeginRead { reader } => {
                    let reader = reader % nodes;
                    self.reads[reader] = Some((self.answered, witness(reader as u64, self.votes[reader])));
                }
                Step::Look { reader, leader } => self.look(reader % nodes, leader % nodes),
            }
        }

        fn look(&mut self, reader: usize, leader: usize) {
            let (Some((answered, witness)), Some((term, committed))) = (self.reads[reader], self.leads[leader]) else {
                return;
            };
            let leads = (self.votes[leader] == term).then_some(term);
            let voters = Some((0..self.votes.len() as u64).collect());
            let moment = Moment { leads, committed: Some(committed), voters };
            if let Some(read) = read_index(&moment, RaftId(leader as u64), witness) {
                assert!(read.index.0 >= answered, "stale: {read:?} when {answered} had been answered, {self:?}");
                self.proved += 1;
            }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let node = || 0..7_usize;
        let step = prop_oneof![
            (node(), any::<u8>()).prop_map(|(candidate, heard)| Step::Elect { candidate, heard }),
            (node(), any::<u8>()).prop_map(|(leader, taken)| Step::Write { leader, taken }),
            node().prop_map(|reader| Step::BeginRead { reader }),
            (node(), node()).prop_map(|(reader, leader)| Step::Look { reader, leader }),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_was_answered_before_a_read_began_is_in_its_view(voters in 1..=7_usize, steps in steps()) {
            let mut model = Model::new(voters);
            steps.into_iter().for_each(|step| model.step(step));
            prop_assert!(voters < 5 || model.proved == 0, "a witness is not enough for {voters} voters");
        }
    }
}
