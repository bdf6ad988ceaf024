//! Configuration of the opentsdb sink.

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{Field, Literal, boolean, config_fields, http_url, integer, text, text_list};
use crate::config::format::TextFormat;
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

/// OpenTSDB itself takes at most eight tags unless it is told otherwise.
const TAGS_MAX: usize = 32;

config_fields! {
    /// Where and how an opentsdb connector writes.
    pub struct Config { FIELDS;
        /// Server, `http://` or `https://`.
        pub server: String = http_url().required();
        /// Field of the JSON payload that names the metric.
        pub metric_field: String = text(1, 255).default_text("metric");
        /// Field of the JSON payload that holds the number.
        pub value_field: String = text(1, 255).default_text("value");
        /// Fields of the JSON payload that become tags. A point without any gets the tag `source=mqtt`, because OpenTSDB
        /// takes none without.
        pub tags_fields: Vec<String> = text_list(0, TAGS_MAX, TextFormat::Line).default(Literal::EmptyList);
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// Times a request is sent again after a lost connection, inside one attempt of the pipeline.
        pub max_retries: u64 = integer(0, 10).default_integer(3);
        /// Ask the server how many points of a request it took: when it took none, all of them are refused at once.
        pub summary: bool = boolean().default_boolean(false);
        /// Ask the server which points it refused and why. Without it a refused point is found by smaller requests.
        pub details: bool = boolean().default_boolean(false);
        /// Let the server answer only when HBase has the points. Without it, an answer says no more than that OpenTSDB
        /// has them in memory, and it may lose them.
        pub sync: bool = boolean().default_boolean(true).added();
        /// Most bytes of one request; a batch is cut into as many as it takes. OpenTSDB reads 4 KiB unless
        /// `tsd.http.request.enable_chunked` and `max_chunk` allow more. A point that is larger goes alone.
        pub request_bytes: u64 = integer(1_024, 64 << 20).default_integer(4_096).added();
        flatten tls: TlsOptions;
    }
}

/// With the default `request_bytes` some 30 points fit into a request, and 16 requests are under way side by side.
const BATCH: &[Field] = &[batch_records(500, 10_000), batch_bytes(1 << 20), linger_ms(100, 60_000), max_in_flight(1)];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
