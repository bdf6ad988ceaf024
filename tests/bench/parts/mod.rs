//! What is measured, one module each.

pub mod end_to_end;
pub mod failover;
pub mod idle;
pub mod ingest;
pub mod metadata;
pub mod sink;

use std::fmt;
use std::str::FromStr;

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
}

impl Part {
    pub const ALL: [Self; 6] = [Self::Ingest, Self::EndToEnd, Self::Sink, Self::Metadata, Self::Failover, Self::Idle];

    pub async fn measure(self, effort: Effort) -> Result<Vec<Table>> {
        match self {
            Self::Ingest => ingest::measure(effort).await,
            Self::EndToEnd => end_to_end::measure(effort).await,
            Self::Sink => sink::measure(effort).await,
            Self::Metadata => metadata::measure(effort).await,
            Self::Failover => failover::measure(effort).await,
            Self::Idle => idle::measure().await,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::EndToEnd => "end-to-end",
            Self::Sink => "sink",
            Self::Metadata => "metadata",
            Self::Failover => "failover",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|part| part.name() == text) {
            Some(part) => Ok(part),
            None => bail!("unknown part {text}; there are {}", Self::ALL.map(Self::name).join(", ")),
        }
    }
}
