//! A batch as one transaction. It is committed only after the server has taken every row, and never after an abort.
//!
//! ```text
//! BEGIN + rows, without waiting in between ──► every row is confirmed ──► COMMIT ──► delivered
//!                                              (rows were there already: a mark)
//!                                          └─► one is refused ──► ROLLBACK ──► whose row it was, where that is known
//! ```

use std::collections::{HashMap, VecDeque};
use std::error::Error as StdError;
use std::pin::pin;
use std::task::Poll;

use api_types::Record;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::{BoxFuture, join};
use futures::{SinkExt, poll};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Error, Statement};

use super::connect::{Connection, MARK};
use super::fault::{copied_line, is_harmless, judge_rows};
use super::plan::{Plan, TableCheck, layout};
use super::value::{NULL, RowFormat, Wire, values};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::relational::{Judgement, Progress, Unfit};

/// Statements see what was committed before each of them, whatever the database's default is: nothing here reads.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// Statements that are sent before the first is answered. Enough to hide the way there and back.
const UNANSWERED_MAX: usize = 256;
/// Rows of a COPY that are sent at once.
const COPY_CHUNK_BYTES: usize = 256 << 10;
/// Head of a binary COPY: signature, flags, length of the extension.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_END: i16 = -1;

/// Why nothing of the batch was kept.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) judgement: Judgement,
    /// The record whose row it was.
    pub(super) culprit: Option<usize>,
    /// The connection can be used again.
    pub(super) harmless: bool,
}

impl Failure {
    fn of(stop: Stop, format: &RowFormat) -> Self {
        match stop {
            Stop::Refused { error, culprit } => {
                let judgement = judge_rows(&error, format.has_literals());
                let harmless = is_harmless(&judgement, &error);
                Self { judgement, culprit, harmless }
            }
            Stop::Changed(message) => {
                let judgement = Judgement::Target(TargetFault::new(TargetFaultKind::Down, message));
                Self { judgement, culprit: None, harmless: false }
            }
        }
    }
}

/// What ended a transaction.
enum Stop {
    Refused {
        error: Error,
        culprit: Option<usize>,
    },
    /// The table is not the one that the plan was made for.
    Changed(String),
}

impl From<Error> for Stop {
    /// Of nobody by name.
    fn from(error: Error) -> Self {
        Self::Refused { error, culprit: None }
    }
}

/// Writes all records that fit and commits them.
pub(super) async fn write(
    connection: &Connection,
    records: &[&Record],
    progress: &mut Progress,
) -> Result<(), Failure> {
    let Connection { client, plan, .. } = connection;
    let unfit = &mut progress.unfit;
    let written = match plan {
        Plan::Rows { statement, format } => write_rows(client, statement, format, records, unfit).await,
        Plan::Arrays { statement, format, key } => write_arrays(client, statement, format, key, records, unfit).await,
        Plan::Copy { statement, format, table } => write_copy(client, statement, format, table, records, unfit).await,
    };
    let format = plan.format();
    let marked = match written {
        Ok(Begun::Yes { all_new: false }) if connection.may_mark => mark(client).await,
        other => other,
    };
    match marked {
        Ok(Begun::No) => Ok(()),
        Ok(Begun::Yes { .. }) => {
            progress.committing = true;
            client.batch_execute("COMMIT").await.map_err(|error| Failure::of(error.into(), format))
        }
        Err(stop) => {
            let mut failure = Failure::of(stop, format);
            failure.harmless = failure.harmless && client.batch_execute("ROLLBACK").await.is_ok();
            Err(failure)
        }
    }
}

/// A row that was there already may have come there without the standby: its COMMIT waited for it and was called off.
/// One that writes nothing would not wait, and the record would count as delivered although only this server has it.
async fn mark(client: &Client) -> Result<Begun, Stop> {
    client.batch_execute(MARK).await?;
    Ok(Begun::Yes { all_new: false })
}

