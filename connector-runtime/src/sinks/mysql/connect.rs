//! A connection to the server, with the plan by which it writes.
//!
//! The protocol is spoken over a socket of our own: the address is the one that was checked against
//! `connectors.deny_networks`, the name in the certificate is the user's, after an abort the socket is silent, and
//! statements are sent before the ones ahead of them are answered.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio_util::sync::CancellationToken;

use super::answer::{AnswerError, Answers, Prepared, TextRow};
use super::fault::target_fault;
use super::login::{Login, Welcome};
use super::packet::{put_prepare, put_query, put_quit};
use super::plan::{Plan, Wanted};
use super::statement::literal;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::dial;
use crate::sinks::shared::network::Network;
use crate::sinks::shared::outgoing::Outgoing;
use crate::sinks::shared::pool::Connect;
use crate::sinks::shared::stream::{Stream, broken};

/// Values are never cut off, rounded into range or replaced by a default; whatever the server's own mode is, statements
/// mean the same. Times are in UTC. Nothing is kept before COMMIT, also when the server gives up a transaction (1213)
/// while more of it is on its way. Each statement sees what was committed before it.
///
/// Somebody who holds a lock for longer than 10 s is the target's fault, whatever the size of the batch that waits for
/// it. A packet that stops half-way is given up after 30 s.
const SESSION: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION sql_mode = 'TRADITIONAL', autocommit = 0, completion_type = 'NO_CHAIN', time_zone = '+00:00', \
     innodb_lock_wait_timeout = 10, lock_wait_timeout = 10, net_read_timeout = 30, net_write_timeout = 30",
];
const LONGEST_PACKET: &str = "SELECT @@max_allowed_packet";
const CLIENT: &str = "SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID()";
/// A statement that was given up is called off at the server, if that can be done this fast.
const CALL_OFF_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Connector {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) deny_networks: Arc<[Network]>,
    pub(super) aborted: CancellationToken,
    pub(super) login: Login,
    pub(super) wanted: Wanted,
    /// The columns that the first connection has found.
    pub(super) written: OnceLock<Vec<String>>,
}

pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) plan: Plan,
}

impl Connect for Connector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, TargetFault> {
        let mut session = Session::new(self.log_in().await?);
        session.settle().await.map_err(|error| target_fault(&error))?;
        let plan = self.wanted.plan(&mut session).await?;
        self.check_columns(&plan.columns)?;
        // Whoever has looked at a table without ending his transaction keeps others from changing it.
        session.execute("ROLLBACK").await.map_err(|error| target_fault(&error))?;
        Ok(Connection { session, plan })
    }

    fn is_open(connection: &Connection) -> bool {
        connection.session.answers.lock().unwrap_or_else(PoisonError::into_inner).is_quiet()
    }

    async fn close(connection: Connection) {
        let Session { mut commands, .. } = connection.session;
        let mut goodbye = BytesMut::new();
        put_quit(&mut goodbye);
        // The server closes the connection, or it is closed all the same.
        let _ = commands.write_all(&goodbye).await;
        let _ = commands.shutdown().await;
    }
}

impl Connector {
    /// Without one that was written before, rows would be smaller from now on, and nobody would notice.
    fn check_columns(&self, columns: &[String]) -> Result<(), TargetFault> {
        let before = self.written.get_or_init(|| columns.to_vec());
        let Some(lost) = before.iter().find(|column| !columns.contains(column)) else { return Ok(()) };
        let message = format!("the table has no column {lost} any more, or it may not be written");
        Err(TargetFault::new(TargetFaultKind::Missing, message))
    }

    async fn log_in(&self) -> Result<Welcome, TargetFault> {
        let socket = dial::connect(&self.host, self.port, &self.deny_networks).await.map_err(|error| error.fault())?;
        let socket = Outgoing::new(socket, self.aborted.clone()).map_err(|error| broken(&error))?;
        self.login.log_in(socket).await
    }

    /// Ends what the server still does for a connection that is given up. It would go on with what it has been sent
    /// already, wait for each lock anew, and hold its own meanwhile.
    ///
    /// Several servers may stand behind one name, and each of them numbers its sessions by itself: one that does not
    /// come from `client` is a stranger's.
    pub(super) async fn call_off(&self, connection_id: u32, client: &str) {
        if client.is_empty() {
            return;
        }
        let client = literal(client);
        let ours =
            format!("SELECT ID FROM information_schema.PROCESSLIST WHERE ID = {connection_id} AND HOST = {client}");
        let call_off = async {
            let Ok(welcome) = self.log_in().await else { return };
            let mut session = Session::new(welcome);
            if session.query(&ours).await.is_ok_and(|rows| !rows.is_empty()) {
                // It is over for us either way.
                let _ = session.execute(&format!("KILL {connection_id}")).await;
            }
        };
        let _ = tokio::time::timeout(CALL_OFF_WITHIN, call_off).await;
    }
}

/// Commands go out, answers come in, each by its own half.
pub(super) struct Session {
    pub(super) id: u32,
    /// Where the server sees this session come from; empty where it does not say.
    pub(super) client: String,
    /// Longest command that the server takes.
    pub(super) packet_bytes_max: usize,
    commands: WriteHalf<Box<dyn Stream>>,
    /// Looked at while the connection idles as well.
    answers: Mutex<Answers>,
}

impl Session {
    fn new(welcome: Welcome) -> Self {
        let (read, write) = tokio::io::split(welcome.stream);
        let answers = Mutex::new(Answers::new(read, welcome.buffer));
        Self { id: welcome.connection_id, client: String::new(), packet_bytes_max: 0, commands: write, answers }
    }

    async fn settle(&mut self) -> Result<(), AnswerError> {
        for statement in SESSION {
            self.execute(statement).await?;
        }
        let rows = self.query(LONGEST_PACKET).await?;
        let longest = rows.first().and_then(|row| row.first().cloned().flatten());
        let longest = longest.and_then(|text| std::str::from_utf8(&text).ok()?.parse::<usize>().ok());
        // One of this very length is refused already.
        self.packet_bytes_max = longest.ok_or(AnswerError::Protocol("no max_allowed_packet"))?.saturating_sub(1);
        let rows = match self.query(CLIENT).await {
            // It is written without, and never called off.
            Err(AnswerError::Server(_)) => Vec::new(),
            answer => answer?,
        };
        let client = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        self.client = String::from_utf8_lossy(&client).into_owned();
        Ok(())
    }

    /// Both halves, to send while answers come in.
    pub(super) fn halves(&mut self) -> (&mut WriteHalf<Box<dyn Stream>>, &mut Answers) {
        (&mut self.commands, self.answers.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn execute(&mut self, sql: &str) -> Result<(), AnswerError> {
        self.send(sql, put_query).await?.done().await
    }

    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, AnswerError> {
        self.send(sql, put_query).await?.rows().await
    }

    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Prepared, AnswerError> {
        self.send(sql, put_prepare).await?.prepared().await
    }

    async fn send(&mut self, sql: &str, put: fn(&str, &mut BytesMut)) -> Result<&mut Answers, AnswerError> {
        let mut command = BytesMut::new();
        put(sql, &mut command);
        let (commands, answers) = self.halves();
        commands.write_all(&command).await?;
        commands.flush().await?;
        Ok(answers)
    }
}
