//! The metadata service: connectors, assignments and nodes, replicated by Raft; the scheduler that assigns; the leases
//! that say who may act.
//!
//! ```text
//! propose ─► forward (leader-or-forward) ─► raft ─► state::apply ─► watch
//! heartbeat ─► liveness (leader) ─► scheduler::schedule ─► leader loop ─► raft
//! ```

pub mod clock;
pub mod leader;
pub mod liveness;
pub mod rpc;
pub mod scheduler;
pub mod state;
pub mod timings;

pub use timings::Timings;
