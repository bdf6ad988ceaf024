//! A batch as one transaction. It is committed only after the server has taken every row, and never after an abort.
//!
//! ```text
//! statements, without waiting in between ──► each is confirmed ──► COMMIT ──► delivered
//!                                        └─► one is refused ──► ROLLBACK ──► whose row it was
//! ```
//!
//! A statement of many rows does not say reliably which of them is refused. Then the transaction is rolled back and
//! begun anew with a statement for each record, which does: the culprits are known after one delivery.

use std::collections::HashSet;

use api_types::Record;
use bytes::BytesMut;
use futures::future::{Either, select};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::answer::{AnswerError, Answers, ServerError};
use super::connect::{Connection, Session};
use super::fault::{DUPLICATE, is_of_a_lock, judge, record_fault, target_fault};
use super::packet::{execute_bytes, put_execute, put_query};
use super::plan::{Ids, Many, Plan};
use super::value::Row;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::global_id::GlobalId;
use crate::sinks::shared::relational::{Judgement, Progress, Unfit};

/// A client that is silent for so long in a transaction is paused or cut off: the server rolls back, so that whoever
/// writes the same rows next does not wait for it. Statements of a batch follow each other at once.
const BEGIN: &str = "SET SESSION wait_timeout = 5";
/// Of a connection that idles between batches.
const END: &str = "SET SESSION wait_timeout = DEFAULT";
/// What is gathered before it is sent.
const CHUNK_BYTES: usize = 256 << 10;
/// Ids that are looked up at once.
const IDS_MAX: usize = 1_000;

/// Why nothing of the batch was kept.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) judgement: Judgement,
    /// The records whose rows were refused.
    pub(super) culprits: Unfit,
    pub(super) connection: Fate,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was rolled back and is as good as before.
    Keep,
    /// The server may still be busy with it, and it alone.
    CallOff,
    /// The server is not what it was, for the others either, and may still be busy with this one.
    LookAnew,
    /// It has ended, and the others may have.
    Lost,
}

impl From<AnswerError> for Failure {
    /// Nobody's by name: what is wrong with a row is found before.
    fn from(error: AnswerError) -> Self {
        let connection = match &error {
            AnswerError::Server(error) if is_of_a_lock(error) => Fate::CallOff,
            AnswerError::Server(_) => Fate::LookAnew,
            AnswerError::Io(_) | AnswerError::Protocol(_) => Fate::Lost,
        };
        Self { judgement: Judgement::Target(target_fault(&error)), culprits: Unfit::new(), connection }
    }
}

impl Failure {
    /// The table is not the one that the plan was made for.
    fn of_a_change(table: &str) -> Self {
        let fault = TargetFault::new(TargetFaultKind::Down, format!("the columns or keys of {table} have changed"));
        Self { judgement: Judgement::Target(fault), culprits: Unfit::new(), connection: Fate::LookAnew }
    }
}

/// Writes all records that fit and commits them. The connection can be used again unless it says otherwise.
pub(super) async fn write(
    connection: &mut Connection,
    records: &[&Record],
    progress: &mut Progress,
) -> Result<Fate, Failure> {
    let Connection { session, plan } = connection;
    let width = plan.format.width();
    let values_bytes_max = session.packet_bytes_max.saturating_sub(execute_bytes(width, 0));
    let rows = plan.format.rows(records, values_bytes_max, &mut progress.unfit);
    if rows.is_empty() {
        return Ok(Fate::Keep);
    }
    let mut refused = insert(session, plan, &rows).await?;
    if let Some(ids) = &plan.ids {
        leave_out_our_own(session, ids, records, &mut refused).await?;
    }
    if let Some((_, first)) = refused.first() {
        let judgement = Judgement::Record(record_fault(first));
        let culprits = refused.iter().map(|(place, error)| (*place, record_fault(error))).collect();
        if let Some(table) = &plan.table
            && table.has_changed(session).await?
        {
            return Err(Failure::of_a_change(table.name()));
        }
        roll_back(session).await?;
        return Err(Failure { judgement, culprits, connection: Fate::Keep });
    }
    progress.committing = true;
    session.execute("COMMIT").await?;
    // The rows are there, whatever becomes of the connection.
    progress.committed = true;
    Ok(if session.execute(END).await.is_ok() { Fate::Keep } else { Fate::CallOff })
}

async fn roll_back(session: &mut Session) -> Result<(), AnswerError> {
    session.execute("ROLLBACK").await?;
    session.execute(END).await
}

/// Rows that the server has refused, by the place of their records. The others are there, and not committed.
type Refused = Vec<(usize, ServerError)>;

