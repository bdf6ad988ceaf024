//! Every field, default, range and value of the seed's document, written down here a second time on purpose: the field
//! tables are checked against the document, not against themselves.

use api_types::FieldProblem;
use connector_runtime::config::{ValidConfig, validate};
use connector_runtime::registry::{KINDS, kind};
use connector_runtime::secrets::SecretFences;
use serde_json::{Map, Value, json};

/// The seed's own example of each kind, which has little more than what is required.
fn minimal(name: &str) -> Map<String, Value> {
    let value = match name {
        "kafka" => json!({"bootstrap_servers":"localhost:9092","topic":"mqtt_messages"}),
        "pulsar" => json!({"server":"pulsar://localhost:6650","topic":"mqtt-messages"}),
        "rabbitmq" => json!({"server":"localhost","username":"guest","exchange":"mqtt_messages"}),
        "mqtt" => json!({"server":"mqtt://remote-broker:1883"}),
        "redis" => json!({"server":"127.0.0.1:6379","command_template":"LPUSH mqtt_messages {payload}"}),
        "mysql" => {
            json!({"host":"localhost","port":3306,"database":"mqtt_data","username":"root","password":"password","table":"mqtt_messages"})
        }
        "postgres" => {
            json!({"host":"localhost","port":5432,"database":"mqtt_data","username":"postgres","password":"password","table":"mqtt_messages"})
        }
        "mongodb" => json!({"host":"localhost","port":27017,"database":"mqtt_data","collection":"mqtt_messages"}),
        "clickhouse" => json!({"url":"http://localhost:8123","database":"mqtt","table":"messages"}),
        "cassandra" => json!({"nodes":["127.0.0.1"],"keyspace":"mqtt","table":"messages"}),
        "elasticsearch" => json!({"url":"http://localhost:9200","index":"mqtt_messages"}),
        "greptime" => json!({"server_addr":"localhost:4000","database":"public"}),
        "influxdb" => {
            json!({"server":"http://localhost:8086","version":"v2","token":"my-token","org":"my-org","bucket":"my-bucket","measurement":"mqtt_data"})
        }
        "opentsdb" => json!({"server":"http://localhost:4242"}),
        "webhook" => json!({"url":"https://example.com/webhook"}),
        "s3" => json!({"bucket":"my-mqtt-bucket","region":"us-east-1","object_key_prefix":"mqtt"}),
        "file" => json!({"local_file_path":"/tmp/mqtt_messages.log"}),
        _ => panic!("no example of {name}"),
    };
    object(value)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// The defaults that the document states, or that it leaves open and `docs/connectors` states.
fn defaults(name: &str) -> Value {
    match name {
        "kafka" => {
            json!({"key":"","compression_type":"none","batch_size":16384,"linger_ms":5,"acks":"1","retries":3,"message_timeout_ms":30000,"cleanup_timeout_secs":10})
        }
        "pulsar" => {
            json!({"connection_timeout_secs":30,"operation_timeout_secs":30,"send_timeout_secs":30,"batch_size":100,"max_pending_messages":1000,"compression":"none"})
        }
        "rabbitmq" => {
            json!({"port":5672,"password":"","virtual_host":"/","routing_key":"","delivery_mode":"NonPersistent","enable_tls":false,"connection_timeout_secs":30,"heartbeat_secs":60,"channel_max":2047,"frame_max":131072,"batch_size":100,"publisher_confirms":true,"confirm_timeout_secs":30})
        }
        "mqtt" => {
            json!({"protocol_version":"v5","keepalive_secs":60,"connect_timeout_secs":10,"enable_tls":false,"qos":1,"retain":false,"max_retries":3})
        }
        "redis" => {
            json!({"mode":"single","database":0,"tls_enabled":false,"connect_timeout_ms":5000,"pool_size":10,"max_retries":3,"retry_interval_ms":1000})
        }
        "mysql" | "postgres" => {
            json!({"pool_size":10,"min_pool_size":2,"connect_timeout_secs":10,"acquire_timeout_secs":30,"idle_timeout_secs":600,"max_lifetime_secs":1800,"batch_size":100,"enable_batch_insert":false,"enable_upsert":false})
        }
        "mongodb" => {
            json!({"auth_source":"admin","deployment_mode":"single","enable_tls":false,"max_pool_size":10,"min_pool_size":0,"connect_timeout_secs":10,"server_selection_timeout_secs":30,"socket_timeout_secs":60,"batch_size":100,"ordered_insert":false,"w":"1"})
        }
        "clickhouse" => json!({"username":"","password":"","pool_size":8,"timeout_secs":15}),
        "cassandra" => json!({"port":9042,"username":"","password":"","replication_factor":1,"timeout_secs":15}),
        "elasticsearch" => json!({"auth_type":"none","enable_tls":false,"timeout_secs":30,"max_retries":3}),
        "greptime" => json!({"precision":"Second"}),
        "influxdb" => json!({"version":"v2","precision":"ms","timeout_secs":15}),
        "opentsdb" => {
            json!({"metric_field":"metric","value_field":"value","tags_fields":[],"timeout_secs":30,"max_retries":3,"summary":false,"details":false})
        }
        "webhook" => json!({"method":"post","headers":{},"timeout_ms":5000,"auth_type":"none"}),
        "s3" => json!({"root":"","object_key_prefix":"mqtt","file_extension":"json"}),
        "file" => json!({"rotation_strategy":"none","max_size_gb":1}),
        _ => panic!("no defaults of {name}"),
    }
}

/// Fields that the document knows, requires nowhere, and gives no default.
const OPTIONAL: &[(&str, &[&str])] = &[
    ("pulsar", &["token", "oauth", "basic_name", "basic_password"]),
    ("mqtt", &["client_id_prefix", "username", "password", "topic_prefix"]),
    ("redis", &["username", "password", "sentinel_master_name"]),
    ("mysql", &["conflict_columns", "sql_template"]),
    ("postgres", &["conflict_columns", "sql_template"]),
    ("mongodb", &["username", "password", "replica_set_name"]),
    ("elasticsearch", &["username", "password", "api_key", "ca_cert_path"]),
    ("greptime", &["user", "password"]),
    ("influxdb", &["database", "username", "password"]),
    ("webhook", &["username", "password", "bearer_token"]),
    ("s3", &["endpoint", "access_key_id", "secret_access_key", "session_token"]),
];

const RANGES: &[(&str, &str, u64, u64)] = &[
    ("kafka", "batch_size", 1, 1_048_576),
    ("kafka", "linger_ms", 0, 60_000),
    ("kafka", "retries", 0, 100),
    ("kafka", "message_timeout_ms", 1_000, 300_000),
    ("kafka", "cleanup_timeout_secs", 0, 300),
    ("pulsar", "connection_timeout_secs", 1, 300),
    ("pulsar", "operation_timeout_secs", 1, 300),
    ("pulsar", "send_timeout_secs", 1, 300),
    ("pulsar", "batch_size", 1, 10_000),
    ("pulsar", "max_pending_messages", 1, 100_000),
    ("rabbitmq", "port", 1, 65_535),
    ("rabbitmq", "connection_timeout_secs", 1, 300),
    ("rabbitmq", "heartbeat_secs", 0, 300),
    ("rabbitmq", "channel_max", 1, 65_535),
    ("rabbitmq", "frame_max", 4_096, 1_048_576),
    ("rabbitmq", "batch_size", 1, 10_000),
    ("rabbitmq", "confirm_timeout_secs", 1, 300),
    ("mqtt", "keepalive_secs", 1, 65_535),
    ("mqtt", "connect_timeout_secs", 1, 300),
    ("mqtt", "qos", 0, 2),
    ("mqtt", "max_retries", 0, 10),
    ("redis", "database", 0, 15),
    ("redis", "connect_timeout_ms", 1, 300_000),
    ("redis", "pool_size", 1, 100),
    ("redis", "max_retries", 0, 100),
    ("redis", "retry_interval_ms", 1, 60_000),
    ("mysql", "port", 1, 65_535),
    ("mysql", "pool_size", 1, 1_000),
    ("mysql", "min_pool_size", 0, 1_000),
    ("mysql", "connect_timeout_secs", 1, 300),
    ("mysql", "acquire_timeout_secs", 1, 300),
    ("mysql", "idle_timeout_secs", 0, 3_600),
    ("mysql", "max_lifetime_secs", 0, 7_200),
    ("mysql", "batch_size", 1, 10_000),
    ("postgres", "port", 1, 65_535),
    ("postgres", "pool_size", 1, 1_000),
    ("postgres", "min_pool_size", 0, 1_000),
    ("postgres", "connect_timeout_secs", 1, 300),
    ("postgres", "acquire_timeout_secs", 1, 300),
    ("postgres", "idle_timeout_secs", 0, 3_600),
    ("postgres", "max_lifetime_secs", 0, 7_200),
    ("postgres", "batch_size", 1, 10_000),
    ("mongodb", "port", 1, 65_535),
    ("mongodb", "max_pool_size", 1, 1_000),
    ("mongodb", "min_pool_size", 0, 1_000),
    ("mongodb", "connect_timeout_secs", 1, 300),
    ("mongodb", "server_selection_timeout_secs", 1, 300),
    ("mongodb", "socket_timeout_secs", 1, 600),
    ("mongodb", "batch_size", 1, 10_000),
    ("clickhouse", "pool_size", 1, 64),
    ("clickhouse", "timeout_secs", 1, 300),
    ("cassandra", "port", 1, 65_535),
    ("cassandra", "replication_factor", 1, 32),
    ("cassandra", "timeout_secs", 1, 300),
    ("elasticsearch", "timeout_secs", 1, 300),
    ("elasticsearch", "max_retries", 0, 10),
    ("influxdb", "timeout_secs", 1, 300),
    ("opentsdb", "timeout_secs", 1, 300),
    ("opentsdb", "max_retries", 0, 10),
    ("webhook", "timeout_ms", 1, 60_000),
    ("file", "max_size_gb", 1, 10),
];

const LENGTHS: &[(&str, &str, usize, usize)] =
    &[("kafka", "key", 0, 256), ("mqtt", "client_id_prefix", 0, 64), ("redis", "command_template", 1, 4_096)];

const CHOICES: &[(&str, &str, &[&str])] = &[
    ("kafka", "compression_type", &["none", "gzip", "snappy", "lz4", "zstd"]),
    ("kafka", "acks", &["0", "1", "all"]),
    ("pulsar", "compression", &["none", "lz4", "zlib", "zstd", "snappy"]),
    ("rabbitmq", "delivery_mode", &["NonPersistent", "Persistent"]),
    ("mqtt", "protocol_version", &["v3", "v4", "v5"]),
    ("redis", "mode", &["single", "cluster", "sentinel"]),
    ("mongodb", "deployment_mode", &["single", "replicaset", "sharded"]),
    ("mongodb", "w", &["0", "1", "majority"]),
    ("elasticsearch", "auth_type", &["none", "basic", "apikey"]),
    ("greptime", "precision", &["Second", "Millisecond", "Microsecond", "Nanosecond"]),
    ("influxdb", "version", &["v1", "v2"]),
    ("influxdb", "precision", &["ns", "us", "ms", "s"]),
    ("webhook", "method", &["post", "put"]),
    ("webhook", "auth_type", &["none", "basic", "bearer"]),
    ("file", "rotation_strategy", &["none", "size", "hourly", "daily"]),
];

fn judge(name: &str, config: &Map<String, Value>) -> Result<ValidConfig, Vec<FieldProblem>> {
    validate(kind(name).expect("known"), config, &SecretFences::default())
}

/// The seed's example, with one field set, and whatever lets that field stand at its ends.
fn with(name: &str, field: &str, value: Value) -> Map<String, Value> {
    let mut config = minimal(name);
    match (name, field) {
        ("kafka", "linger_ms") => config.extend(object(json!({"message_timeout_ms": 300_000}))),
        ("mysql" | "postgres", "min_pool_size") => config.extend(object(json!({"pool_size": 1_000}))),
        ("mongodb", "min_pool_size") => config.extend(object(json!({"max_pool_size": 1_000}))),
        _ => {}
    }
    config.insert(field.to_owned(), value);
    config
}

fn problems_of(name: &str, config: &Map<String, Value>, field: &str) -> Vec<String> {
    let problems = judge(name, config).err().unwrap_or_default();
    let path = format!("config.{field}");
    problems.into_iter().filter(|problem| problem.field == path).map(|problem| problem.problem).collect()
}

#[test]
fn the_seeds_examples_get_the_seeds_defaults() {
    for entry in KINDS {
        let sent = minimal(entry.name);
        let valid = judge(entry.name, &sent).unwrap_or_else(|problems| panic!("{}: {problems:?}", entry.name));
        assert_eq!(valid.sent, Value::Object(sent.clone()).to_string(), "{}", entry.name);
        assert_eq!(valid.warnings, Vec::<String>::new(), "{}", entry.name);
        assert_eq!(valid.delivery.as_str(), "at_least_once", "{}", entry.name);
        let expected = sent
            .iter()
            .chain(object(defaults(entry.name)).iter())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Map<_, _>>();
        for (field, value) in &expected {
            assert_eq!(valid.effective.get(field), Some(value), "{}.{field}", entry.name);
        }
        // What else is there is ours, and nothing the document leaves out is invented.
        for field in valid.effective.keys().filter(|field| !expected.contains_key(*field)) {
            let known = entry.schema.field(field).expect("in the table");
            assert!(
                known.spec.added || field == "port",
                "{}.{field} has a default the document does not state",
                entry.name
            );
        }
    }
}

#[test]
fn the_tables_know_the_documents_fields_and_mark_all_others_as_added() {
    for entry in KINDS {
        let optional = OPTIONAL.iter().find(|(name, _)| *name == entry.name).map_or(&[][..], |(_, fields)| *fields);
        let document: Vec<String> = minimal(entry.name)
            .keys()
            .cloned()
            .chain(object(defaults(entry.name)).keys().cloned())
            .chain(optional.iter().map(|field| (*field).to_owned()))
            .collect();
        for field in &document {
            let known = entry.schema.field(field).unwrap_or_else(|| panic!("{}.{field} is missing", entry.name));
            assert!(!known.spec.added, "{}.{field} is the document's", entry.name);
        }
        for field in entry.schema.fields().filter(|field| !field.spec.added) {
            assert!(
                document.iter().any(|known| known == field.name),
                "{}.{} is not the document's",
                entry.name,
                field.name
            );
        }
    }
}

#[test]
fn ranges_end_where_the_document_says() {
    for (name, field, min, max) in RANGES {
        for value in [*min, *max] {
            assert_eq!(
                problems_of(name, &with(name, field, json!(value)), field),
                Vec::<String>::new(),
                "{name}.{field}={value}"
            );
        }
        let below = i128::from(*min) - 1;
        for value in [below, i128::from(*max) + 1] {
            let value = i64::try_from(value).expect("small");
            let problems = problems_of(name, &with(name, field, json!(value)), field);
            let expect = format!("must be an integer from {min} to {max}, not {value}");
            assert_eq!(problems, [expect], "{name}.{field}={value}");
        }
        for value in [json!("1"), json!(1.5), json!(true), json!([1]), json!({})] {
            assert_eq!(problems_of(name, &with(name, field, value.clone()), field).len(), 1, "{name}.{field}={value}");
        }
    }
}

#[test]
fn every_integer_of_the_document_has_its_range_in_this_test() {
    for entry in KINDS {
        for field in entry.schema.fields().filter(|field| !field.spec.added) {
            let integer = matches!(field.spec.shape, connector_runtime::config::field::Shape::Integer { .. });
            let choice = matches!(field.spec.shape, connector_runtime::config::field::Shape::Choice(_));
            let in_ranges = RANGES.iter().any(|(name, known, ..)| *name == entry.name && *known == field.name);
            let in_choices = CHOICES.iter().any(|(name, known, _)| *name == entry.name && *known == field.name);
            assert_eq!((integer, choice), (in_ranges, in_choices), "{}.{}", entry.name, field.name);
        }
    }
}

#[test]
fn lengths_end_where_the_document_says() {
    for (name, field, min, max) in LENGTHS {
        // Characters count, not bytes.
        for length in [*min, *max] {
            let text = "ü".repeat(length);
            assert_eq!(
                problems_of(name, &with(name, field, json!(text)), field),
                Vec::<String>::new(),
                "{name}.{field} × {length}"
            );
        }
        let text = "ü".repeat(max + 1);
        assert_eq!(problems_of(name, &with(name, field, json!(text)), field).len(), 1, "{name}.{field} × {}", max + 1);
        if *min > 0 {
            assert_eq!(problems_of(name, &with(name, field, json!("")), field).len(), 1, "{name}.{field} empty");
        }
    }
    let url = format!("https://example.com/{}", "a".repeat(2_048 - 20));
    assert_eq!(problems_of("webhook", &with("webhook", "url", json!(url)), "url"), Vec::<String>::new());
    assert_eq!(problems_of("webhook", &with("webhook", "url", json!(url + "a")), "url").len(), 1);
}

#[test]
fn choices_are_the_documents() {
    for (name, field, values) in CHOICES {
        for value in *values {
            assert_eq!(
                problems_of(name, &with(name, field, json!(value)), field),
                Vec::<String>::new(),
                "{name}.{field}={value}"
            );
        }
        for wrong in [json!("nonsense"), json!(""), json!(values[0].to_uppercase() + "x"), json!(1), json!(["none"])] {
            let problems = problems_of(name, &with(name, field, wrong.clone()), field);
            assert_eq!(problems.len(), 1, "{name}.{field}={wrong}");
            assert!(problems[0].contains(&values.join(", ")), "{name}.{field}: {}", problems[0]);
        }
    }
}

#[test]
fn every_required_field_is_missed_by_name() {
    for entry in KINDS {
        for field in minimal(entry.name).keys() {
            let known = entry.schema.field(field).expect("in the table");
            let optional_in_example = ["port", "version", "object_key_prefix"].contains(&field.as_str());
            for absent in [None, Some(Value::Null)] {
                let mut config = minimal(entry.name);
                config.shift_remove(field);
                config.extend(absent.map(|null| (field.clone(), null)));
                let problems = problems_of(entry.name, &config, field);
                assert_eq!(problems.len(), usize::from(!optional_in_example), "{}.{field}: {problems:?}", entry.name);
                assert!(problems.iter().all(|problem| problem.starts_with("is required")), "{problems:?}");
            }
            assert!(known.doc.len() > 5, "{}.{field} has no documentation", entry.name);
        }
    }
}

/// (kind, what is sent beside the example, the field that is then missing)
#[test]
fn modes_require_their_fields() {
    for (name, sent, missing) in [
        ("redis", json!({"mode":"sentinel"}), &["sentinel_master_name"][..]),
        ("mysql", json!({"enable_upsert":true}), &["conflict_columns"]),
        ("postgres", json!({"enable_upsert":true}), &["conflict_columns"]),
        ("mongodb", json!({"deployment_mode":"replicaset"}), &["replica_set_name"]),
        ("mongodb", json!({"username":"u"}), &["password"]),
        ("mongodb", json!({"password":"p"}), &["username"]),
        ("elasticsearch", json!({"auth_type":"basic"}), &["username", "password"]),
        ("elasticsearch", json!({"auth_type":"apikey"}), &["api_key"]),
        ("influxdb", json!({"version":"v1"}), &["database"]),
        ("influxdb", json!({"version":null,"token":null,"org":null,"bucket":null}), &["token", "org", "bucket"]),
        ("webhook", json!({"auth_type":"basic"}), &["username", "password"]),
        ("webhook", json!({"auth_type":"bearer"}), &["bearer_token"]),
        ("s3", json!({"access_key_id":"a"}), &["secret_access_key"]),
        ("s3", json!({"secret_access_key":"a"}), &["access_key_id"]),
        ("s3", json!({"session_token":"a"}), &["access_key_id"]),
        ("pulsar", json!({"basic_name":"a"}), &["basic_password"]),
        ("pulsar", json!({"basic_password":"a"}), &["basic_name"]),
        ("kafka", json!({"sasl_mechanism":"plain"}), &["sasl_username", "sasl_password"]),
        ("kafka", json!({"client_cert_path":"/c.pem"}), &["client_key_path"]),
        ("webhook", json!({"client_key":"-----BEGIN K-----\n-----END K-----"}), &["client_cert_path"]),
        ("webhook", json!({"hmac_secret_previous":"0123456789abcdef"}), &["hmac_secret"]),
    ] {
        let mut config = minimal(name);
        config.extend(object(sent.clone()));
        let problems = judge(name, &config).expect_err(name);
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.trim_start_matches("config.")).collect();
        assert_eq!(fields, missing, "{name} {sent}");
        assert!(problems.iter().all(|problem| problem.problem.contains("required")), "{problems:?}");
    }
}

