//! The way between a driver that opens its own sockets and its servers: a relay on loopback, inside of the process.
//!
//! ```text
//! driver ──plain, loopback──► relay ── looks up, checks deny_networks, speaks TLS ──► server
//! ```
//!
//! Every connection goes to an address that was checked, the certificate is judged as for every other sink, a request
//! without an answer is given up, and after an abort nothing more leaves the process, whatever the driver still does.
//! How a driver says where it wants to go, and who it is, is each sink's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::network::Network;
use super::stream::{Route, Stream, Trust, broken};
use crate::sink::{TargetFault, TargetFaultKind};

/// A goodbye over TLS may take this long.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const UP_BYTES: usize = 64 << 10;
const DOWN_BYTES: usize = 16 << 10;
/// Servers name each other, so that their number is not ours to choose; a replica set has at most 50.
const FAULTS_MAX: usize = 64;

/// How a relay connects to servers, whichever they are.
pub(crate) struct Ways {
    pub(crate) deny_networks: Arc<[Network]>,
    pub(crate) tls: Option<Trust>,
    pub(crate) connect_within: Duration,
    pub(crate) answer_within: Duration,
    /// A server that takes nothing is missed by `answer_within` alone.
    pub(crate) is_patient: bool,
    pub(crate) aborted: CancellationToken,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The name in its certificate, where it is not the host.
    pub(crate) certificate_name: Option<String>,
}

/// Carries connections, and knows why those to a server did not come about.
pub(crate) struct Carrier {
    ways: Ways,
    faults: Mutex<Faults>,
}

/// Why the last connection to a server did not come about or was lost, until there is another.
#[derive(Default)]
struct Faults(BTreeMap<Place, (Instant, TargetFault)>);

impl Carrier {
    pub(crate) fn new(ways: Ways) -> Self {
        Self { ways, faults: Mutex::default() }
    }

    #[cfg(feature = "cassandra")]
    pub(crate) fn connect_within(&self) -> Duration {
        self.ways.connect_within
    }

    /// Why none of these hosts can be used; of any, where none is known.
    #[cfg(feature = "cassandra")]
    pub(crate) fn fault(&self, hosts: &BTreeSet<String>) -> Option<TargetFault> {
        self.faults().of_all(hosts)
    }

    /// Why none of these servers (`host:port`) could be used since.
    #[cfg(feature = "mongodb")]
    pub(crate) fn fault_of(&self, servers: &BTreeSet<String>, since: Instant) -> Option<TargetFault> {
        self.faults().of(servers, since)
    }

