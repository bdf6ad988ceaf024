//! The seed's dead-letter message, and what we add to it.

use serde::{Deserialize, Serialize};

/// JSON body of a dead letter. The first eight fields are the seed's, with the seed's types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRecord {
    pub connector_name: String,
    /// The connector's topic filter.
    pub source_topic: String,
    pub error_message: String,
    /// Retries made by the failure strategy, the first attempt excluded.
    pub retry_times: u32,
    pub original_key: Option<String>,
    pub original_data: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub original_timestamp: u64,
    /// Seconds since the Unix epoch.
    pub dead_letter_timestamp: u64,
    pub record_id: String,
    pub original_topic: String,
    pub error_class: String,
    pub user_properties: Vec<(String, String)>,
    /// The connectors this record was dead-lettered by, oldest first.
    pub connectors: Vec<String>,
}
