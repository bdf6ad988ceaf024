//! What the answers to a batch come to, once it is known what the batch has met: a decision about values only.

use super::fault::{self, DOES_NOT_FIT};
use super::plan::changed;
use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};

/// What became of one insert, as far as it can say itself.
#[derive(Debug)]
pub(super) enum Answer {
    Delivered,
    /// Not sent: the values do not fit the types that the columns had.
    Unsendable(RecordFault),
    /// With the server's words: the value's fault, or the statement's.
    Invalid(String),
    Target(TargetFault),
    /// Not sent, because of one before it.
    Held,
}

/// What is known after a batch.
#[derive(Debug)]
pub(super) struct Afterwards {
    pub(super) table: Met,
    pub(super) statement: Statement,
}

/// Whether the batch has met the table that it was written for.
#[derive(Debug)]
pub(super) enum Met {
    Same,
    /// The columns are others now.
    Another,
    /// Nobody could say.
    Unknown(TargetFault),
}

/// Whether the server takes the statement with values that nobody can object to.
#[derive(Debug)]
pub(super) enum Statement {
    Taken,
    /// With these words.
    Refused(String),
    Unknown(TargetFault),
}

impl Answer {
    /// Whether the record would end by what one node says about it.
    pub(super) fn is_refused(&self, after: &Afterwards) -> bool {
        let Self::Invalid(said) = self else { return false };
        match (&after.table, &after.statement) {
            (Met::Same, Statement::Taken) => true,
            (Met::Same, Statement::Refused(words)) => words != said,
            (Met::Same, Statement::Unknown(_)) | (Met::Another | Met::Unknown(_), _) => false,
        }
    }

    /// Of a refused record, with the answer to the same insert later on: only what is said twice counts.
    pub(super) fn confirmed_by(self, again: Self) -> Self {
        match (self, again) {
            (Self::Invalid(said), Self::Invalid(words)) if said == words => Self::Invalid(said),
            (_, again @ (Self::Target(_) | Self::Held)) => again,
            (_, Self::Delivered | Self::Unsendable(_) | Self::Invalid(_)) => Self::Target(of_two_minds()),
        }
    }

    pub(super) fn outcome(self, after: &Afterwards) -> Outcome {
        let answer = match self {
            Self::Target(fault) => return Outcome::TargetFault(fault),
            Self::Held => return Outcome::TargetFault(TargetFault::held()),
            answer @ (Self::Delivered | Self::Unsendable(_) | Self::Invalid(_)) => answer,
        };
        match &after.table {
            Met::Another => Outcome::TargetFault(changed()),
            Met::Unknown(fault) => Outcome::TargetFault(fault.clone()),
            Met::Same => answer.last_word(&after.statement),
        }
    }

    /// The table is as it was.
    fn last_word(self, statement: &Statement) -> Outcome {
        match self {
            Self::Delivered => Outcome::Delivered,
            Self::Unsendable(fault) => Outcome::RecordFault(fault),
            Self::Invalid(said) => match statement {
                Statement::Refused(words) if *words == said => {
                    Outcome::TargetFault(TargetFault::new(DOES_NOT_FIT, said))
                }
                // What is said about this record is not said about the statement.
                Statement::Taken | Statement::Refused(_) => Outcome::RecordFault(fault::refused(said)),
                Statement::Unknown(fault) => Outcome::TargetFault(fault.clone()),
            },
            Self::Target(fault) => Outcome::TargetFault(fault),
            Self::Held => Outcome::TargetFault(TargetFault::held()),
        }
    }
}

/// Nobody's fault: the same record is written again, and its table looked at after that.
fn of_two_minds() -> TargetFault {
    let fault = TargetFault::new(TargetFaultKind::Interrupted, "nodes say different things about the same row");
    TargetFault { reopen: false, ..fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down() -> TargetFault {
        TargetFault::new(TargetFaultKind::Down, "gone")
    }

    fn unsendable() -> RecordFault {
        RecordFault::offline("not_utf8", "no text")
    }

    fn check(table: Met, statement: Statement, expect: [Outcome; 5]) {
        let after = Afterwards { table, statement };
        let answers = [
            Answer::Delivered,
            Answer::Unsendable(unsendable()),
            Answer::Invalid("no".to_owned()),
            Answer::Target(TargetFault::new(TargetFaultKind::Full, "full")),
            Answer::Held,
        ];
        assert_eq!(answers.map(|answer| answer.outcome(&after)), expect, "{after:?}");
    }

    #[test]
    fn nothing_is_final_before_it_is_known_what_the_batch_has_met() {
        let full = || Outcome::TargetFault(TargetFault::new(TargetFaultKind::Full, "full"));
        let held = || Outcome::TargetFault(TargetFault::held());
        let refused = || Outcome::RecordFault(fault::refused("no".to_owned()));
        let (alone, gone) = (Outcome::RecordFault(unsendable()), Outcome::TargetFault(down()));
        let does_not_fit = Outcome::TargetFault(TargetFault::new(DOES_NOT_FIT, "no"));
        let sure = |invalid| [Outcome::Delivered, alone.clone(), invalid, full(), held()];
        check(Met::Same, Statement::Taken, sure(refused()));
        check(Met::Same, Statement::Refused("no".to_owned()), sure(does_not_fit));
        check(Met::Same, Statement::Refused("another thing".to_owned()), sure(refused()));
        check(Met::Same, Statement::Unknown(down()), sure(gone.clone()));
        let unsure = |one: &Outcome| [one.clone(), one.clone(), one.clone(), full(), held()];
        check(Met::Another, Statement::Taken, unsure(&Outcome::TargetFault(changed())));
        check(Met::Unknown(down()), Statement::Taken, unsure(&gone));
    }

    #[test]
    fn a_record_ends_only_by_what_is_said_twice() {
        let invalid = |words: &str| Answer::Invalid(words.to_owned());
        let refused = |words: &str| Statement::Refused(words.to_owned());
        for (answer, table, statement, expect) in [
            (invalid("no"), Met::Same, Statement::Taken, true),
            (invalid("no"), Met::Same, refused("another thing"), true),
            (invalid("no"), Met::Same, refused("no"), false),
            (invalid("no"), Met::Same, Statement::Unknown(down()), false),
            (invalid("no"), Met::Another, Statement::Taken, false),
            (invalid("no"), Met::Unknown(down()), Statement::Taken, false),
            (Answer::Delivered, Met::Same, Statement::Taken, false),
            (Answer::Unsendable(unsendable()), Met::Same, Statement::Taken, false),
            (Answer::Target(down()), Met::Same, Statement::Taken, false),
            (Answer::Held, Met::Same, Statement::Taken, false),
        ] {
            let after = Afterwards { table, statement };
            assert_eq!(answer.is_refused(&after), expect, "{answer:?} {after:?}");
        }
        let two_minds = || Outcome::TargetFault(of_two_minds());
        for (again, expect) in [
            (invalid("no"), Outcome::RecordFault(fault::refused("no".to_owned()))),
            (invalid("another thing"), two_minds()),
            (Answer::Delivered, two_minds()),
            (Answer::Target(down()), Outcome::TargetFault(down())),
            (Answer::Held, Outcome::TargetFault(TargetFault::held())),
        ] {
            let after = Afterwards { table: Met::Same, statement: Statement::Taken };
            assert_eq!(invalid("no").confirmed_by(again).outcome(&after), expect);
        }
    }
}