    /// Serves every connection from this machine, until `ended` or an abort; then none is left.
    pub(crate) async fn listen<F>(
        &self,
        listener: TcpListener,
        ended: CancellationToken,
        serve: impl Fn(TcpStream) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                () = self.ways.aborted.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    match accepted {
                        Ok((client, from)) if from.ip().is_loopback() => {
                            connections.spawn(serve(client));
                        }
                        Ok(_) => {}
                        // No more files, or one that was gone before it was taken: the driver tries again as well.
                        Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                    }
                }
            }
        }
    }

    /// A failure is noted.
    pub(crate) async fn connect(&self, place: &Place) -> Option<Box<dyn Stream>> {
        let limit = self.ways.connect_within;
        let connected = timeout(limit, self.route(place)).await.unwrap_or_else(|_| {
            let message = format!("no connection to {}:{} within {} s", place.host, place.port, limit.as_secs());
            Err(TargetFault::new(TargetFaultKind::Down, message))
        });
        match connected {
            Ok(server) => {
                self.faults().0.remove(place);
                Some(server)
            }
            Err(fault) => {
                self.note(place, fault);
                None
            }
        }
    }

    async fn route(&self, place: &Place) -> Result<Box<dyn Stream>, TargetFault> {
        let name = place.certificate_name.as_ref().unwrap_or(&place.host);
        let tls = self.ways.tls.as_ref().map(|trust| trust.towards(name));
        let route = Route {
            host: place.host.clone(),
            port: place.port,
            tls: tls.transpose()?,
            deny_networks: Arc::clone(&self.ways.deny_networks),
            is_patient: self.ways.is_patient,
            aborted: self.ways.aborted.clone(),
        };
        route.connect().await
    }

    /// Until one of both ends, or the server leaves a request without an answer. `ends_answer` is shown all bytes of the
    /// server, and says whether they end with the end of an answer.
    pub(crate) async fn carry(
        &self,
        mut client: TcpStream,
        server: Box<dyn Stream>,
        place: &Place,
        ends_answer: impl FnMut(&[u8]) -> bool,
    ) {
        let limit = self.ways.answer_within;
        let due = Due::new(limit);
        let (from_server, mut to_server) = tokio::io::split(server);
        let (from_client, to_client) = client.split();
        let end = tokio::select! {
            () = self.ways.aborted.cancelled() => return,
            end = upwards(from_client, &mut to_server, &due) => end,
            end = downwards(from_server, to_client, &due, ends_answer) => end,
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

    pub(crate) fn note(&self, place: &Place, fault: TargetFault) {
        let message = format!("{}:{}: {}", place.host, place.port, fault.message);
        self.faults().note(place.clone(), Instant::now(), TargetFault { message: message.into(), ..fault });
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    fn note(&mut self, place: Place, at: Instant, fault: TargetFault) {
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
    #[cfg(feature = "mongodb")]
    fn of(&self, servers: &BTreeSet<String>, since: Instant) -> Option<TargetFault> {
        let is_of_these = |place: &Place| servers.contains(&format!("{}:{}", place.host, place.port));
        let of_these: Vec<&(Instant, TargetFault)> =
            self.0.iter().filter(|(place, _)| is_of_these(place)).map(|(_, fault)| fault).collect();
        let of_all = of_these.len() == servers.len();
        let told = of_these.into_iter().filter(|(at, _)| of_all || *at >= since).map(|(_, fault)| fault);
        told.max_by_key(|fault| fault.kind.needs_a_person()).cloned()
    }
}

#[cfg(feature = "cassandra")]
impl Faults {
    /// What time may mend at one of them before what a person must mend at all; the newest. What is known of hosts that
    /// are none of these says nothing about them.
    fn of_all(&self, hosts: &BTreeSet<String>) -> Option<TargetFault> {
        let of_these = self.0.iter().filter(|(place, _)| hosts.contains(&place.host));
        let mut told: Vec<(&Place, &(Instant, TargetFault))> = of_these.collect();
        if told.is_empty() {
            told = self.0.iter().collect();
        }
        let newest = |needs_a_person: bool| {
            let of_this_kind =
                told.iter().map(|(_, fault)| fault).filter(|(_, fault)| fault.kind.needs_a_person() == needs_a_person);
            of_this_kind.max_by_key(|(at, _)| *at).map(|(_, fault)| fault.clone())
        };
        let of_how_many = told.iter().map(|(place, _)| &place.host).collect::<BTreeSet<_>>().len();
        let all = || (of_how_many >= hosts.len()).then(|| newest(true)).flatten();
        newest(false).or_else(all)
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

async fn downwards(
    mut server: impl AsyncRead + Unpin,
    mut driver: WriteHalf<'_>,
    due: &Due,
    mut ends_answer: impl FnMut(&[u8]) -> bool,
) -> End {
    let mut buffer = vec![0; DOWN_BYTES];
    loop {
        let length = match server.read(&mut buffer).await {
            Ok(0) => {
                return End::Server(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            Ok(length) => length,
            Err(error) => return End::Server(error),
        };
        if ends_answer(&buffer[..length]) {
            due.end();
        } else {
            due.begin();
        }
        if driver.write_all(&buffer[..length]).await.is_err() {
            return End::Driver;
        }
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

#[cfg(all(test, feature = "cassandra", feature = "mongodb"))]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_person_is_called_only_for_what_all_of_them_have() {
        let began = Instant::now();
        let at = |secs| began + Duration::from_secs(secs);
        let certificate = TargetFault::new(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "untrusted");
        let down = TargetFault::new(TargetFaultKind::Down, "refused");
        let place = |host: &str| Place { host: host.to_owned(), port: 1, certificate_name: None };
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let mut faults = Faults::default();
        assert_eq!(faults.of_all(&hosts(&[])), None);
        faults.note(place("a"), at(1), certificate.clone());
        assert_eq!(faults.of_all(&hosts(&["a"])), Some(certificate.clone()));
        assert_eq!(faults.of_all(&hosts(&[])), Some(certificate.clone()), "no other was tried");
        assert_eq!(faults.of_all(&hosts(&["a", "b"])), None, "nothing is known about b");
        faults.note(place("b"), at(0), down.clone());
        assert_eq!(faults.of_all(&hosts(&["a", "b"])), Some(down.clone()), "b may come back");
        assert_eq!(faults.of_all(&hosts(&[])), Some(down), "b may come back");
        // One that has left the cluster says nothing.
        assert_eq!(faults.of_all(&hosts(&["a"])), Some(certificate));
    }

    #[test]
    fn an_old_fault_of_one_server_says_nothing_about_another() {
        let before = Instant::now();
        let since = before + Duration::from_secs(1);
        let certificate = TargetFault::new(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"), "untrusted");
        let down = TargetFault::new(TargetFaultKind::Down, "refused");
        let place = |host: &str| Place { host: host.to_owned(), port: 1, certificate_name: None };
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
            _ = downwards(from_server, to_driver, &due, |_| false) => panic!("nobody ends the connection"),
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
            let place = Place { host: number.to_string(), port: 1, certificate_name: None };
            faults.note(place, at, fault.clone());
        }
        assert_eq!(faults.0.len(), FAULTS_MAX);
        assert_eq!(faults.of(&BTreeSet::from(["0:1".to_owned()]), began), None, "the oldest made room");
        assert_eq!(faults.of(&BTreeSet::from([format!("{FAULTS_MAX}:1")]), began), Some(fault));
    }
}