#[test]
fn fields_in_conflict_are_named() {
    for (name, sent, field, says) in [
        ("kafka", json!({"linger_ms":1000,"message_timeout_ms":1000}), "linger_ms", "message_timeout_ms"),
        ("redis", json!({"mode":"cluster","database":1}), "database", "cluster"),
        ("redis", json!({"server":"a:1,b:2"}), "server", "single"),
        ("mysql", json!({"pool_size":3,"min_pool_size":4}), "min_pool_size", "pool_size, which is 3"),
        ("mongodb", json!({"max_pool_size":3,"min_pool_size":4}), "min_pool_size", "max_pool_size"),
        ("mongodb", json!({"host":"a,b"}), "host", "single"),
        ("pulsar", json!({"token":"a","basic_name":"b","basic_password":"c"}), "basic_name", "token"),
        ("pulsar", json!({"basic_name":"a:b","basic_password":"c"}), "basic_name", "no colon"),
        ("pulsar", json!({"oauth":"{\"issuer_url\":\"https://i\"}"}), "oauth", "credentials_url"),
        ("mqtt", json!({"topic_prefix":"a/+/"}), "topic_prefix", "wildcard"),
        ("mqtt", json!({"server":"mqtt://a,b"}), "server", "one host"),
        ("mqtt", json!({"server":"mqtt://user:geheim@a"}), "server", "user information"),
        (
            "webhook",
            json!({"ca_cert_path":"/a","ca_cert":"-----BEGIN C-----\n-----END C-----"}),
            "ca_cert",
            "ca_cert_path",
        ),
        (
            "webhook",
            json!({"auth_type":"bearer","bearer_token":"t","headers":{"authorization":"x"}}),
            "headers",
            "auth_type",
        ),
        ("webhook", json!({"body":"${payload}","payload_format":"raw"}), "body", "payload_format"),
        ("webhook", json!({"headers":{"a b":"x"}}), "headers.a b", "name of an HTTP header"),
        ("webhook", json!({"headers":{"Host":"x"}}), "headers.Host", "itself"),
        ("webhook", json!({"headers":{"X":"a\r\nY: b"}}), "headers.X", "HTTP header"),
        ("webhook", json!({"headers":{"X":1}}), "headers.X", "text, not a number"),
        ("webhook", json!({"hmac_secret":"whsec_not base 64 at all"}), "hmac_secret", "base64"),
        ("webhook", json!({"url":"ftp://a"}), "url", "http:// or https://"),
        ("cassandra", json!({"nodes":[]}), "nodes", "1 to 64"),
        ("elasticsearch", json!({"index":"${topic[0]}-mqtt"}), "index", "begin with text"),
        ("elasticsearch", json!({"index":"mqtt-${topic}/x"}), "index", "'/'"),
        ("elasticsearch", json!({"index":"a b"}), "index", "' '"),
        ("elasticsearch", json!({"index":"<mqtt-{now/d}>"}), "index", "${date:%Y.%m.%d}"),
        ("elasticsearch", json!({"index":"_mqtt"}), "index", "_, - or +"),
        ("elasticsearch", json!({"index":".."}), "index", "nor be"),
        ("elasticsearch", json!({"index":"x".repeat(256)}), "index", "255 bytes"),
        ("cassandra", json!({"nodes":["a",3]}), "nodes[1]", "text, not a number"),
        ("s3", json!({"file_extension":"tar.gz"}), "file_extension", "letters and digits"),
        ("file", json!({"local_file_path":"relative"}), "local_file_path", "absolute"),
        ("mysql", json!({"sql_template":"INSERT INTO t VALUES (?,?)"}), "sql_template", "three ?"),
        ("postgres", json!({"sql_template":"INSERT INTO t VALUES ($1)"}), "sql_template", "$1 to $5"),
        ("kafka", json!({"key":"${nope}"}), "key", "unknown placeholder ${nope}"),
        ("redis", json!({"command_template":"${topic} a"}), "command_template", "name of the command"),
        ("webhook", json!({"body":"{\"a\":${topic}"}), "body", "JSON"),
    ] {
        let mut config = minimal(name);
        config.extend(object(sent.clone()));
        let problems = judge(name, &config).expect_err(name);
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, [format!("config.{field}")], "{name} {sent}: {problems:?}");
        assert!(problems[0].problem.contains(says), "{name} {sent}: {}", problems[0].problem);
    }
}

