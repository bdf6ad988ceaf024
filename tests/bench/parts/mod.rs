//! What is measured, one module each.

pub mod end_to_end;
pub mod failover;
pub mod idle;
pub mod ingest;
pub mod metadata;
pub mod sink;
pub mod sinks;

use std::fmt;

use anyhow::{Result, bail};

use crate::Effort;
use crate::table::Table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Ingest,
    EndToEnd,
    Sink,
    Metadata,
    Failover,
    Idle,
    /// One kind of connector, of [`sinks::KINDS`].
    Sinks(&'static str),
}

/// Of the names of those.
const SINKS: &str = "sinks";

impl Part {
    /// Of `make bench`; the kinds of connectors have a command of their own.
    pub const ALL: [Self; 6] = [Self::Ingest, Self::EndToEnd, Self::Sink, Self::Metadata, Self::Failover, Self::Idle];

    pub async fn measure(self, effort: Effort) -> Result<Vec<Table>> {
        match self {
            Self::Ingest => ingest::measure(effort).await,
            Self::EndToEnd => end_to_end::measure(effort).await,
            Self::Sink => sink::measure(effort).await,
            Self::Metadata => metadata::measure(effort).await,
            Self::Failover => failover::measure(effort).await,
            Self::Idle => idle::measure().await,
            Self::Sinks(kind) => sinks::measure(kind, effort).await,
        }
    }

    /// The parts that are meant by a name: one, or all kinds of connectors.
    pub fn named(text: &str) -> Result<Vec<Self>> {
        let sinks = sinks::KINDS.iter().copied().map(Self::Sinks);
        if text == SINKS {
            return Ok(sinks.collect());
        }
        match Self::ALL.into_iter().chain(sinks).find(|part| part.to_string() == text) {
            Some(part) => Ok(vec![part]),
            None => bail!(
                "unknown part {text}; there are {}, {SINKS}, and one of each kind: {SINKS}-{}",
                Self::ALL.map(|part| part.to_string()).join(", "),
                sinks::KINDS.join(&format!(", {SINKS}-"))
            ),
        }
    }

    /// What measures this part and no other.
    pub fn command(self) -> String {
        match self {
            Self::Sinks(kind) => format!("make bench-sinks KIND={kind}"),
            Self::Ingest | Self::EndToEnd | Self::Sink | Self::Metadata | Self::Failover | Self::Idle => {
                format!("make bench PART={self}")
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingest => "ingest",
            Self::EndToEnd => "end-to-end",
            Self::Sink => "sink",
            Self::Metadata => "metadata",
            Self::Failover => "failover",
            Self::Idle => "idle",
            Self::Sinks(kind) => return write!(f, "{SINKS}-{kind}"),
        })
    }
}
