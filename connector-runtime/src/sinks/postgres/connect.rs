//! A connection to PostgreSQL, with the plan by which it writes.
//!
//! `tokio-postgres` speaks over any stream, so the socket and TLS are ours: the address is the one that was checked
//! against `connectors.deny_networks`, the name in the certificate is the user's, and after an abort the socket is silent.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{CancelToken, Client, NoTls};
use tokio_util::sync::CancellationToken;

use super::fault::target_fault;
use super::plan::{Plan, Wanted};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::dial;
use crate::sinks::shared::network::Network;
use crate::sinks::shared::outgoing::Outgoing;
use crate::sinks::shared::pool::Connect;
use crate::sinks::shared::stream::{Stream, Tls, broken};

/// Length 8, code 1234.5679: "may I speak TLS?"
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const TLS_GRANTED: u8 = b'S';
const TLS_REFUSED: u8 = b'N';
/// A statement that was given up is called off at the server, if that can be done this fast.
const CALL_OFF_WITHIN: Duration = Duration::from_secs(2);

/// Writes nothing but a word into the log, so that the COMMIT behind it waits as one that has written rows.
pub(super) const MARK: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'sluice', ''::text)";
const MAY_MARK: &str = "\
    SELECT coalesce(bool_and(has_function_privilege(oid, 'EXECUTE')), false) FROM pg_catalog.pg_proc \
    WHERE proname = 'pg_logical_emit_message' AND pronamespace = 'pg_catalog'::regnamespace";

/// What the server itself bounds, for a client that cannot any more: paused, cut off, or its machine gone. Whoever writes
/// the same keys next waits for locks of this session. Milliseconds, the keep-alives seconds.
///
/// Statements of a batch follow each other at once, so a transaction that idles is one of nobody. Keep-alives and
/// unanswered bytes end a session after 30 s. A lock that somebody holds for longer than 10 s is the target's fault,
/// whatever the size of the batch that waits for it.
const SESSION: &str = "\
    SET idle_in_transaction_session_timeout = 3000; SET lock_timeout = 10000; \
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4; \
    SET tcp_user_timeout = 30000";

pub(super) struct Connector {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) deny_networks: Arc<[Network]>,
    pub(super) aborted: CancellationToken,
    pub(super) tls: Option<Tls>,
    pub(super) login: tokio_postgres::Config,
    pub(super) wanted: Wanted,
    pub(super) connect_timeout: Duration,
}

pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) plan: Plan,
    /// The role may write [`MARK`].
    pub(super) may_mark: bool,
    driver: Driver,
}

/// The task that moves the bytes. Dropped, the socket closes without another word.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connect for Connector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, TargetFault> {
        let stream = self.stream().await?;
        let connected = self.login.connect_raw(stream, NoTls).await;
        let (client, connection) = connected.map_err(|error| target_fault(&error))?;
        let driver = Driver(tokio::spawn(async move {
            // Whoever waits for an answer gets the error.
            let _ = connection.await;
        }));
        client.batch_execute(SESSION).await.map_err(|error| target_fault(&error))?;
        let plan = self.plan(&client).await?;
        let may_mark = client.query_one(MAY_MARK, &[]).await.and_then(|row| row.try_get(0));
        let may_mark = may_mark.map_err(|error| target_fault(&error))?;
        Ok(Connection { client, plan, may_mark, driver })
    }

    fn is_open(connection: &Connection) -> bool {
        !connection.client.is_closed()
    }

    async fn close(connection: Connection) {
        let Connection { client, plan, may_mark: _, mut driver } = connection;
        // The driver says goodbye once nobody can ask anything any more.
        drop((client, plan));
        let _ = (&mut driver.0).await;
    }
}

impl Connector {
    /// The session's own encryption, if any, is on; the library is told of none.
    async fn stream(&self) -> Result<Box<dyn Stream>, TargetFault> {
        let socket = dial::connect(&self.host, self.port, &self.deny_networks).await.map_err(|error| error.fault())?;
        let mut stream = Outgoing::new(socket, self.aborted.clone()).map_err(|error| broken(&error))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        stream.write_all(&TLS_REQUEST).await.map_err(|error| broken(&error))?;
        match stream.read_u8().await.map_err(|error| broken(&error))? {
            TLS_GRANTED => {}
            TLS_REFUSED => {
                let kind = TargetFaultKind::Misconfigured("TARGET_WITHOUT_TLS");
                return Err(TargetFault::new(kind, "the server does not speak TLS"));
            }
            answer => {
                let message = format!("the server answered the request for TLS with byte {answer}");
                return Err(TargetFault::new(TargetFaultKind::Down, message));
            }
        }
        Ok(Box::new(tls.over(stream).await?))
    }

    /// A table that is locked holds up whoever looks at it. The server gives up as we do: a connection that only we
    /// forget would stay there until the lock goes, and each attempt would add one.
    async fn plan(&self, client: &Client) -> Result<Plan, TargetFault> {
        let refused = |error: tokio_postgres::Error| target_fault(&error);
        let patience = format!("SET statement_timeout = {}", self.connect_timeout.as_millis());
        client.batch_execute(&patience).await.map_err(refused)?;
        let plan = self.wanted.plan(client).await?;
        client.batch_execute("RESET statement_timeout").await.map_err(refused)?;
        Ok(plan)
    }

    /// Ends what the server still does for a connection that is given up; otherwise a statement that waits for a lock
    /// stays there, and each attempt adds one.
    pub(super) async fn call_off(&self, token: CancelToken) {
        let call_off = async {
            if let Ok(stream) = self.stream().await {
                // It is over for us either way.
                let _ = token.cancel_query_raw(stream, NoTls).await;
            }
        };
        let _ = tokio::time::timeout(CALL_OFF_WITHIN, call_off).await;
    }
}

pub(super) fn login(username: &str, password: &str, database: &str, connector: &str) -> tokio_postgres::Config {
    let mut login = tokio_postgres::Config::new();
    login
        .user(username)
        .password(password)
        .dbname(database)
        .application_name(format!("sluice/{connector}"))
        .ssl_mode(SslMode::Disable);
    login
}
