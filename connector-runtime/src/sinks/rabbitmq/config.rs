//! Configuration of the rabbitmq sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, linger_ms, max_in_flight};
use crate::config::field::{Field, Literal, boolean, choice, config_fields, host, integer, name, port, secret, text};
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, GivesUp, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;

/// AMQP 0.9.1 sends names with a length of one byte.
const SHORT_STRING_MAX: usize = 255;

config_fields! {
    /// Where and how a rabbitmq connector publishes.
    pub struct Config { FIELDS;
        /// Host of the server.
        pub server: String = host().required();
        /// Port of the server.
        pub port: u16 = port(5_672);
        /// User.
        pub username: String = name().required();
        /// Password.
        pub password: Secret = secret().default_text("");
        /// Virtual host.
        pub virtual_host: String = text(1, SHORT_STRING_MAX).default_text("/");
        /// Exchange to publish to.
        pub exchange: String = text(1, SHORT_STRING_MAX).required();
        /// Routing key of every message.
        pub routing_key: String = text(0, 1_024).default_text("").template(TemplateKind::Text);
        /// `Persistent` messages survive a restart of the server in a durable queue.
        pub delivery_mode: DeliveryMode = choice(&["NonPersistent", "Persistent"]).default_text("NonPersistent");
        /// Speak TLS to the server.
        pub enable_tls: bool = boolean().default_boolean(false);
        /// How long connecting may take.
        pub connection_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// Interval of heartbeats; 0 sends none.
        pub heartbeat_secs: u64 = integer(0, 300).default_integer(60);
        /// Most channels on the connection.
        pub channel_max: u16 = integer(1, 65_535).default_integer(2_047);
        /// Largest frame.
        pub frame_max: u32 = integer(4_096, 1_048_576).default_integer(131_072);
        /// Most records in one batch.
        pub batch_size: u64 = integer(1, 10_000).default_integer(100);
        /// Wait for the server's confirmation of every message. `false` gives up knowing what arrived.
        pub publisher_confirms: bool = boolean().default_boolean(true);
        /// How long confirmations may take.
        pub confirm_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// What the body of a message is: the payload's bytes, or the envelope as JSON.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum DeliveryMode {
    NonPersistent,
    Persistent,
}

const BATCH: &[Field] = &[batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(4)];

const RULES: &[Rule] =
    &[Rule::Check { says: "`virtual_host` and `exchange` have at most 255 bytes as UTF-8", check: names_are_short }];

fn names_are_short(checked: &Checked<'_>, report: &mut Report) {
    for field in ["virtual_host", "exchange"] {
        let bytes = checked.text(field).len();
        if bytes > SHORT_STRING_MAX {
            report.problem(field, format!("must have at most {SHORT_STRING_MAX} bytes as UTF-8, and has {bytes}"));
        }
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: Some(GivesUp { field: "publisher_confirms", value: Literal::Boolean(false) }),
    records_field: "batch_size",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
