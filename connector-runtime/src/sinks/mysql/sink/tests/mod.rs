//! Against MariaDB itself, started for each test; its own client says what is in it.

mod connections;
mod delivery;
mod faults;
mod recovery;
mod types;
mod upsert;

use std::path::PathBuf;
use std::time::Duration;

use ::tests::mariadb::{ID_COLUMN, MariaDb, TABLE};
use ::tests::wait;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::*;
use crate::sinks::opened::{Counted, TestNode, deliver, record};

/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// The ways to write: a statement for each record or for many, without and with a column for the id.
const MODES: [&str; 4] = ["rows", "many", "rows by id", "many by id"];

fn mode(name: &str) -> Value {
    match name {
        "rows" => json!({}),
        "many" => json!({"enable_batch_insert": true}),
        "rows by id" => json!({"id_column": "id"}),
        "many by id" => json!({"enable_batch_insert": true, "id_column": "id"}),
        other => panic!("no mode {other}"),
    }
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

/// With the table of the documentation.
async fn server() -> MariaDb {
    let server = MariaDb::start().await.expect("MariaDB starts");
    server.sql_of_user(TABLE).await.expect("makes the table");
    server
}

/// For tests in every mode: the column for the id may be left out.
async fn server_for_all_modes() -> MariaDb {
    let server = server().await;
    server.sql_of_user(&ID_COLUMN.replace("NOT NULL", "NULL")).await.expect("adds the column");
    server
}

async fn open(server: &MariaDb, more: &Value) -> Box<dyn Sink> {
    node().open("rows", "mysql", server.config(more)).await.expect("opens")
}

async fn refused(server: &MariaDb, more: &Value) -> TargetFault {
    node().open("rows", "mysql", server.config(more)).await.err().unwrap_or_else(|| panic!("{more}: opened"))
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

fn class(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::RecordFault(fault) => &fault.class,
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => {
            panic!("{outcome:?} is no record's fault")
        }
    }
}

/// Connections of the connector's user at the server.
async fn connections(server: &MariaDb) -> Result<usize> {
    let count = server.sql("SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = 'sluice'").await?;
    Ok(count.parse()?)
}

async fn connections_become(server: &MariaDb, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = connections(server).await?;
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
}

/// Inserting a row into the table takes so many seconds from now on.
async fn each_row_takes(server: &MariaDb, seconds: &str) {
    let trigger = format!("CREATE TRIGGER slow BEFORE INSERT ON mqtt_messages FOR EACH ROW DO SLEEP({seconds})");
    // While it runs, the server shows its maker's name.
    server.sql_of_user(&trigger).await.expect("makes the trigger");
}

/// Waits until the server has a statement of ours that waits.
async fn a_statement_waits(server: &MariaDb) {
    let waiting = "SELECT (SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = 'sluice' \
                   AND (STATE = 'User sleep' OR STATE LIKE 'Waiting for%lock')) \
                   + (SELECT count(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT')";
    let waits = wait::until(LIMIT, "a statement waits", async || {
        ensure!(server.sql(waiting).await? != "0", "none");
        Ok(())
    });
    waits.await.expect("waits");
}
