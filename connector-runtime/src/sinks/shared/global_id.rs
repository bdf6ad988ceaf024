//! A record's name among all clusters.

use std::fmt;

use api_types::{ClusterId, RecordId};

/// A record's id is unique within its cluster only, and clusters may share a table or an index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GlobalId {
    pub(crate) cluster: ClusterId,
    pub(crate) record: RecordId,
}

impl fmt::Display for GlobalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.cluster, self.record)
    }
}
