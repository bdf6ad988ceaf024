//! The second phase: every free task gets the node that has the fewest, of those that may run it.

use api_types::assignment::Assignment;
use api_types::{Connector, RaftId};

use super::sort::{Board, Sorted, explain, fits};
use super::{Plan, Presence, reason};
use crate::state::{Node, NodeState, PlanStep};

/// Most names in a reason.
const NAMES_MAX: usize = 5;

/// Returns how many tasks wait for a node that is coming back.
pub(super) fn place(board: &mut Board, tasks: &Sorted, plan: &mut Plan) -> usize {
    let mut waiting = 0;
    let mut free: Vec<(usize, &Connector, &Assignment)> = Vec::with_capacity(tasks.free.len());
    for (connector, task) in &tasks.free {
        if let Some(Presence::Joining { awaited }) = reserved(board, connector, task) {
            plan.wake_in(awaited);
            waiting += 1;
            continue;
        }
        let choice = board.seats.values().filter(|seat| fits(connector, seat.node)).count();
        free.push((choice, connector, task));
    }
    // Those with the least choice first; the rest can give way to them.
    free.sort_by_key(|(choice, connector, _)| (*choice, connector.incarnation));
    for (choice, connector, task) in free {
        if choice > 0 {
            assign(board, connector, task, choice, plan);
        } else if board.view.moves_in.is_zero() {
            // A new leader that has not heard everybody knows too little to give a reason.
            explain(plan, connector.incarnation, task, &why_idle(board, connector));
        }
    }
    waiting
}

/// The presence of the node that is about to take its own task back.
fn reserved(board: &Board, connector: &Connector, task: &Assignment) -> Option<Presence> {
    let last = task.last_node?;
    let node = board.state.node_up(last).filter(|node| fits(connector, node))?;
    let seen = board.view.nodes.get(&last).filter(|seen| seen.node_epoch == node.node_epoch && !seen.stopping)?;
    match seen.presence {
        Presence::Joining { .. } => Some(seen.presence),
        Presence::Alive | Presence::Silent => None,
    }
}

fn assign(board: &mut Board, connector: &Connector, task: &Assignment, choice: usize, plan: &mut Plan) {
    let last = task.last_node;
    let emptiest = board
        .seats
        .iter_mut()
        .filter(|(_, seat)| fits(connector, seat.node))
        .min_by_key(|(raft_id, seat)| (seat.load, Some(**raft_id) != last, **raft_id));
    let Some((node, seat)) = emptiest else { return };
    let load = seat.load;
    seat.load += 1;
    let (node, node_epoch, name) = (*node, seat.node.node_epoch, seat.node.name.as_str());
    let why = if last == Some(node) {
        format!("back on {name}, which ran it before")
    } else {
        let cause = reason::cause(board.state, board.view, last);
        format!("{cause}{name} had the fewest tasks ({load}) of the nodes that may run it ({choice})")
    };
    let incarnation = connector.incarnation;
    plan.steps.push(PlanStep::Assign { incarnation, expect_epoch: task.epoch, node, node_epoch, why });
}

fn why_idle(board: &Board, connector: &Connector) -> String {
    let kind = &connector.spec.kind;
    let offering: Vec<&Node> = board
        .state
        .nodes
        .values()
        .map(|node| &**node)
        .filter(|node| node.state != NodeState::Admitted && node.kinds.contains(kind))
        .collect();
    if offering.is_empty() {
        return format!("no node offers kind {kind}");
    }
    let fitting: Vec<&Node> = offering.into_iter().filter(|node| fits(connector, node)).collect();
    if fitting.is_empty() {
        let placement = &connector.spec.placement;
        return format!(
            "no node that offers kind {kind} is allowed by placement (nodes: {}; zones: {})",
            listed(&placement.nodes),
            listed(&placement.zones)
        );
    }
    let mut names: Vec<String> =
        fitting.iter().map(|node| format!("{} ({})", node.name, absence(board, node.raft_id))).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the nodes that may run it are not available: {}{more}", names.join(", "))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "any".to_owned() } else { names.join(", ") }
}

fn absence(board: &Board, node: RaftId) -> &'static str {
    match board.state.nodes.get(&node).map(|node| &node.state) {
        Some(NodeState::Fenced { .. }) => "fenced",
        Some(NodeState::Left) => "stopped",
        Some(NodeState::Admitted) | None => "not started",
        Some(NodeState::Up) => match board.view.nodes.get(&node) {
            Some(seen) if seen.stopping => "stopping",
            Some(_) | None => "without a lease",
        },
    }
}
