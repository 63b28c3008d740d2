//! One worker: a thread with a single-threaded runtime, a listener, a pool, and its own counters.
//!
//! Nothing here is shared with another worker but the tables and the counts of requests in flight,
//! and nothing is locked on a request's way. Tasks of a worker:
//!
//! | task | input | output |
//! |---|---|---|
//! | main | the listener | one task for each connection |
//! | | newer tables | the pool, held requests, the acknowledgement |
//! | | time | closes silent connections, ends stalled responses, sweeps the pool |
//! | connection | a client | requests to backends |
//! | tunnel | an upgraded connection | bytes both ways |
//! | probe | an ejected backend | its re-admission |

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use common::id::Generation;
use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::activity::{Clock, SilenceLimits};
use crate::client::{self, Watched};
use crate::descriptors;
use crate::lent::Bodies;
use crate::network::Network;
use crate::pool::Pool;
use crate::random::Random;
use crate::routes::CompiledTable;
use crate::statistics::WorkerStatistics;
use crate::table::Tables;

/// How often a worker looks at its connections; its clock counts these.
const TICK: Duration = Duration::from_secs(1);
/// The wait after a connection could not be accepted: out of descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How often a client that waits for a place looks whether a connection has become idle.
const PLACE_RETRY: Duration = Duration::from_millis(20);

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tables: Arc<Tables>,
    pub(crate) statistics: Box<[WorkerStatistics]>,
    pub(crate) log: Option<AccessLog>,
    pub(crate) limits: Limits,
    pub(crate) trusted_clients: Vec<Network>,
    /// The public port, as `X-Forwarded-Port` has it.
    pub(crate) port: HeaderValue,
    /// Cancelled when workers are to drain and end.
    pub(crate) stop: CancellationToken,
}

/// The limits of the configuration that workers keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Client connections of one worker.
    pub(crate) connections: usize,
    /// Requests of one worker that may be on their way to backends or there: each needs a
    /// descriptor too, and one HTTP/2 connection carries many.
    pub(crate) requests: usize,
    pub(crate) drain: Duration,
    pub(crate) hold: Duration,
    pub(crate) connect: Duration,
    pub(crate) response: Duration,
    pub(crate) silence: SilenceLimits,
}

/// The state of one worker; it never leaves its thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    table: RefCell<Cache<Arc<ArcSwap<CompiledTable>>, Arc<CompiledTable>>>,
    pub(crate) pool: Pool,
    pub(crate) random: Random,
    pub(crate) clock: Arc<Clock>,
    pub(crate) connections: Connections,
    pub(crate) bodies: Bodies,
    /// Requests that have a place among [`Limits::requests`].
    pub(crate) requests: Cell<usize>,
    pub(crate) log: Option<AccessLog>,
    /// Wakes requests that are held when the table has changed.
    pub(crate) table_changed: Notify,
    /// Cancelled when the drain has taken long enough: tunnels end.
    pub(crate) ending: CancellationToken,
}

/// Runs a worker on the current thread until `shared.stop` and its drain are over.
pub(crate) fn run(
    shared: Arc<Shared>,
    index: usize,
    listener: std::net::TcpListener,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        Worker::new(shared, index).serve(listener).await;
        Ok(())
    })
}

impl Worker {
    fn new(shared: Arc<Shared>, index: usize) -> Rc<Self> {
        Rc::new(Self {
            index,
            table: RefCell::new(Cache::new(Arc::clone(&shared.tables.current))),
            pool: Pool::default(),
            random: Random::seeded(),
            clock: Arc::new(Clock::new()),
            connections: Connections::default(),
            bodies: Bodies::default(),
            requests: Cell::new(0),
            log: shared.log.clone(),
            table_changed: Notify::new(),
            ending: CancellationToken::new(),
            shared,
        })
    }

    /// Runs `look` on the newest table.
    ///
    /// It cannot await, so a request that is counted within it is counted before this worker
    /// acknowledges a newer table.
    pub(crate) fn with_table<T>(&self, look: impl FnOnce(&Arc<CompiledTable>) -> T) -> T {
        look(self.table.borrow_mut().load())
    }

    /// True while it has a table, or knows that the cluster has none, and is neither stopping nor
    /// removed.
    pub(crate) fn is_serving(&self) -> bool {
        let has_table = self.with_table(|table| table.generation > Generation(0));
        let knows = has_table || self.shared.tables.has_had_contact();
        knows && !self.is_removed() && !self.shared.stop.is_cancelled()
    }

    /// True once the cluster has removed this router's node.
    pub(crate) fn is_removed(&self) -> bool {
        self.shared.tables.is_removed()
    }

