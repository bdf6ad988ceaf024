//! The way of the driver's connections: a proxy for this one sink, on loopback, inside of the process.
//!
//! ```text
//! driver ──SOCKS5, a password──► relay ── looks up, checks deny_networks, speaks TLS ──► server
//! ```
//!
//! The driver opens its own sockets, looks names up itself and takes the name in the certificate from the address. Here
//! every connection goes to an address that was checked, the certificate is judged as for every other sink, a request
//! without an answer is given up, and after an abort nothing more leaves the process, whatever the driver still does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::socks::{self, Reply};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::network::Network;
use crate::sinks::shared::stream::{Route, Stream, Trust, broken};

pub(super) const USER: &str = "sluice";
/// The driver is at the other end of loopback.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Others on this machine can open connections too, and have no password.
const HANDSHAKES_MAX: usize = 256;
/// A goodbye over TLS may take this long.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const UP_BYTES: usize = 64 << 10;
const DOWN_BYTES: usize = 16 << 10;
/// Servers name each other, so that their number is not ours to choose; a replica set has at most 50.
const FAULTS_MAX: usize = 64;

/// How it connects to servers, whichever they are.
pub(super) struct Ways {
    pub(super) deny_networks: Arc<[Network]>,
    pub(super) tls: Option<Trust>,
    pub(super) connect_within: Duration,
    pub(super) answer_within: Duration,
    pub(super) aborted: CancellationToken,
}

pub(super) struct Relay {
    pub(super) port: u16,
    pub(super) password: String,
    shared: Arc<Shared>,
    ended: CancellationToken,
    _ends: DropGuard,
}

struct Shared {
    ways: Ways,
    password: String,
    handshakes: Arc<Semaphore>,
    faults: Mutex<Faults>,
}

/// Why the last connection to a server did not come about or was lost, until there is another.
#[derive(Default)]
struct Faults(BTreeMap<(String, u16), (Instant, TargetFault)>);

impl Relay {
    pub(super) async fn open(ways: Ways) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let shared = Arc::new(Shared {
            ways,
            password: password.clone(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            faults: Mutex::default(),
        });
        let ended = CancellationToken::new();
        // Ends with the relay: by `end`, by an abort, or when it is dropped.
        tokio::spawn(Arc::clone(&shared).listen(listener, ended.clone()));
        Ok(Self { port, password, shared, ended: ended.clone(), _ends: ended.drop_guard() })
    }

    /// Why none of these servers could be used since.
    pub(super) fn fault(&self, servers: &BTreeSet<String>, since: Instant) -> Option<TargetFault> {
        self.shared.faults().of(servers, since)
    }

