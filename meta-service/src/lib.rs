//! The metadata service: connectors, assignments and nodes, replicated by Raft; the scheduler that assigns; the leases
//! that say who may act.
//!
//! ```text
//! propose ─► forward (leader-or-forward) ─► raft ─► state::apply ─► watch
//! heartbeat ─► liveness (leader) ─► scheduler::schedule ─► leader loop ─► raft
//! ```

mod boot;
pub mod clock;
mod durable_file;
mod duties;
mod fatal;
mod forward;
mod handle;
mod identity;
pub mod leader;
pub mod liveness;
pub mod load;
mod local_leader;
mod options;
mod peers;
mod raft;
mod reads;
mod replica;
mod retry;
pub mod rpc;
pub mod scheduler;
mod seat;
mod service;
mod shared;
mod standing;
pub mod state;
mod status;
mod system_clock;
pub mod timings;

pub use boot::BootStatus;
pub use fatal::{EXIT_BAD_DISK, FatalReason};
pub use handle::{Handle, HeartbeatError, ProposeError};
pub use identity::Identity;
pub use options::{MetaOptions, OptionsError, SNAPSHOT_EVERY_DEFAULT};
pub use reads::{ReadError, ReadView};
pub use service::{MetaService, StartError};
pub use shared::ProposeObserver;
pub use status::{RaftStatus, Role};
pub use system_clock::SystemClock;
pub use timings::Timings;