#[test]
fn unknown_keys_name_the_nearest_and_all_known_ones() {
    for entry in KINDS {
        let mut config = minimal(entry.name);
        config.insert("batch_byte".to_owned(), json!(1));
        let problems = judge(entry.name, &config).expect_err(entry.name);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].field, "config.batch_byte");
        assert!(problems[0].problem.contains("did you mean batch_bytes?"), "{}", problems[0].problem);
        for field in entry.schema.fields() {
            assert!(problems[0].problem.contains(field.name), "{} lacks {}", problems[0].problem, field.name);
        }
        // Absent by value is still a key that does not exist; it asks for nothing, so it is let be.
        let mut config = minimal(entry.name);
        config.insert("nonsense".to_owned(), Value::Null);
        assert!(judge(entry.name, &config).is_ok(), "{}", entry.name);
    }
}

#[test]
fn all_problems_come_at_once() {
    let config = object(json!({"bootstrap_server":"a:1","topic":7,"acks":"2","retries":101,"linger_ms":-1}));
    let problems = judge("kafka", &config).expect_err("invalid");
    let mut fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "config.acks",
            "config.bootstrap_server",
            "config.bootstrap_servers",
            "config.linger_ms",
            "config.retries",
            "config.topic"
        ]
    );
}

#[test]
fn null_is_absent_at_every_level() {
    for entry in KINDS {
        let required = minimal(entry.name);
        let mut config = required.clone();
        let others = entry.schema.fields().filter(|field| !required.contains_key(field.name));
        config.extend(others.map(|field| (field.name.to_owned(), Value::Null)));
        let with_nulls = judge(entry.name, &config).expect(entry.name);
        let without = judge(entry.name, &required).expect(entry.name);
        assert_eq!(with_nulls.effective, without.effective, "{}", entry.name);
        assert_eq!(with_nulls.sent, Value::Object(config).to_string(), "{}", entry.name);
    }
    let headers = with("webhook", "headers", json!({"X-A":null,"X-B":"b"}));
    assert_eq!(judge("webhook", &headers).expect("valid").effective["headers"], json!({"X-B":"b"}));
}

