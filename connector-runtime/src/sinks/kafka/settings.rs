//! What librdkafka is told: the connector's options in its words, and bounds of our own.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::config::{Acks, Compression, Config, Partitioner, SaslMechanism};
use crate::sinks::shared::tls::{self, TlsError};

/// Below what a broker reads at all (`socket.request.max.bytes`, 100 MiB by default), with room for what stands around
/// a message: a larger request would cost the connection. Which message is too large for its topic, the broker says.
const REQUEST_BYTES_MAX: u32 = 100_000_000;
/// Copies of payloads that wait or are on their way; it must be able to hold the largest request.
const QUEUE_KIB_MAX: u32 = 128 << 10;
/// New partitions and moved brokers are known within this time; one small request each.
const METADATA_EVERY: Duration = Duration::from_secs(30);
/// A topic was there when the sink was opened. One that is not there any more is missed after this time.
const TOPIC_MISSED_AFTER: Duration = Duration::from_secs(3);
/// A broker that comes back is found soon. librdkafka begins with a tenth of a second and doubles it.
const RECONNECT_EVERY_MAX: Duration = Duration::from_secs(2);
/// TCP, TLS and SASL together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A broker that has not answered a request by then is connected to anew.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What an idempotent producer may have under way without losing the order; the broker remembers as many.
const IN_FLIGHT_MAX_IDEMPOTENT: u32 = 5;

/// Pause of an idempotent producer before the first retry of a message; librdkafka doubles it, up to a second. Each
/// message that the broker refuses leaves a gap in the count, and every batch behind a gap is sent again, after this
/// pause: with librdkafka's tenth of a second a few dozen refused messages would keep all others waiting for seconds.
const RETRY_PAUSE_IDEMPOTENT: Duration = Duration::from_millis(10);

/// Reads certificates: call it where a few small reads may block.
pub(super) fn settings(config: &Config, client_id: &str, watches_connections: bool) -> Result<ClientConfig, TlsError> {
    let mut settings = ClientConfig::new();
    let mut set = |name: &str, value: &str| {
        settings.set(name, value);
    };
    set("bootstrap.servers", &config.bootstrap_servers);
    set("client.id", client_id);
    set_seed_options(config, &mut set);
    set_bounds(config, &mut set);
    set_security(config, &mut set)?;
    // Only its debug log says where it connects to.
    if watches_connections {
        set("debug", "broker");
    }
    settings.set_log_level(if watches_connections { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    Ok(settings)
}

/// For messages that have to go one by one.
pub(super) fn alone(mut settings: ClientConfig) -> ClientConfig {
    settings.set("batch.num.messages", "1").set("linger.ms", "0");
    settings
}

fn set_seed_options(config: &Config, set: &mut impl FnMut(&str, &str)) {
    let compression = match config.compression_type {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    };
    let acks = match config.acks {
        Acks::None => "0",
        Acks::Leader => "1",
        Acks::All => "all",
    };
    let partitioner = match config.partitioner {
        Partitioner::Crc32 => "consistent_random",
        Partitioner::Murmur2 => "murmur2_random",
    };
    let in_flight_max = if config.idempotent() { IN_FLIGHT_MAX_IDEMPOTENT } else { 1 };
    set("acks", acks);
    set("enable.idempotence", if config.idempotent() { "true" } else { "false" });
    // A batch that is sent again must not come after one that was sent later.
    set("max.in.flight.requests.per.connection", &in_flight_max.to_string());
    set("retries", &config.retries.to_string());
    if config.idempotent() {
        set("retry.backoff.ms", &RETRY_PAUSE_IDEMPOTENT.as_millis().to_string());
    }
    set("message.timeout.ms", &config.message_timeout_ms.to_string());
    set("linger.ms", &config.linger_ms.to_string());
    set("batch.size", &config.batch_size.to_string());
    set("compression.type", compression);
    set("partitioner", partitioner);
}

fn set_bounds(config: &Config, set: &mut impl FnMut(&str, &str)) {
    let within = |bound: Duration| bound.as_millis().min(config.message_timeout_ms.into()).to_string();
    set("socket.timeout.ms", &within(ANSWER_WITHIN));
    set("request.timeout.ms", &within(ANSWER_WITHIN));
    set("socket.connection.setup.timeout.ms", &within(CONNECT_WITHIN));
    set("reconnect.backoff.max.ms", &RECONNECT_EVERY_MAX.as_millis().to_string());
    set("topic.metadata.refresh.interval.ms", &METADATA_EVERY.as_millis().to_string());
    set("topic.metadata.propagation.max.ms", &TOPIC_MISSED_AFTER.as_millis().to_string());
    set("message.max.bytes", &REQUEST_BYTES_MAX.to_string());
    set("queue.buffering.max.kbytes", &QUEUE_KIB_MAX.to_string());
    set("socket.keepalive.enable", "true");
    // Nobody has asked for numbers about this client at the brokers.
    set("enable.metrics.push", "false");
}

fn set_security(config: &Config, set: &mut impl FnMut(&str, &str)) -> Result<(), TlsError> {
    let mechanism = match config.sasl_mechanism {
        SaslMechanism::None => None,
        SaslMechanism::Plain => Some("PLAIN"),
        SaslMechanism::ScramSha256 => Some("SCRAM-SHA-256"),
        SaslMechanism::ScramSha512 => Some("SCRAM-SHA-512"),
    };
    let protocol = match (config.enable_tls, mechanism) {
        (false, None) => "plaintext",
        (false, Some(_)) => "sasl_plaintext",
        (true, None) => "ssl",
        (true, Some(_)) => "sasl_ssl",
    };
    set("security.protocol", protocol);
    if let Some(mechanism) = mechanism {
        set("sasl.mechanisms", mechanism);
        set("sasl.username", config.sasl_username.as_deref().unwrap_or_default());
        set("sasl.password", config.sasl_password.as_ref().map_or("", |password| password.reveal()));
    }
    if !config.enable_tls {
        return Ok(());
    }
    let pem = tls::pem_texts(&config.tls)?;
    if let Some(roots) = &pem.roots {
        set("ssl.ca.pem", roots);
    }
    if let Some((certificate, key)) = &pem.identity {
        set("ssl.certificate.pem", certificate);
        set("ssl.key.pem", key.reveal());
    }
    if !config.tls.tls_verify {
        set("enable.ssl.certificate.verification", "false");
    }
    Ok(())
}
