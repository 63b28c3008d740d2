//! Which backend a request goes to, how it is connected to, and what happens to one that refuses.
//!
//! Ejection is each worker's own business: a worker that was refused stops choosing the backend
//! while another is usable, and a probe asks for it in the background. A client that goes away, a
//! bad answer or a slow one never eject.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use super::{Failed, Purpose};
use crate::answer::Refusal;
use crate::backend::{Backend, InFlight};
use crate::exchange::BackendConnection;
use crate::host::HostName;
use crate::record::Record;
use crate::routes::CompiledTable;
use crate::select::{self, Candidate};
use crate::worker::Worker;

/// The first wait before an ejected backend is asked again.
const PROBE_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between probes: a backend that is back is used this soon.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// A machine that is there answers within this, however busy its applications are: its kernel does.
const VANISHED_AFTER: Duration = Duration::from_millis(1_500);
/// Requests that one worker holds at a time; each keeps a connection and its head.
const HELD_MAX: u64 = 1_024;

/// A backend that a request is counted at.
pub(super) struct Chosen {
    pub(super) backend: Arc<Backend>,
    /// When, without asking the clock again if nothing was waited for.
    pub(super) at: Instant,
}

/// What a look at the table gave.
enum Found {
    Chosen(Arc<Backend>, InFlight),
    /// The route has none now, and requests are to wait.
    Hold,
    None(Refusal),
}

/// Chooses a backend and counts the request there; waits for one when the route says so.
pub(super) async fn choose(
    worker: &Worker,
    record: &mut Record,
    name: &HostName,
    failed: &Failed,
) -> Result<Chosen, Refusal> {
    match look(worker, record, name, failed) {
        Found::Chosen(backend, in_flight) => {
            record.set_in_flight(in_flight);
            let at = match failed.attempts {
                0 => record.started(),
                _ => Instant::now(),
            };
            Ok(Chosen { backend, at })
        }
        Found::None(refusal) => Err(refusal),
        // Boxed, like every rare wait: each connection keeps room for this future.
        Found::Hold => Box::pin(hold(worker, record, name, failed)).await,
    }
}

async fn hold(
    worker: &Worker,
    record: &mut Record,
    name: &HostName,
    failed: &Failed,
) -> Result<Chosen, Refusal> {
    let held = &worker.statistics().held;
    if held.load(Ordering::Relaxed) >= HELD_MAX {
        return Err(Refusal::NoBackend);
    }
    let _held = Held::begin(held);
    let deadline = tokio::time::Instant::now() + worker.shared.limits.hold;
    loop {
        let changed = worker.table_changed.notified();
        match look(worker, record, name, failed) {
            Found::Chosen(backend, in_flight) => {
                record.set_in_flight(in_flight);
                let at = Instant::now();
                return Ok(Chosen { backend, at });
            }
            Found::None(refusal) => return Err(refusal),
            Found::Hold => {}
        }
        if timeout_at(deadline, changed).await.is_err() {
            return Err(Refusal::HoldExpired);
        }
    }
}

/// Counts a held request while it lives.
struct Held<'worker>(&'worker AtomicU64);

impl<'worker> Held<'worker> {
    fn begin(held: &'worker AtomicU64) -> Self {
        held.fetch_add(1, Ordering::Relaxed);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn look(worker: &Worker, record: &mut Record, name: &HostName, failed: &Failed) -> Found {
    worker.with_table(|table| find(table, worker, record, name, failed))
}

fn find(
    table: &CompiledTable,
    worker: &Worker,
    record: &mut Record,
    name: &HostName,
    failed: &Failed,
) -> Found {
    let Some(route) = table.lookup(name.as_str()) else {
        return Found::None(match worker.is_removed() {
            true => Refusal::Removed,
            false => Refusal::NoRoute,
        });
    };
    let chosen = select::choose(route.backends.len(), worker.random.next(), |index| {
        let backend = &route.backends[index];
        if failed.excludes(backend) {
            Candidate::Excluded
        } else if failed.doubts(backend) || worker.pool.is_ejected(backend) {
            Candidate::Ejected
        } else {
            Candidate::Usable(backend.in_flight())
        }
    });
    match chosen {
        Some(index) => {
            let in_flight = InFlight::begin(Arc::clone(route), index);
            Found::Chosen(Arc::clone(&route.backends[index]), in_flight)
        }
        None if route.hold && route.backends.is_empty() => Found::Hold,
        None => {
            record.set_statistics(&route.statistics);
            Found::None(Refusal::NoBackend)
        }
    }
}

/// Opens a connection to `backend`; one that cannot be reached is ejected.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    backend: &Arc<Backend>,
    purpose: Purpose,
) -> Result<BackendConnection, Refusal> {
    worker.statistics().backend_connections.add(1);
    let limit = worker.shared.limits.connect;
    let stream = match timeout(limit, TcpStream::connect(backend.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(instance = backend.instance.0, address = %backend.address, %error, "a backend refused a connection");
            if !is_ours(&error) {
                eject(worker, backend);
            }
            return Err(Refusal::BackendRefused);
        }
        Err(_elapsed) => {
            eject(worker, backend);
            return Err(Refusal::BackendTimeout);
        }
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn off delays on a connection");
    }
    let opened = match purpose {
        Purpose::Request => BackendConnection::over(stream).await,
        Purpose::Upgrade => BackendConnection::over_for_upgrade(stream).await,
    };
    opened.map_err(|_| Refusal::BackendClosed)
}

/// True when nothing at all answers at a backend's address. One that only refuses connections is
/// there: what it has begun may still be answered, and if not, its kernel closes the connection.
pub(super) async fn has_vanished(backend: &Backend) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH];
    match timeout(VANISHED_AFTER, TcpStream::connect(backend.address)).await {
        Ok(Ok(_stream)) => false,
        Ok(Err(error)) => gone
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())),
        Err(_elapsed) => true,
    }
}

/// True when the failure says something of this process or machine, not of the backend.
fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
    ]
    .into_iter()
    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn eject(worker: &Rc<Worker>, backend: &Arc<Backend>) {
    if worker.pool.set_ejected(backend, true) {
        worker.statistics().ejections.add(1);
        tracing::info!(instance = backend.instance.0, address = %backend.address, worker = worker.index, "ejected a backend that refuses connections");
        tokio::task::spawn_local(probe(Rc::clone(worker), Arc::clone(backend)));
    }
}

/// Asks an ejected backend for a connection until it accepts one or the table drops it.
async fn probe(worker: Rc<Worker>, backend: Arc<Backend>) {
    let mut wait = PROBE_FIRST;
    loop {
        let ending = worker.ending.cancelled();
        if timeout(wait, ending).await.is_ok() || !worker.pool.is_ejected(&backend) {
            return;
        }
        let connect = TcpStream::connect(backend.address);
        if let Ok(Ok(_stream)) = timeout(worker.shared.limits.connect, connect).await {
            break;
        }
        wait = (wait * 2).min(PROBE_MAX);
    }
    if worker.pool.set_ejected(&backend, false) {
        worker.statistics().readmissions.add(1);
        tracing::info!(instance = backend.instance.0, address = %backend.address, worker = worker.index, "an ejected backend accepts connections again");
    }
}