/// No transaction was begun when no record fits.
enum Begun {
    No,
    Yes {
        /// The server has taken as many rows as were sent.
        all_new: bool,
    },
}

async fn write_rows(
    client: &Client,
    statement: &Statement,
    format: &RowFormat,
    records: &[&Record],
    unfit: &mut Unfit,
) -> Result<Begun, Stop> {
    let mut statements = Unanswered::default();
    let mut sent = 0;
    let mut buffer = BytesMut::new();
    for (place, record) in records.iter().enumerate() {
        if let Err(fault) = format.put(record, &mut buffer) {
            unfit.push((place, fault));
            continue;
        }
        if sent == 0 {
            let begin = async { client.batch_execute(BEGIN).await.map(|()| 0) };
            statements.send(None, Box::pin(begin)).await?;
        }
        sent += 1;
        let row = values(buffer.split().freeze()).zip(format.fields());
        let parameters: Vec<Parameter> =
            row.map(|(value, field)| Parameter { value, literal: field.wire == Wire::Literal }).collect();
        statements.send(Some(place), Box::pin(client.execute_raw(statement, parameters))).await?;
    }
    statements.answered().await?;
    Ok(if sent == 0 { Begun::No } else { Begun::Yes { all_new: statements.rows >= sent } })
}

/// How many rows were written.
type Answer<'a> = BoxFuture<'a, Result<u64, Error>>;

/// Statements that were sent and not yet answered, in the order of the server's answers.
#[derive(Default)]
struct Unanswered<'a> {
    queue: VecDeque<(Option<usize>, Answer<'a>)>,
    /// Written by those that were answered.
    rows: u64,
}

impl<'a> Unanswered<'a> {
    async fn send(&mut self, place: Option<usize>, mut statement: Answer<'a>) -> Result<(), Stop> {
        // The first poll sends.
        match poll!(statement.as_mut()) {
            Poll::Pending => self.queue.push_back((place, statement)),
            Poll::Ready(Ok(rows)) => self.rows += rows,
            Poll::Ready(Err(error)) => {
                // The connection has ended. What was sent before may say why.
                self.answered().await?;
                return Err(Stop::Refused { error, culprit: place });
            }
        }
        if self.queue.len() > UNANSWERED_MAX { self.next_answer().await } else { Ok(()) }
    }

    async fn answered(&mut self) -> Result<(), Stop> {
        while !self.queue.is_empty() {
            self.next_answer().await?;
        }
        Ok(())
    }

    async fn next_answer(&mut self) -> Result<(), Stop> {
        if let Some((place, answer)) = self.queue.pop_front() {
            self.rows += answer.await.map_err(|error| Stop::Refused { error, culprit: place })?;
        }
        Ok(())
    }
}

async fn write_arrays(
    client: &Client,
    statement: &Statement,
    format: &RowFormat,
    key: &[usize],
    records: &[&Record],
    unfit: &mut Unfit,
) -> Result<Begun, Stop> {
    let mut rows: Vec<(usize, Bytes)> = Vec::with_capacity(records.len());
    let mut buffer = BytesMut::new();
    for (place, record) in records.iter().enumerate() {
        match format.put(record, &mut buffer) {
            Ok(()) => rows.push((place, buffer.split().freeze())),
            Err(fault) => unfit.push((place, fault)),
        }
    }
    if !key.is_empty() {
        keep_last_of_each_key(&mut rows, key);
    }
    let culprit = match rows.as_slice() {
        [] => return Ok(Begun::No),
        [(place, _)] => Some(*place),
        [_, _, ..] => None,
    };
    let sent = rows.len() as u64;
    let arrays = arrays(format, rows.into_iter().map(|(_, row)| row));
    let (begun, written) = join(client.batch_execute(BEGIN), client.execute_raw(statement, arrays)).await;
    begun?;
    let written = written.map_err(|error| Stop::Refused { error, culprit })?;
    Ok(Begun::Yes { all_new: written >= sent })
}

