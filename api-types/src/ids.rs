//! Newtype ids: two bare `u64`s never travel side by side.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

/// A random 128-bit id, written as 32 hexadecimal digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    u128::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

number_id!(
    /// Index of an entry in the Raft log.
    LogIndex
);
number_id!(
    /// The Raft id of one disk. Never the ordinal of a pod and never used again: 1–7 come from the bootstrap, the
    /// others are 1000 + the log index of the disk's admission.
    RaftId
);
number_id!(
    /// One registration of a node process: the log index of the entry that registered it.
    NodeEpoch
);
number_id!(
    /// One life of a connector name: the log index of the entry that created it. Queues are addressed by it.
    Incarnation
);
number_id!(
    /// One hand-over of a task: the log index of the entry that assigned it. Whoever carries a lower one is refused.
    Epoch
);
number_id!(
    /// One version of a connector's specification: the log index of its last change.
    Revision
);
number_id!(
    /// Place of a record in one node's queue. Never used twice on one disk; has gaps.
    Sequence
);

text_id!(
    /// The name a user gave a connector: 1–128 characters, case-sensitive.
    ConnectorName
);
text_id!(
    /// `node.name` of the configuration.
    NodeName
);

random_id!(
    /// Made at bootstrap, the same on every member.
    ClusterId
);
random_id!(
    /// 128 random bits made with the data directory.
    DiskId
);
random_id!(
    /// Names one attempt of a client to change something; a repeat gets the first reply.
    RequestId
);

impl Sequence {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_hexadecimal_in_json() {
        let id = DiskId(0xab);
        let text = serde_json::to_string(&id).expect("serializes");
        assert_eq!(text, "\"000000000000000000000000000000ab\"");
        assert_eq!(serde_json::from_str::<DiskId>(&text).expect("parses"), id);
    }
}
