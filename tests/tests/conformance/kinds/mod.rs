//! One adapter for each kind whose sink exists.

pub mod cassandra;
pub mod clickhouse;
pub mod elasticsearch;
mod envelope;
pub mod file;
pub mod greptime;
pub mod influxdb;
pub mod kafka;
pub mod mongodb;
pub mod mqtt;
pub mod mysql;
pub mod opentsdb;
mod points;
pub mod postgres;
pub mod pulsar;
pub mod rabbitmq;
pub mod redis;
pub mod s3;
pub mod webhook;

use connector_runtime::registry::{KINDS, KindEntry};

/// Hands all of them to a macro: kind = adapter.
macro_rules! for_each {
    ($with:ident) => {
        $crate::kinds::$with! {
            cassandra = $crate::kinds::cassandra::Cassandra,
            clickhouse = $crate::kinds::clickhouse::Clickhouse,
            elasticsearch = $crate::kinds::elasticsearch::Elasticsearch,
            file = $crate::kinds::file::File,
            greptime = $crate::kinds::greptime::Greptime,
            influxdb = $crate::kinds::influxdb::Influxdb,
            kafka = $crate::kinds::kafka::Kafka,
            mongodb = $crate::kinds::mongodb::Mongodb,
            mqtt = $crate::kinds::mqtt::Mqtt,
            mysql = $crate::kinds::mysql::Mysql,
            opentsdb = $crate::kinds::opentsdb::Opentsdb,
            postgres = $crate::kinds::postgres::Postgres,
            pulsar = $crate::kinds::pulsar::Pulsar,
            rabbitmq = $crate::kinds::rabbitmq::Rabbitmq,
            redis = $crate::kinds::redis::Redis,
            s3 = $crate::kinds::s3::S3,
            webhook = $crate::kinds::webhook::Webhook,
        }
    };
}

/// A test of each, named for its kind.
macro_rules! test_of_each {
    ($($kind:ident = $adapter:ty,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $kind() -> anyhow::Result<()> {
                $crate::conforms::<$adapter>().await
            }
        )*
    };
}

macro_rules! names_of_all {
    ($($kind:ident = $adapter:ty,)*) => {
        &[$(stringify!($kind)),*]
    };
}

pub(crate) use {for_each, names_of_all, test_of_each};

const ADAPTED: &[&str] = for_each!(names_of_all);

/// A sink without an adapter, and an adapter without a sink, do not compile.
const _: () = assert!(same(KINDS, ADAPTED), "a kind whose sink is offered needs a line in kinds/mod.rs, and no other");

const fn same(kinds: &[KindEntry], adapted: &[&str]) -> bool {
    let mut offered = 0;
    let mut at = 0;
    while at < kinds.len() {
        if kinds[at].offered {
            offered += 1;
            if !names(adapted, kinds[at].name) {
                return false;
            }
        }
        at += 1;
    }
    offered == adapted.len()
}

const fn names(all: &[&str], wanted: &str) -> bool {
    let mut at = 0;
    while at < all.len() {
        if equal(all[at].as_bytes(), wanted.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

const fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}
