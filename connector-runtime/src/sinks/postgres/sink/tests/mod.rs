//! Against PostgreSQL itself, started for each test; psql says what is in it.

mod connections;
mod delivery;
mod faults;
mod recovery;
mod types;
mod upsert;

use std::path::PathBuf;
use std::time::Duration;

use ::tests::postgres::{ID_COLUMN, Postgres, TABLE};
use ::tests::wait;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::*;
use crate::sinks::opened::{Counted, TestNode, deliver, record};

/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// The ways to write: one statement for each record, COPY, and INSERT from arrays.
const MODES: [&str; 3] = ["rows", "copy", "arrays"];

fn mode(name: &str) -> Value {
    match name {
        "rows" => json!({}),
        "copy" => json!({"enable_batch_insert": true}),
        "arrays" => json!({"enable_batch_insert": true, "id_column": "id"}),
        other => panic!("no mode {other}"),
    }
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

/// With the table of the documentation.
async fn server() -> Postgres {
    let server = Postgres::start().await.expect("PostgreSQL starts");
    server.sql_of_role(TABLE).await.expect("makes the table");
    server
}

async fn open(server: &Postgres, more: &Value) -> Box<dyn Sink> {
    node().open("rows", "postgres", server.config(more)).await.expect("opens")
}

async fn refused(server: &Postgres, more: &Value) -> TargetFault {
    node().open("rows", "postgres", server.config(more)).await.err().expect("does not open")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

/// Connections of this connector at the server.
async fn connections(server: &Postgres) -> Result<usize> {
    let count = server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice/rows'").await?;
    Ok(count.parse()?)
}

async fn connections_become(server: &Postgres, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = connections(server).await?;
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
}

/// Inserting a row into the table takes so many seconds from now on.
async fn each_row_takes(server: &Postgres, seconds: &str) {
    let function = format!("BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END");
    let trigger = format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ {function} $$;
         CREATE TRIGGER slow BEFORE INSERT ON mqtt_messages FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    server.sql_of_role(&trigger).await.expect("makes the trigger");
}

/// Waits until the server has a statement of ours that waits.
async fn a_statement_waits(server: &Postgres) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice/rows' \
                   AND state = 'active' AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')";
    let waits = wait::until(LIMIT, "a statement waits", async || {
        ensure!(server.sql(waiting).await? != "0", "none");
        Ok(())
    });
    waits.await.expect("waits");
}
