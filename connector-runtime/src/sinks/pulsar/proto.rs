//! The commands of Pulsar's binary protocol that a producer says and hears. Numbers are those of `PulsarApi.proto`, the
//! protocol's definition; fields that this sink neither sets nor reads are left out.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct BaseCommand {
    #[prost(enumeration = "CommandKind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) connect: Option<Connect>,
    #[prost(message, optional, tag = "3")]
    pub(super) connected: Option<Connected>,
    #[prost(message, optional, tag = "5")]
    pub(super) producer: Option<CreateProducer>,
    #[prost(message, optional, tag = "6")]
    pub(super) send: Option<Send>,
    #[prost(message, optional, tag = "7")]
    pub(super) send_receipt: Option<SendReceipt>,
    #[prost(message, optional, tag = "8")]
    pub(super) send_error: Option<SendError>,
    #[prost(message, optional, tag = "13")]
    pub(super) success: Option<Success>,
    #[prost(message, optional, tag = "14")]
    pub(super) error: Option<RequestError>,
    #[prost(message, optional, tag = "15")]
    pub(super) close_producer: Option<CloseProducer>,
    #[prost(message, optional, tag = "17")]
    pub(super) producer_success: Option<ProducerSuccess>,
    #[prost(message, optional, tag = "18")]
    pub(super) ping: Option<Empty>,
    #[prost(message, optional, tag = "19")]
    pub(super) pong: Option<Empty>,
    #[prost(message, optional, tag = "21")]
    pub(super) partitions: Option<AskPartitions>,
    #[prost(message, optional, tag = "22")]
    pub(super) partitions_response: Option<Partitions>,
    #[prost(message, optional, tag = "23")]
    pub(super) lookup: Option<AskOwner>,
    #[prost(message, optional, tag = "24")]
    pub(super) lookup_response: Option<Owner>,
    #[prost(message, optional, tag = "36")]
    pub(super) auth_challenge: Option<AuthChallenge>,
    #[prost(message, optional, tag = "37")]
    pub(super) auth_response: Option<AuthResponse>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum CommandKind {
    Connect = 2,
    Connected = 3,
    CreateProducer = 5,
    Send = 6,
    SendReceipt = 7,
    SendError = 8,
    Success = 13,
    RequestError = 14,
    CloseProducer = 15,
    ProducerSuccess = 17,
    Ping = 18,
    Pong = 19,
    AskPartitions = 21,
    Partitions = 22,
    AskOwner = 23,
    Owner = 24,
    AuthChallenge = 36,
    AuthResponse = 37,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeyValue {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(string, required, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Connect {
    #[prost(string, required, tag = "1")]
    pub(super) client_version: String,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) auth_data: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "4")]
    pub(super) protocol_version: Option<i32>,
    #[prost(string, optional, tag = "5")]
    pub(super) auth_method_name: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) proxy_to_broker_url: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub(super) feature_flags: Option<FeatureFlags>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct FeatureFlags {
    #[prost(bool, optional, tag = "1")]
    pub(super) supports_auth_refresh: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Connected {
    #[prost(string, required, tag = "1")]
    pub(super) server_version: String,
    #[prost(int32, optional, tag = "3")]
    pub(super) max_message_size: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateProducer {
    #[prost(string, required, tag = "1")]
    pub(super) topic: String,
    #[prost(uint64, required, tag = "2")]
    pub(super) producer_id: u64,
    #[prost(uint64, required, tag = "3")]
    pub(super) request_id: u64,
    #[prost(string, optional, tag = "4")]
    pub(super) producer_name: Option<String>,
    #[prost(message, repeated, tag = "6")]
    pub(super) metadata: Vec<KeyValue>,
    #[prost(bool, optional, tag = "9")]
    pub(super) user_provided_producer_name: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProducerSuccess {
    #[prost(uint64, required, tag = "1")]
    pub(super) request_id: u64,
    #[prost(string, required, tag = "2")]
    pub(super) producer_name: String,
    /// The last one that the broker has of this producer's name, where it drops what comes twice; else -1.
    #[prost(int64, optional, tag = "3", default = "-1")]
    pub(super) last_sequence_id: Option<i64>,
    #[prost(bool, optional, tag = "6", default = "true")]
    pub(super) producer_ready: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct CloseProducer {
    #[prost(uint64, required, tag = "1")]
    pub(super) producer_id: u64,
    #[prost(uint64, required, tag = "2")]
    pub(super) request_id: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Send {
    #[prost(uint64, required, tag = "1")]
    pub(super) producer_id: u64,
    #[prost(uint64, required, tag = "2")]
    pub(super) sequence_id: u64,
    #[prost(int32, optional, tag = "3")]
    pub(super) num_messages: Option<i32>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) highest_sequence_id: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SendReceipt {
    #[prost(uint64, required, tag = "1")]
    pub(super) producer_id: u64,
    #[prost(uint64, required, tag = "2")]
    pub(super) sequence_id: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct SendError {
    #[prost(uint64, required, tag = "1")]
    pub(super) producer_id: u64,
    #[prost(uint64, required, tag = "2")]
    pub(super) sequence_id: u64,
    #[prost(int32, required, tag = "3")]
    pub(super) error: i32,
    #[prost(string, required, tag = "4")]
    pub(super) message: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Success {
    #[prost(uint64, required, tag = "1")]
    pub(super) request_id: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RequestError {
    #[prost(uint64, required, tag = "1")]
    pub(super) request_id: u64,
    #[prost(int32, required, tag = "2")]
    pub(super) error: i32,
    #[prost(string, required, tag = "3")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AskPartitions {
    #[prost(string, required, tag = "1")]
    pub(super) topic: String,
    #[prost(uint64, required, tag = "2")]
    pub(super) request_id: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Partitions {
    #[prost(uint32, optional, tag = "1")]
    pub(super) partitions: Option<u32>,
    #[prost(uint64, required, tag = "2")]
    pub(super) request_id: u64,
    /// 0 is a success.
    #[prost(int32, optional, tag = "3")]
    pub(super) response: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(super) error: Option<i32>,
    #[prost(string, optional, tag = "5")]
    pub(super) message: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AskOwner {
    #[prost(string, required, tag = "1")]
    pub(super) topic: String,
    #[prost(uint64, required, tag = "2")]
    pub(super) request_id: u64,
    #[prost(bool, optional, tag = "3")]
    pub(super) authoritative: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Owner {
    #[prost(string, optional, tag = "1")]
    pub(super) broker_url: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) broker_url_tls: Option<String>,
    #[prost(enumeration = "OwnerAnswer", optional, tag = "3")]
    pub(super) response: Option<i32>,
    #[prost(uint64, required, tag = "4")]
    pub(super) request_id: u64,
    #[prost(bool, optional, tag = "5")]
    pub(super) authoritative: Option<bool>,
    #[prost(int32, optional, tag = "6")]
    pub(super) error: Option<i32>,
    #[prost(string, optional, tag = "7")]
    pub(super) message: Option<String>,
    #[prost(bool, optional, tag = "8")]
    pub(super) proxy_through_service_url: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum OwnerAnswer {
    Redirect = 0,
    Connect = 1,
    Failed = 2,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AuthData {
    #[prost(string, optional, tag = "1")]
    pub(super) auth_method_name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) auth_data: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct AuthChallenge {}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AuthResponse {
    #[prost(string, optional, tag = "1")]
    pub(super) client_version: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub(super) response: Option<AuthData>,
    #[prost(int32, optional, tag = "3")]
    pub(super) protocol_version: Option<i32>,
}

/// Of an entry: one message, or a batch of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MessageMetadata {
    #[prost(string, required, tag = "1")]
    pub(super) producer_name: String,
    #[prost(uint64, required, tag = "2")]
    pub(super) sequence_id: u64,
    #[prost(uint64, required, tag = "3")]
    pub(super) publish_time: u64,
    #[prost(message, repeated, tag = "4")]
    pub(super) properties: Vec<KeyValue>,
    #[prost(string, optional, tag = "6")]
    pub(super) partition_key: Option<String>,
    #[prost(enumeration = "CompressionKind", optional, tag = "8")]
    pub(super) compression: Option<i32>,
    #[prost(uint32, optional, tag = "9")]
    pub(super) uncompressed_size: Option<u32>,
    #[prost(int32, optional, tag = "11")]
    pub(super) num_messages_in_batch: Option<i32>,
    #[prost(uint64, optional, tag = "12")]
    pub(super) event_time: Option<u64>,
    #[prost(uint64, optional, tag = "24")]
    pub(super) highest_sequence_id: Option<u64>,
}

/// Of a message in a batch.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SingleMessageMetadata {
    #[prost(message, repeated, tag = "1")]
    pub(super) properties: Vec<KeyValue>,
    #[prost(string, optional, tag = "2")]
    pub(super) partition_key: Option<String>,
    #[prost(int32, required, tag = "3")]
    pub(super) payload_size: i32,
    #[prost(uint64, optional, tag = "5")]
    pub(super) event_time: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub(super) sequence_id: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum CompressionKind {
    None = 0,
    Lz4 = 1,
    Zlib = 2,
    Zstd = 3,
    Snappy = 4,
}

/// Why the broker did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServerError {
    Unknown = 0,
    Metadata = 1,
    Persistence = 2,
    Authentication = 3,
    Authorization = 4,
    ServiceNotReady = 6,
    ProducerBlockedQuotaExceededError = 7,
    ProducerBlockedQuotaExceededException = 8,
    Checksum = 9,
    UnsupportedVersion = 10,
    TopicNotFound = 11,
    TooManyRequests = 14,
    TopicTerminated = 15,
    ProducerBusy = 16,
    InvalidTopicName = 17,
    IncompatibleSchema = 18,
    NotAllowed = 22,
    ProducerFenced = 25,
}
