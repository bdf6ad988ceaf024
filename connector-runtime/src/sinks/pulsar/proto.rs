//! The commands of Pulsar's binary protocol that a producer says and hears. Numbers are those of `PulsarApi.proto`, the
//! protocol's definition; fields that this sink neither sets nor reads are left out.

use super::protobuf::{enumeration, message};

message! {
    BaseCommand {
        1 => kind: required int32 i32,
        2 => connect: optional message Connect,
        3 => connected: optional message Connected,
        5 => producer: optional message CreateProducer,
        6 => send: optional message Send,
        7 => send_receipt: optional message SendReceipt,
        8 => send_error: optional message SendError,
        13 => success: optional message Success,
        14 => error: optional message RequestError,
        15 => close_producer: optional message CloseProducer,
        17 => producer_success: optional message ProducerSuccess,
        18 => ping: optional message Empty,
        19 => pong: optional message Empty,
        21 => partitions: optional message AskPartitions,
        22 => partitions_response: optional message Partitions,
        23 => lookup: optional message AskOwner,
        24 => lookup_response: optional message Owner,
        36 => auth_challenge: optional message AuthChallenge,
        37 => auth_response: optional message AuthResponse,
    }
}

enumeration! {
    CommandKind {
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
}

message! {
    Empty {}
}

message! {
    KeyValue {
        1 => key: required string String,
        2 => value: required string String,
    }
}

message! {
    Connect {
        1 => client_version: required string String,
        3 => auth_data: optional bytes Vec<u8>,
        4 => protocol_version: optional int32 i32,
        5 => auth_method_name: optional string String,
        6 => proxy_to_broker_url: optional string String,
        10 => feature_flags: optional message FeatureFlags,
    }
}

message! {
    FeatureFlags {
        1 => supports_auth_refresh: optional bool bool,
    }
}

message! {
    Connected {
        3 => max_message_size: optional int32 i32,
    }
}

message! {
    CreateProducer {
        1 => topic: required string String,
        2 => producer_id: required uint64 u64,
        3 => request_id: required uint64 u64,
        4 => producer_name: optional string String,
        6 => metadata: repeated message KeyValue,
        9 => user_provided_producer_name: optional bool bool,
    }
}

message! {
    ProducerSuccess {
        1 => request_id: required uint64 u64,
        /// The last one that the broker has of this producer's name, where it drops what comes twice; else -1.
        3 => last_sequence_id: optional int64 i64,
    }
}

message! {
    CloseProducer {
        1 => producer_id: required uint64 u64,
        2 => request_id: required uint64 u64,
    }
}

message! {
    Send {
        1 => producer_id: required uint64 u64,
        2 => sequence_id: required uint64 u64,
        3 => num_messages: optional int32 i32,
        6 => highest_sequence_id: optional uint64 u64,
    }
}

message! {
    SendReceipt {
        1 => producer_id: required uint64 u64,
        2 => sequence_id: required uint64 u64,
    }
}

message! {
    SendError {
        1 => producer_id: required uint64 u64,
        2 => sequence_id: required uint64 u64,
        3 => error: required int32 i32,
        4 => message: required string String,
    }
}

message! {
    Success {
        1 => request_id: required uint64 u64,
    }
}

message! {
    RequestError {
        1 => request_id: required uint64 u64,
        2 => error: required int32 i32,
        3 => message: required string String,
    }
}

message! {
    AskPartitions {
        1 => topic: required string String,
        2 => request_id: required uint64 u64,
    }
}

message! {
    Partitions {
        1 => partitions: optional uint32 u32,
        2 => request_id: required uint64 u64,
        4 => error: optional int32 i32,
        5 => message: optional string String,
    }
}

message! {
    AskOwner {
        1 => topic: required string String,
        2 => request_id: required uint64 u64,
        3 => authoritative: optional bool bool,
    }
}

message! {
    Owner {
        1 => broker_url: optional string String,
        2 => broker_url_tls: optional string String,
        3 => response: optional int32 i32,
        4 => request_id: required uint64 u64,
        5 => authoritative: optional bool bool,
        6 => error: optional int32 i32,
        7 => message: optional string String,
        8 => proxy_through_service_url: optional bool bool,
    }
}

enumeration! {
    OwnerAnswer {
        Redirect = 0,
        Connect = 1,
        Failed = 2,
    }
}

message! {
    AuthData {
        1 => auth_method_name: optional string String,
        2 => auth_data: optional bytes Vec<u8>,
    }
}

message! {
    AuthChallenge {}
}

message! {
    AuthResponse {
        1 => client_version: optional string String,
        2 => response: optional message AuthData,
        3 => protocol_version: optional int32 i32,
    }
}

message! {
    /// Of an entry: one message, or a batch of them.
    MessageMetadata {
        1 => producer_name: required string String,
        2 => sequence_id: required uint64 u64,
        3 => publish_time: required uint64 u64,
        4 => properties: repeated message KeyValue,
        6 => partition_key: optional string String,
        8 => compression: optional int32 i32,
        9 => uncompressed_size: optional uint32 u32,
        11 => num_messages_in_batch: optional int32 i32,
        12 => event_time: optional uint64 u64,
        24 => highest_sequence_id: optional uint64 u64,
    }
}

message! {
    /// Of a message in a batch.
    SingleMessageMetadata {
        1 => properties: repeated message KeyValue,
        2 => partition_key: optional string String,
        3 => payload_size: required int32 i32,
        5 => event_time: optional uint64 u64,
        8 => sequence_id: optional uint64 u64,
    }
}

enumeration! {
    CompressionKind {
        None = 0,
        Lz4 = 1,
        Zlib = 2,
        Zstd = 3,
        Snappy = 4,
    }
}

enumeration! {
    /// Why the broker did not do what it was asked.
    ServerError {
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
}