    pub(crate) fn statistics(&self) -> &WorkerStatistics {
        &self.shared.statistics[self.index]
    }

    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.shared
            .trusted_clients
            .iter()
            .any(|network| network.contains(address))
    }

    async fn serve(self: Rc<Self>, listener: TcpListener) {
        self.follow_table();
        // In one task, so that a panic in any of them ends the worker and with it the router.
        tokio::select! {
            () = self.accept_and_drain(listener) => {}
            () = self.follow() => {}
            () = self.tick() => {}
        }
    }

    async fn accept_and_drain(self: &Rc<Self>, listener: TcpListener) {
        self.accept(listener).await;
        self.drain().await;
    }

    /// Accepts until told to stop; at the limit of connections the one that has been without a
    /// request for longest makes room, so that clients who only sit there keep nobody out.
    async fn accept(self: &Rc<Self>, listener: TcpListener) {
        let mut is_failing = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return,
                accepted = self.accept_one(&listener) => accepted,
            };
            match accepted {
                Ok((stream, remote)) => {
                    is_failing = false;
                    tokio::task::spawn_local(client::serve(Rc::clone(self), stream, remote));
                }
                Err(error) => {
                    if descriptors::ran_out(&error) {
                        self.make_room();
                    }
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "cannot accept connections for a moment");
                    }
                    let stop = self.shared.stop.cancelled();
                    if timeout(ACCEPT_RETRY, stop).await.is_ok() {
                        return;
                    }
                }
            }
        }
    }

    async fn accept_one(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(tokio::net::TcpStream, std::net::SocketAddr)> {
        let accepted = listener.accept().await?;
        while self.connections.len() >= self.shared.limits.connections {
            self.make_room();
            let ended = self.connections.ended.notified();
            if timeout(PLACE_RETRY, ended).await.is_err() {
                tracing::debug!(worker = self.index, "a client waits for a place");
            }
        }
        Ok(accepted)
    }

    fn make_room(&self) {
        if self.connections.close_idlest() {
            self.statistics().connections_evicted.add(1);
        }
    }

    /// Takes newer tables as they come, so that an idle worker acknowledges them too.
    async fn follow(&self) {
        loop {
            self.shared.tables.newer(self.index).await;
            self.follow_table();
        }
    }

    fn follow_table(&self) {
        let generation = self.with_table(|table| {
            self.pool.follow(table);
            table.generation
        });
        self.table_changed.notify_waiters();
        self.shared.tables.acknowledge(self.index, generation);
    }

    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK);
        // A worker that was held up has waited once, not many times at once.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now = self.clock.tick();
            let timed_out = self.connections.check(now);
            self.statistics().connections_timed_out.add(timed_out);
            let limit = self.shared.limits.silence.write;
            let taken_back = self.bodies.take_back(now, limit);
            self.statistics().responses_stalled.add(taken_back);
            self.pool.sweep(Instant::now());
        }
    }

    /// Lets requests in progress end, then ends what is left.
    async fn drain(&self) {
        self.connections.finish_all();
        let all_ended = async {
            while self.connections.len() > 0 {
                self.connections.ended.notified().await;
            }
        };
        if timeout(self.shared.limits.drain, all_ended).await.is_err() {
            tracing::warn!(
                worker = self.index,
                connections = self.connections.len(),
                "requests were still in flight at the end of the drain"
            );
        }
        self.ending.cancel();
    }
}

/// The open client connections of one worker, tunnels among them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<HashMap<u64, Option<Rc<Watched>>>>,
    next: Cell<u64>,
    /// Told whenever one ends; only one task waits at a time.
    ended: Notify,
}

/// Keeps one connection in [`Connections`] while it lives.
#[derive(Debug)]
pub(crate) struct Registration {
    worker: Rc<Worker>,
    number: u64,
}

impl Connections {
    /// Adds a connection that is watched for silence.
    pub(crate) fn register(&self, worker: &Rc<Worker>, watched: Rc<Watched>) -> Registration {
        worker.statistics().connections_accepted.add(1);
        self.add(worker, Some(watched))
    }

    /// Adds a tunnel, which watches itself.
    pub(crate) fn register_tunnel(&self, worker: &Rc<Worker>) -> Registration {
        self.add(worker, None)
    }

    fn add(&self, worker: &Rc<Worker>, watched: Option<Rc<Watched>>) -> Registration {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, watched);
        Registration {
            worker: Rc::clone(worker),
            number,
        }
    }

    fn len(&self) -> usize {
        self.open.borrow().len()
    }

    fn check(&self, now: u32) -> u64 {
        let open = self.open.borrow();
        let silent = open
            .values()
            .flatten()
            .filter(|watched| watched.check(now))
            .count();
        u64::try_from(silent).unwrap_or(0)
    }

    /// Closes the connection that has been without a request for longest, if there is one; one
    /// whose next request has begun only when there is no other.
    fn close_idlest(&self) -> bool {
        let open = self.open.borrow();
        let idlest = open
            .iter()
            .filter_map(|(number, watched)| {
                let watched = watched.as_ref()?;
                let order = (watched.is_in_head(), watched.idle_since()?, *number);
                Some((order, watched))
            })
            .min_by_key(|(order, _)| *order);
        if let Some((_, watched)) = idlest {
            watched.evict();
        }
        idlest.is_some()
    }

    fn finish_all(&self) {
        for watched in self.open.borrow().values().flatten() {
            watched.finish();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let connections = &self.worker.connections;
        let removed = connections.open.borrow_mut().remove(&self.number);
        if let Some(Some(_)) = removed {
            self.worker.statistics().connections_closed.add(1);
        }
        connections.ended.notify_one();
    }
}