#[test]
fn giving_up_the_confirmation_shows() {
    for (name, field, value) in [
        ("kafka", "acks", json!("0")),
        ("rabbitmq", "publisher_confirms", json!(false)),
        ("mqtt", "qos", json!(0)),
        ("mongodb", "w", json!("0")),
    ] {
        let valid = judge(name, &with(name, field, value)).expect(name);
        assert_eq!(valid.delivery.as_str(), "at_most_once", "{name}");
        assert_eq!(valid.warnings.len(), 1, "{name}");
        assert!(
            valid.warnings[0].contains(field) && valid.warnings[0].contains("at_most_once"),
            "{:?}",
            valid.warnings
        );
    }
}

#[test]
fn what_has_no_effect_is_warned_about() {
    for (name, sent, says) in [
        ("webhook", json!({"bearer_token":"t"}), "config.bearer_token has no effect while auth_type is none"),
        ("file", json!({"max_size_gb":2}), "config.max_size_gb has no effect while rotation_strategy is none"),
        (
            "redis",
            json!({"sentinel_master_name":"m"}),
            "config.sentinel_master_name has no effect while mode is single",
        ),
        (
            "cassandra",
            json!({"replication_factor":3}),
            "config.replication_factor has no effect while create_if_missing is false",
        ),
        (
            "kafka",
            json!({"enable_tls":true,"tls_verify":false}),
            "config.tls_verify is false: the target's certificate is not checked",
        ),
        ("kafka", json!({"ca_cert_path":"/ca.pem"}), "config.ca_cert_path has no effect without TLS"),
        (
            "postgres",
            json!({"conflict_columns":"topic"}),
            "config.conflict_columns has no effect while enable_upsert is false",
        ),
        ("elasticsearch", json!({"tls_server_name":"a"}), "config.tls_server_name has no effect without TLS"),
        ("mysql", json!({"tls_server_name":"a"}), "config.tls_server_name has no effect without TLS"),
    ] {
        let mut config = minimal(name);
        config.extend(object(sent));
        assert_eq!(judge(name, &config).expect(name).warnings, [says], "{name}");
    }
}

