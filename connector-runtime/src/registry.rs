//! The 17 kinds of connectors: one list, from which names, validation, documentation and `/types` are read.

use serde_json::{Map, Value};

use crate::config::{Schema, nearest};
use crate::sinks;

/// One kind of connector. What it is, declared; how it writes is in `sinks/<kind>/sink.rs`.
#[derive(Clone, Copy, Debug)]
pub struct KindEntry {
    pub name: &'static str,
    pub title: &'static str,
    pub category: &'static str,
    pub order: OrderClass,
    pub schema: &'static Schema,
    /// Statements that make what the default writes need, where the target has such statements.
    pub ddl: Option<&'static str>,
    /// The sink was compiled in. A kind without it is accepted everywhere and runs nowhere.
    pub offered: bool,
}

/// Which order a kind keeps, per publisher and topic as one queue node received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderClass {
    /// One sealed batch after the other.
    Queue,
    /// A batch is dealt to lanes by client id and topic; each lane keeps its order.
    Lanes,
    /// None is promised.
    None,
}

impl OrderClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Lanes => "lanes",
            Self::None => "none",
        }
    }
}

/// All kinds, in the seed's order.
pub const KINDS: &[KindEntry] = sinks::KINDS;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown connector type {name}{suggestion}; known types: {known}")]
pub struct UnknownKind {
    pub name: String,
    suggestion: String,
    known: String,
}

pub fn kind(name: &str) -> Result<&'static KindEntry, UnknownKind> {
    KINDS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|entry| entry.name).collect();
        let suggestion = nearest(name, &names).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        UnknownKind { name: name.to_owned(), suggestion, known: names.join(", ") }
    })
}

impl KindEntry {
    /// The order of this configuration: mongodb keeps one only when it is asked to.
    pub fn order_of(&self, effective: &Map<String, Value>) -> OrderClass {
        match effective.get("ordered_insert") {
            Some(Value::Bool(true)) if self.order == OrderClass::None => OrderClass::Queue,
            Some(_) | None => self.order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_seeds() {
        let names: Vec<&str> = KINDS.iter().map(|entry| entry.name).collect();
        let seed = "kafka pulsar rabbitmq mqtt redis mysql postgres mongodb clickhouse cassandra elasticsearch greptime \
                    influxdb opentsdb webhook s3 file";
        assert_eq!(names, seed.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn an_unknown_kind_names_the_known_ones_and_the_nearest() {
        assert_eq!(kind("kafka").map(|entry| entry.title), Ok("Apache Kafka"));
        let says = kind("postgresql").expect_err("unknown").to_string();
        assert!(says.contains("did you mean postgres?") && says.contains("opentsdb"), "{says}");
        assert!(!kind("xyz").expect_err("unknown").to_string().contains("did you mean"));
        assert!(kind("Kafka").is_err());
    }

    #[test]
    fn mongodb_is_ordered_when_it_is_asked_to() {
        let mongodb = kind("mongodb").expect("known");
        for (ordered, expect) in [(true, OrderClass::Queue), (false, OrderClass::None)] {
            let effective = Map::from_iter([("ordered_insert".to_owned(), Value::Bool(ordered))]);
            assert_eq!(mongodb.order_of(&effective), expect);
        }
    }
}
