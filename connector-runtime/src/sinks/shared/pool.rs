//! Connections that are kept open for the next batch, for the drivers that have no pool which fits.
//!
//! ```text
//! acquire ──► a permit, within acquire_timeout ──► newest idle connection that still lives, else a new one
//!                                                       ▲                      │ within connect_timeout
//! keeper: closes what is too old or idle for too long,  └── idle ◄── keep ◄── Lease ── dropped ──► gone at once
//!         opens what is missing to min_size
//! ```
//!
//! A connection whose lease is dropped is in an unknown state (a fault, an abort, a call that was given up): it is
//! never used again. A connection that cannot be made is reported at once; only the pipeline waits and tries again.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::sink::{TargetFault, TargetFaultKind};

/// How often the keeper looks. The timeouts are whole seconds.
const KEEPER_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause of the keeper after it could not connect: it must not hammer on a target that is away.
const KEEPER_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A quiet goodbye may take this long; after it the connection is cut.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A driver, as the pool needs it.
pub(crate) trait Connect: Send + Sync + 'static {
    /// Dropped, it is gone at once and without a word to the target.
    type Connection: Send + 'static;

    /// Ready for use. The pool bounds the time.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, TargetFault>> + Send;

    /// The target has not closed it.
    fn is_open(connection: &Self::Connection) -> bool;

    /// Says goodbye. The pool bounds the time.
    fn close(connection: Self::Connection) -> impl Future<Output = ()> + Send;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolOptions {
    pub(crate) max_size: u32,
    pub(crate) min_size: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) acquire_timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
}

pub(crate) struct Pool<C: Connect> {
    shared: Arc<Shared<C>>,
    stop_keeper: CancellationToken,
    _keeper_ends: DropGuard,
}

struct Shared<C: Connect> {
    connector: C,
    options: PoolOptions,
    /// One for each connection that is in use or being made.
    permits: Arc<Semaphore>,
    state: Mutex<State<C::Connection>>,
}

struct State<T> {
    /// The newest last.
    idle: Vec<Idle<T>>,
    /// In use, idle, or being made.
    size: usize,
    closed: bool,
}

struct Idle<T> {
    connection: T,
    made_at: Instant,
    idle_since: Instant,
}

impl<C: Connect> Pool<C> {
    /// Connects once, so that what is wrong shows at once.
    pub(crate) async fn open(connector: C, options: PoolOptions) -> Result<Self, TargetFault> {
        let shared = Arc::new(Shared {
            connector,
            options,
            permits: Arc::new(Semaphore::new(options.max_size as usize)),
            state: Mutex::new(State { idle: Vec::new(), size: 0, closed: false }),
        });
        shared.acquire().await?.keep();
        let stop = CancellationToken::new();
        // Ends with the pool: by `shut`, or when it is dropped.
        tokio::spawn(Arc::clone(&shared).keep_up(stop.clone()));
        Ok(Self { shared, stop_keeper: stop.clone(), _keeper_ends: stop.drop_guard() })
    }

    pub(crate) async fn acquire(&self) -> Result<Lease<C>, TargetFault> {
        self.shared.acquire().await
    }

    pub(crate) fn connector(&self) -> &C {
        &self.shared.connector
    }

    /// What one connection found out – the target was away, or is not what it was – is true for the others too.
    pub(crate) fn drop_idle(&self) {
        let mut state = self.shared.lock();
        state.size -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    /// Drops what is idle; what is in use goes with its lease.
    pub(crate) fn abort(&self) {
        drop(self.shut());
    }

    pub(crate) async fn close(&self) {
        let goodbyes = self.shut().into_iter().map(|idle| timeout(CLOSE_WITHIN, C::close(idle.connection)));
        join_all(goodbyes).await;
    }

    fn shut(&self) -> Vec<Idle<C::Connection>> {
        self.shared.permits.close();
        self.stop_keeper.cancel();
        let mut state = self.shared.lock();
        state.closed = true;
        state.size -= state.idle.len();
        std::mem::take(&mut state.idle)
    }
}

impl<C: Connect> Shared<C> {
    async fn acquire(self: &Arc<Self>) -> Result<Lease<C>, TargetFault> {
        let limit = self.options.acquire_timeout;
        let permit = match timeout(limit, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(TargetFault::new(TargetFaultKind::Interrupted, "the sink is closed")),
            Err(_) => {
                let message = format!("no connection became free within {} s", limit.as_secs());
                return Err(TargetFault::new(TargetFaultKind::Down, message));
            }
        };
        match self.take_idle() {
            Some(Idle { connection, made_at, .. }) => {
                Ok(Lease { connection, made_at, place: Place { shared: Arc::clone(self), _permit: permit } })
            }
            None => self.connect(permit).await,
        }
    }

