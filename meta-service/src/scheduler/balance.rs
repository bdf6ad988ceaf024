//! The third phase: tasks move from full nodes to empty ones, a bounded number at a time and only when nothing else is
//! in motion.
//!
//! A move needs two nodes whose counts differ by at least 2, one of them outside the band. So every move makes the
//! counts more even, and with equal counts there is none.

use api_types::{Epoch, Incarnation, RaftId};

use super::sort::{Board, fits};
use super::{Movement, Plan, Policy};
use crate::state::PlanStep;

/// The greatest and least count that needs no move.
#[derive(Clone, Copy)]
struct Band {
    least: usize,
    most: usize,
}

/// Fewer than this never pays for a gap in delivery: a small cluster can still move two at a time.
const MOVES_LEAST: usize = 2;

pub(super) fn balance(board: &mut Board, policy: &Policy, plan: &mut Plan) {
    let nodes = board.seats.len();
    if nodes < 2 {
        return;
    }
    if !board.view.moves_in.is_zero() {
        plan.wake_in(board.view.moves_in);
        return;
    }
    let total: usize = board.seats.values().map(|seat| seat.load).sum();
    let width = total * policy.band_percent as usize / (100 * nodes);
    let band = Band { least: (total / nodes).saturating_sub(width), most: total.div_ceil(nodes) + width };
    let moves_max = policy.max_moves.map_or(nodes.max(MOVES_LEAST), |moves| moves as usize);
    for _ in 0..moves_max {
        let Some((next, epoch)) = find_move(board, band) else { break };
        carry_out(board, next, epoch, total.div_ceil(nodes), plan);
    }
    if let Some(wait) = board.view.cooling.values().min() {
        plan.wake_in(*wait);
    }
}

fn find_move(board: &Board, band: Band) -> Option<(Movement, Epoch)> {
    let mut by_load: Vec<(usize, RaftId)> = board.seats.iter().map(|(raft_id, seat)| (seat.load, *raft_id)).collect();
    by_load.sort_unstable();
    for (least, to) in &by_load {
        for (most, from) in by_load.iter().rev() {
            if *most < least + 2 {
                break;
            }
            let outside = *most > band.most || *least < band.least;
            if let Some((incarnation, epoch)) = outside.then(|| movable(board, *from, *to)).flatten() {
                return Some((Movement { incarnation, from: *from, to: *to }, epoch));
            }
        }
    }
    None
}

/// The task to move: one that the receiver ran before it was restarted, else the one that was placed last.
fn movable(board: &Board, from: RaftId, to: RaftId) -> Option<(Incarnation, Epoch)> {
    let receiver = &board.seats[&to];
    let candidates = board.seats[&from].tasks.iter().filter(|(incarnation, _)| {
        !board.view.cooling.contains_key(incarnation) && fits(&board.state.connectors[incarnation], receiver.node)
    });
    let own =
        |incarnation: &Incarnation| receiver.returned && board.state.assignments[incarnation].last_node == Some(to);
    candidates
        .max_by_key(|(incarnation, epoch)| (own(incarnation), **epoch, **incarnation))
        .map(|(incarnation, epoch)| (*incarnation, *epoch))
}

fn carry_out(board: &mut Board, next: Movement, epoch: Epoch, share: usize, plan: &mut Plan) {
    let (from, to) = (board.name(next.from), board.name(next.to));
    let Some(receiver) = board.seats.get_mut(&next.to) else { return };
    let receiving = receiver.load;
    receiver.load += 1;
    let Some(donor) = board.seats.get_mut(&next.from) else { return };
    let why =
        format!("moves to balance: {from} has {} tasks, {to} has {receiving}, a fair share is {share}", donor.load);
    donor.load -= 1;
    donor.tasks.remove(&next.incarnation);
    plan.steps.push(PlanStep::Release { incarnation: next.incarnation, expect_epoch: epoch, why });
    plan.moving.push(next);
}
