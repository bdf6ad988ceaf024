//! The nouns of Sluice, without any I/O: ids, what a user wants (`connector`), what the scheduler decided
//! (`assignment`), what a node observed (`status`), the record and its envelope, the dead letter, and the shapes
//! of requests and responses.
//!
//! Every other crate knows this one; this one knows nobody.

pub mod api;
pub mod assignment;
pub mod connector;
pub mod dead_letter;
pub mod envelope;
pub mod failure;
pub mod heartbeat;
pub mod ids;
pub mod record;
pub mod secret;
pub mod status;
pub mod topic;

pub use api::{ApiError, FieldProblem, Reason};
pub use connector::{Connector, ConnectorSpec};
pub use ids::{
    ClusterId, ConnectorName, DiskId, Epoch, Incarnation, LogIndex, NodeEpoch, NodeName, RaftId, RequestId, Revision,
    Sequence,
};
pub use record::{Message, Record, RecordId};