/// One statement cannot replace a row twice; the last one counts, as it would one by one. Keys that the server takes for
/// equal although their bytes differ are left: it refuses the statement (SQLSTATE 21000), and in halves it is asked again.
fn keep_last_of_each_key(rows: &mut Vec<(usize, Bytes)>, key: &[usize]) {
    let key_of = |row: &Bytes| -> Vec<Option<Bytes>> {
        let values: Vec<Option<Bytes>> = values(row.clone()).collect();
        key.iter().filter_map(|place| values.get(*place).cloned()).collect()
    };
    let last: HashMap<Vec<Option<Bytes>>, usize> = rows.iter().map(|(place, row)| (key_of(row), *place)).collect();
    rows.retain(|(place, row)| last.get(&key_of(row)) == Some(place));
}

fn arrays(format: &RowFormat, rows: impl ExactSizeIterator<Item = Bytes>) -> Vec<Parameter> {
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let mut arrays: Vec<BytesMut> = format
        .fields()
        .iter()
        .map(|field| {
            let mut array = BytesMut::new();
            // Dimensions, whether there may be nulls, type of the elements, their number, the first one's index.
            array.put_i32(1);
            array.put_i32(field.null_unless_text.into());
            array.put_u32(field.wire.element_type().oid());
            array.put_u32(count);
            array.put_i32(1);
            array
        })
        .collect();
    for row in rows {
        for (array, value) in arrays.iter_mut().zip(values(row)) {
            match value {
                Some(value) => {
                    array.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                    array.put_slice(&value);
                }
                None => array.put_i32(NULL),
            }
        }
    }
    arrays.into_iter().map(|array| Parameter { value: Some(array.freeze()), literal: false }).collect()
}

async fn write_copy(
    client: &Client,
    statement: &Statement,
    format: &RowFormat,
    table: &TableCheck,
    records: &[&Record],
    unfit: &mut Unfit,
) -> Result<Begun, Stop> {
    let mut places = Vec::with_capacity(records.len());
    let mut records = records.iter().copied().enumerate();
    let mut buffer = BytesMut::from(COPY_HEAD);
    let mut ended = false;
    let mut next_chunk = |places: &mut Vec<usize>| {
        while !ended && buffer.len() < COPY_CHUNK_BYTES {
            match records.next() {
                Some((place, record)) => match format.put(record, &mut buffer) {
                    Ok(()) => places.push(place),
                    Err(fault) => unfit.push((place, fault)),
                },
                None => {
                    buffer.put_i16(COPY_END);
                    ended = true;
                }
            }
        }
        (!buffer.is_empty()).then(|| buffer.split().freeze())
    };
    let mut chunk = next_chunk(&mut places);
    if places.is_empty() {
        return Ok(Begun::No);
    }
    let (begun, copying) = join(client.batch_execute(BEGIN), client.copy_in::<_, Bytes>(statement)).await;
    begun?;
    let mut copying = pin!(copying?);
    while let Some(bytes) = chunk {
        if copying.feed(bytes).await.is_err() {
            // The end says why.
            break;
        }
        chunk = next_chunk(&mut places);
    }
    let (copied, found) = join(copying.finish(), layout(client, &table.statement, &table.quoted_name)).await;
    let copied = copied.map_err(|error| {
        let line = copied_line(&error, &table.bare_name);
        let culprit = line.and_then(|line| places.get(line.checked_sub(1)?)).copied();
        Stop::Refused { error, culprit }
    })?;
    if found? != table.layout {
        return Err(Stop::Changed(format!("the columns of {} have changed", table.quoted_name)));
    }
    Ok(Begun::Yes { all_new: copied >= places.len() as u64 })
}

/// A value in the form that its parameter has on the wire already.
#[derive(Debug)]
struct Parameter {
    /// `None` is NULL.
    value: Option<Bytes>,
    literal: bool,
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let Some(value) = &self.value else { return Ok(IsNull::Yes) };
        out.put_slice(value);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if self.literal { Format::Text } else { Format::Binary }
    }

    to_sql_checked!();
}