    /// Connections that are still open are closed.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, listener: TcpListener, ended: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                () = self.ways.aborted.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    match accepted {
                        Ok((client, from)) => {
                            connections.spawn(Arc::clone(&self).serve(client, from));
                        }
                        // No more files, or one that was gone before it was taken: the driver tries again as well.
                        Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                    }
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream, from: SocketAddr) {
        if !from.ip().is_loopback() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else { return };
        let wanted = timeout(HANDSHAKE_WITHIN, socks::wanted(&mut client, USER, &self.password)).await;
        drop(permit);
        // Nobody that we know.
        let Ok(Ok((host, port))) = wanted else { return };
        // Answers are small, and nobody on loopback minds small packets.
        let _ = client.set_nodelay(true);
        let place = (host, port);
        // The driver may give up first.
        let mut nothing = [0];
        let connected = tokio::select! {
            connected = self.connect(&place.0, place.1) => connected,
            _ = client.peek(&mut nothing) => return,
        };
        match connected {
            Ok(server) => {
                self.faults().0.remove(&place);
                if socks::reply(&mut client, Reply::Connected).await.is_ok() {
                    self.carry(client, server, place).await;
                }
            }
            Err(fault) => {
                self.note(place, fault);
                // The driver is gone, or sees the connection close.
                let _ = socks::reply(&mut client, Reply::Refused).await;
            }
        }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, TargetFault> {
        let tls = self.ways.tls.as_ref().map(|trust| trust.towards(host));
        let route = Route {
            host: host.to_owned(),
            port,
            tls: tls.transpose()?,
            deny_networks: Arc::clone(&self.ways.deny_networks),
            // Who takes nothing is missed by `Due`.
            is_patient: true,
            aborted: self.ways.aborted.clone(),
        };
        let limit = self.ways.connect_within;
        timeout(limit, route.connect()).await.unwrap_or_else(|_| {
            let message = format!("no connection to {host}:{port} within {} s", limit.as_secs());
            Err(TargetFault::new(TargetFaultKind::Down, message))
        })
    }

    /// Until one of both ends, or the server leaves a request without an answer.
    async fn carry(&self, mut client: TcpStream, server: Box<dyn Stream>, place: (String, u16)) {
        let limit = self.ways.answer_within;
        let due = Due::new(limit);
        let (from_server, mut to_server) = tokio::io::split(server);
        let (from_client, to_client) = client.split();
        let end = tokio::select! {
            () = self.ways.aborted.cancelled() => return,
            end = upwards(from_client, &mut to_server, &due) => end,
            end = downwards(from_server, to_client, &due) => end,
            () = due.passed() => {
                let message = format!("no answer within {} s", limit.as_secs());
                End::Server(io::Error::new(io::ErrorKind::TimedOut, message))
            }
        };
        match end {
            End::Server(error) => self.note(place, broken(&error)),
            End::Driver => {
                let _ = timeout(GOODBYE_WITHIN, to_server.shutdown()).await;
            }
        }
    }

    fn note(&self, place: (String, u16), fault: TargetFault) {
        let message = format!("{}:{}: {}", place.0, place.1, fault.message);
        self.faults().note(place, Instant::now(), TargetFault { message: message.into(), ..fault });
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    fn note(&mut self, place: (String, u16), at: Instant, fault: TargetFault) {
        if self.0.len() >= FAULTS_MAX && !self.0.contains_key(&place) {
            let oldest = self.0.iter().min_by_key(|(_, (at, _))| *at).map(|(place, _)| place.clone());
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(place, (at, fault));
    }

    /// What a person must mend before what time may. An old fault of one server says nothing about a request that
    /// another one may have had; one that nobody looks to any more says nothing at all.
    fn of(&self, servers: &BTreeSet<String>, since: Instant) -> Option<TargetFault> {
        let is_of_these = |(host, port): &(String, u16)| servers.contains(&format!("{host}:{port}"));
        let of_these: Vec<&(Instant, TargetFault)> =
            self.0.iter().filter(|(place, _)| is_of_these(place)).map(|(_, fault)| fault).collect();
        let of_all = of_these.len() == servers.len();
        let told = of_these.into_iter().filter(|(at, _)| of_all || *at >= since).map(|(_, fault)| fault);
        told.max_by_key(|fault| fault.kind.needs_a_person()).cloned()
    }
}

/// Who ended a connection.
enum End {
    Driver,
    Server(io::Error),
}

async fn upwards(mut driver: ReadHalf<'_>, server: &mut (impl AsyncWrite + Unpin), due: &Due) -> End {
    let mut buffer = vec![0; UP_BYTES];
    loop {
        let length = match driver.read(&mut buffer).await {
            Ok(0) | Err(_) => return End::Driver,
            Ok(length) => length,
        };
        // Its socket holds the end of a request back until the beginning was acknowledged.
        let _ = SockRef::from(driver.as_ref()).set_tcp_quickack(true);
        due.begin();
        if let Err(error) = send(server, &buffer[..length]).await {
            return End::Server(error);
        }
        due.begin();
    }
}

async fn send(server: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    server.write_all(bytes).await?;
    // TLS may hold what it has taken.
    server.flush().await
}

async fn downwards(mut server: impl AsyncRead + Unpin, mut driver: WriteHalf<'_>, due: &Due) -> End {
    let mut buffer = vec![0; DOWN_BYTES];
    let mut answers = Answers::default();
    loop {
        let length = match server.read(&mut buffer).await {
            Ok(0) => {
                return End::Server(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            Ok(length) => length,
            Err(error) => return End::Server(error),
        };
        if answers.end_with(&buffer[..length]) {
            due.end();
        } else {
            due.begin();
        }
        if driver.write_all(&buffer[..length]).await.is_err() {
            return End::Driver;
        }
    }
}

/// Where the messages of a server end: each begins with its length.
#[derive(Default)]
struct Answers {
    length: Vec<u8>,
    left: usize,
}

impl Answers {
    const LENGTH_BYTES: usize = 4;

    /// Whether these bytes end with the end of a message.
    fn end_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let taken;
            (taken, bytes) = bytes.split_at(bytes.len().min(match self.left {
                0 => Self::LENGTH_BYTES - self.length.len(),
                left => left,
            }));
            if self.left > 0 {
                self.left -= taken.len();
                continue;
            }
            self.length.extend_from_slice(taken);
            if let Ok(length) = <[u8; Self::LENGTH_BYTES]>::try_from(&*self.length) {
                let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                self.left = length.saturating_sub(Self::LENGTH_BYTES);
                self.length.clear();
            }
        }
        self.left == 0 && self.length.is_empty()
    }
}

/// Until when the server has to say something. Bytes that its kernel takes put it off: a large request is long on its
/// way.
struct Due {
    began: Instant,
    limit: Duration,
    /// Milliseconds after `began`; 0 when nothing is asked.
    at: AtomicU64,
    changed: Notify,
}

impl Due {
    fn new(limit: Duration) -> Self {
        Self { began: Instant::now(), limit, at: AtomicU64::new(0), changed: Notify::new() }
    }

    fn begin(&self) {
        let at = (self.began.elapsed() + self.limit).as_millis();
        let idled = self.at.swap(u64::try_from(at).unwrap_or(u64::MAX), Ordering::Relaxed) == 0;
        if idled {
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        self.at.store(0, Ordering::Relaxed);
    }

    async fn passed(&self) {
        loop {
            match self.at.load(Ordering::Relaxed) {
                0 => self.changed.notified().await,
                at => {
                    tokio::time::sleep_until(self.began + Duration::from_millis(at)).await;
                    if self.at.load(Ordering::Relaxed) == at {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_fault_of_one_server_says_nothing_about_another() {
        let before = Instant::now();
        let since = before + Duration::from_secs(1);
        let certificate = TargetFault::new(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "untrusted");
        let down = TargetFault::new(TargetFaultKind::Down, "refused");
        let place = |host: &str| (host.to_owned(), 1);
        let servers = |names: &[&str]| names.iter().map(|name| format!("{name}:1")).collect::<BTreeSet<String>>();
        let mut faults = Faults::default();
        faults.note(place("a"), before, certificate.clone());
        assert_eq!(faults.of(&servers(&["a", "b"]), since), None, "b may have had the request");
        assert_eq!(faults.of(&servers(&["a"]), since), Some(certificate.clone()), "there is no other");
        faults.note(place("b"), since, down.clone());
        assert_eq!(faults.of(&servers(&["a", "b"]), since), Some(certificate.clone()), "none can be used");
        assert_eq!(faults.of(&servers(&["a", "b", "c"]), since), Some(down.clone()), "this one is new");
        // The set has another member in place of it.
        assert_eq!(faults.of(&servers(&["b"]), since), Some(down));
        assert_eq!(faults.of(&servers(&["c"]), since), None);
    }

    #[test]
    fn an_answer_is_one_when_all_of_it_is_there() {
        let mut answers = Answers::default();
        for (bytes, expect) in [
            (&b"\x06\0\0\0ab"[..], true),
            (b"\x06\0", false),
            (b"\0\0", false),
            (b"a", false),
            (b"b", true),
            (b"\x05\0\0\0a\x08\0\0\0abc", false),
            (b"d\x04\0\0\0", true),
        ] {
            assert_eq!(answers.end_with(bytes), expect, "{bytes:?}");
        }
    }

    /// Bytes come and no end: that is no answer yet.
    #[tokio::test(start_paused = true)]
    async fn half_of_an_answer_is_not_waited_for_for_ever() {
        let due = Due::new(Duration::from_secs(3));
        let (mut server, from_server) = tokio::io::duplex(64);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listens");
        let address = listener.local_addr().expect("is bound");
        let (driver, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_driver, (mut accepted, _)) = (driver.expect("connects"), accepted.expect("accepts"));
        let (_, to_driver) = accepted.split();
        due.begin();
        server.write_all(b"\x10\0\0\0half").await.expect("writes");
        tokio::select! {
            _ = downwards(from_server, to_driver, &due) => panic!("nobody ends the connection"),
            passed = timeout(Duration::from_secs(60), due.passed()) => passed.expect("passes"),
        }
    }

    #[test]
    fn faults_are_bounded_and_the_newest_are_kept() {
        let began = Instant::now();
        let mut faults = Faults::default();
        let fault = TargetFault::new(TargetFaultKind::Down, "refused");
        for number in 0..=FAULTS_MAX {
            let at = began + Duration::from_secs(number as u64);
            faults.note((number.to_string(), 1), at, fault.clone());
        }
        assert_eq!(faults.0.len(), FAULTS_MAX);
        assert_eq!(faults.of(&BTreeSet::from(["0:1".to_owned()]), began), None, "the oldest made room");
        assert_eq!(faults.of(&BTreeSet::from([format!("{FAULTS_MAX}:1")]), began), Some(fault));
    }
}