    async fn connect(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<Lease<C>, TargetFault> {
        self.lock().size += 1;
        // Counted from here on, also when connecting fails or is given up.
        let place = Place { shared: Arc::clone(self), _permit: permit };
        let limit = self.options.connect_timeout;
        match timeout(limit, self.connector.connect()).await {
            Ok(connected) => Ok(Lease { connection: connected?, made_at: Instant::now(), place }),
            Err(_) => {
                let message = format!("no connection within {} s", limit.as_secs());
                Err(TargetFault::new(TargetFaultKind::Down, message))
            }
        }
    }

    fn take_idle(&self) -> Option<Idle<C::Connection>> {
        let now = Instant::now();
        let mut state = self.lock();
        while let Some(idle) = state.idle.pop() {
            let too_long = self.options.idle_timeout.is_some_and(|limit| now >= idle.idle_since + limit);
            if C::is_open(&idle.connection) && !self.is_too_old(idle.made_at, now) && !too_long {
                return Some(idle);
            }
            state.size -= 1;
        }
        None
    }

    fn is_too_old(&self, made_at: Instant, now: Instant) -> bool {
        self.options.max_lifetime.is_some_and(|limit| now >= made_at + limit)
    }

    async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = KEEPER_PAUSE;
        let keep = async {
            loop {
                let expired =
                    self.take_expired().into_iter().map(|idle| timeout(CLOSE_WITHIN, C::close(idle.connection)));
                join_all(expired).await;
                pause = match self.fill().await {
                    Ok(()) => KEEPER_PAUSE,
                    // Whoever delivers sees the same fault, and reports it.
                    Err(_) => (pause * 2).min(KEEPER_PAUSE_MAX),
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep => {}
        }
    }

    fn take_expired(&self) -> Vec<Idle<C::Connection>> {
        let now = Instant::now();
        let mut state = self.lock();
        let mut expired = Vec::new();
        let mut at = 0;
        while let Some(idle) = state.idle.get(at) {
            let too_long = self.options.idle_timeout.is_some_and(|limit| now >= idle.idle_since + limit);
            let spare = state.size > self.options.min_size as usize;
            if !C::is_open(&idle.connection) || self.is_too_old(idle.made_at, now) || (too_long && spare) {
                expired.push(state.idle.remove(at));
                state.size -= 1;
            } else {
                at += 1;
            }
        }
        expired
    }

    async fn fill(self: &Arc<Self>) -> Result<(), TargetFault> {
        while self.lock().size < self.options.min_size as usize {
            // All permits in use are connections of their own.
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return Ok(()) };
            self.connect(permit).await?.keep();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<C::Connection>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. It is kept only when its user says so.
pub(crate) struct Lease<C: Connect> {
    connection: C::Connection,
    made_at: Instant,
    place: Place<C>,
}

impl<C: Connect> Lease<C> {
    /// Nothing is under way on it: the next batch may use it.
    pub(crate) fn keep(self) {
        let Self { connection, made_at, place } = self;
        let shared = Arc::clone(&place.shared);
        let now = Instant::now();
        let mut state = shared.lock();
        if state.closed || shared.is_too_old(made_at, now) {
            return;
        }
        state.idle.push(Idle { connection, made_at, idle_since: now });
        // What the place takes away when it goes, right after.
        state.size += 1;
    }
}

impl<C: Connect> Deref for Lease<C> {
    type Target = C::Connection;

    fn deref(&self) -> &C::Connection {
        &self.connection
    }
}

impl<C: Connect> DerefMut for Lease<C> {
    fn deref_mut(&mut self) -> &mut C::Connection {
        &mut self.connection
    }
}

/// One connection's share of the pool.
struct Place<C: Connect> {
    shared: Arc<Shared<C>>,
    _permit: OwnedSemaphorePermit,
}

impl<C: Connect> Drop for Place<C> {
    fn drop(&mut self) {
        self.shared.lock().size -= 1;
    }
}