#[test]
fn what_has_its_effect_is_not_warned_about() {
    for (name, sent) in [
        ("webhook", json!({"tls_server_name":"a"})),
        ("s3", json!({"tls_server_name":"a"})),
        ("redis", json!({"tls_enabled":true,"tls_server_name":"a"})),
        ("mqtt", json!({"server":"mqtts://a","tls_server_name":"a"})),
        ("influxdb", json!({"server":"${env:SLUICE_SECRET_URL}","tls_server_name":"a"})),
        ("kafka", json!({"max_in_flight":2})),
    ] {
        let mut config = minimal(name);
        config.extend(object(sent.clone()));
        assert_eq!(judge(name, &config).expect(name).warnings, Vec::<String>::new(), "{name} {sent}");
    }
}

#[test]
fn batches_fetched_ahead_keep_their_order_and_need_no_warning() {
    for (name, sent) in [("webhook", json!({})), ("file", json!({})), ("mongodb", json!({"ordered_insert":true}))] {
        let mut config = minimal(name);
        config.extend(object(sent));
        assert_eq!(judge(name, &config).expect(name).effective["max_in_flight"], json!(1), "{name}");
        config.insert("max_in_flight".to_owned(), json!(2));
        assert_eq!(judge(name, &config).expect(name).warnings, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_lesser_of_two_is_the_default_of_the_smallest_pool() {
    for (pool_size, expect) in [(1, 1), (2, 2), (100, 2)] {
        for name in ["mysql", "postgres"] {
            let valid = judge(name, &with(name, "pool_size", json!(pool_size))).expect(name);
            assert_eq!(valid.effective["min_pool_size"], json!(expect), "{name} {pool_size}");
        }
    }
}
