//! Objects of a gateway to S3, beside opendal in a loop.

use anyhow::{Context, Result};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tests::s3;

use super::Target;
use crate::bare;

/// As of the sink by default.
const OBJECTS_AT_A_TIME: usize = 4;

/// A place is a bucket.
pub struct Buckets {
    server: s3::S3,
}

impl Target for Buckets {
    const KIND: &'static str = "s3";
    const WRITES: &'static str = "arrays of 10,000 envelopes, to versitygw 1.8";
    const TOOLS: &'static [&'static str] = &["opendal in a loop, four objects at a time"];
    const NOTE: &'static str = "The gateway writes to a folder. Sluice with the default batches of 10,000, of which \
        four are under way; the last one waits for 1 s. The loop writes the very objects that the sink has written, \
        with the same checksum, out of memory.";
    const RECORDS: u64 = 400_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: s3::S3::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(place, &json!({ "linger_ms": 1_000 }))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.server.make_bucket(place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        let mut records = 0;
        for (key, bytes) in self.server.objects(place)? {
            let array: Vec<&RawValue> = serde_json::from_slice(&bytes).with_context(|| format!("{key} is no array"))?;
            records += array.len() as u64;
        }
        Ok(Some(records))
    }

    async fn write(&self, _: usize, from: &str, place: &str) -> Result<f64> {
        bare::s3::write(&self.server, place, self.server.objects(from)?, OBJECTS_AT_A_TIME).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.remove_bucket(place)
    }

    fn finish(self) {
        self.server.finish();
    }
}