async fn insert(session: &mut Session, plan: &mut Plan, rows: &[Row]) -> Result<Refused, AnswerError> {
    if let Some(many) = &mut plan.many
        && rows.len() > 1
    {
        let pieces = pieces(session, many, rows).await?;
        if execute(session, pieces.iter().copied()).await?.is_empty() {
            return Ok(Refused::new());
        }
        roll_back(session).await?;
    }
    let statement = plan.statement;
    execute(session, rows.iter().map(|row| (statement, std::slice::from_ref(row)))).await
}

/// Rows for statements of 1, 2, 4, … rows, the largest first, each within what the server takes.
async fn pieces<'r>(
    session: &mut Session,
    many: &mut Many,
    mut rows: &'r [Row],
) -> Result<Vec<(u32, &'r [Row])>, AnswerError> {
    let mut pieces = Vec::new();
    while !rows.is_empty() {
        let mut size = many.size_within(rows.len());
        while size > 0 && packet_bytes(&rows[..1 << size]) > session.packet_bytes_max {
            size -= 1;
        }
        let (piece, rest) = rows.split_at(1 << size);
        pieces.push((many.prepared(session, size).await?, piece));
        rows = rest;
    }
    Ok(pieces)
}

fn packet_bytes(rows: &[Row]) -> usize {
    let parameters = rows.iter().map(|row| row.types().len() / 2).sum();
    execute_bytes(parameters, rows.iter().map(|row| row.values().len()).sum())
}

/// Begins a transaction and executes all of these, without waiting for an answer before the next one is sent. Ends at
/// the first error that is not a record's; what is on its way then still happens, and is never committed.
async fn execute<'r>(
    session: &mut Session,
    statements: impl Iterator<Item = (u32, &'r [Row])> + Clone,
) -> Result<Refused, AnswerError> {
    let (commands, answers) = session.halves();
    let sending = Box::pin(send(commands, statements.clone()));
    let receiving = Box::pin(receive(answers, statements.map(|(_, rows)| rows)));
    // Why a connection has ended may be among the answers; who only sends does not learn it.
    match select(receiving, sending).await {
        Either::Left((refused, _)) => refused,
        Either::Right((_, receiving)) => receiving.await,
    }
}

async fn send<'r>(
    commands: &mut (impl AsyncWrite + Unpin),
    statements: impl Iterator<Item = (u32, &'r [Row])>,
) -> Result<(), AnswerError> {
    let mut out = BytesMut::new();
    put_query(BEGIN, &mut out);
    for (statement, rows) in statements {
        put_execute(statement, rows.iter().map(Row::types), rows.iter().map(Row::values), &mut out);
        if out.len() >= CHUNK_BYTES {
            commands.write_all(&out).await?;
            out.clear();
        }
    }
    commands.write_all(&out).await?;
    commands.flush().await?;
    Ok(())
}

/// An error is that of the first record of its statement; of several, it is nobody's by name.
async fn receive<'r>(
    answers: &mut Answers,
    statements: impl Iterator<Item = &'r [Row]>,
) -> Result<Refused, AnswerError> {
    let mut refused = Refused::new();
    answers.done().await?;
    for rows in statements {
        match answers.done().await {
            Ok(()) => {}
            Err(AnswerError::Server(error)) => match judge(&AnswerError::Server(error.clone())) {
                Judgement::Record(_) => refused.extend(rows.first().map(|row| (row.place, error))),
                Judgement::Target(_) => return Err(AnswerError::Server(error)),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// A row that is refused as a duplicate is delivered if it is the record's own, from before: then its id is there. A
/// duplicate of another key is its record's fault.
async fn leave_out_our_own(
    session: &mut Session,
    ids: &Ids,
    records: &[&Record],
    refused: &mut Refused,
) -> Result<(), AnswerError> {
    let row_id = |record: &&Record| GlobalId { cluster: ids.cluster, record: record.id }.to_string();
    let id_of = |place: usize| records.get(place).map(row_id);
    let duplicates: Vec<String> =
        refused.iter().filter(|(_, error)| error.code == DUPLICATE).filter_map(|(place, _)| id_of(*place)).collect();
    let mut there = HashSet::new();
    for some in duplicates.chunks(IDS_MAX) {
        for row in session.query(&ids.query(some)).await? {
            there.extend(row.into_iter().flatten());
        }
    }
    refused.retain(|(place, error)| {
        let is_our_own = |id: String| there.contains(id.as_bytes());
        error.code != DUPLICATE || !id_of(*place).is_some_and(is_our_own)
    });
    Ok(())
}
