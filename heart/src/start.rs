//! Starts a heart: locks its directory, adopts what is there, starts the tasks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use common::assignment::Assignment;
use common::id::is_other_cluster;
use common::time::Span;
use rustix::fs::FlockOperation;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::adopt;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::contact::{Contact, FenceRule, Talking, node_ttl};
use crate::crash_point::Crash;
use crate::directories::Directories;
use crate::execute::{Assignments, Executor, Supervision};
use crate::fetch::Packages;
use crate::follow::{self, Follower};
use crate::http;
use crate::keep_lease::LeaseKeeper;
use crate::local::journal::{self, Journal};
use crate::local::{Condition, Local};
use crate::metrics::Metrics;
use crate::ports::Ports;
use crate::report::{Reporter, Snapshot};
use crate::shim::{BootTime, LeaseFile, ProcessIdentity};
use crate::sync::Sync;

/// A heart that runs.
pub struct Running {
    /// Its part of the node's API; without a fallback.
    pub routes: axum::Router,
    /// Its metrics as Prometheus text, without the line that ends it.
    pub metrics: Arc<dyn Fn() -> String + Send + std::marker::Sync>,
    /// Ends when the heart has shut down; the applications go on.
    pub finished: JoinHandle<Result<(), Error>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// The heart could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it was told cannot work.
    #[error("checking the heart's configuration")]
    Config(#[source] config::Error),
    /// Another heart uses the directory.
    #[error("another heart uses {}", .0.display())]
    InUse(PathBuf),
    /// Its directory.
    #[error("preparing the heart's directory {}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its journal.
    #[error("opening the heart's journal")]
    Journal(#[source] journal::Error),
    /// What an earlier heart left.
    #[error("adopting what an earlier heart left")]
    Adopt(#[source] adopt::Error),
    /// A task of the heart panicked.
    #[error("running the heart")]
    Task(#[source] tokio::task::JoinError),
    /// Its API.
    #[error("serving the heart's API")]
    Serve(#[source] io::Error),
}

/// What was found on disk.
struct Found {
    journal: Journal,
    local: Local,
    assignment: Option<Assignment>,
    boot_id: String,
    packages: Arc<Packages>,
    /// Of exclusive instances, when these are fenced.
    lease: Option<LeaseFile>,
    /// Kept open: it carries the lock.
    lock: File,
}

/// Starts a heart; returns once it has adopted what an earlier one left.
///
/// It needs no pacemaker for that, and keeps asking for one.
///
/// # Errors
/// When the configuration cannot work, or the directory cannot be used.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running, Error> {
    config.check().map_err(Error::Config)?;
    // Ends all tasks of this heart, also when one of them panics.
    let ending = shutdown.child_token();
    let (looking, token) = (config.clone(), ending.clone());
    let found = tokio::task::spawn_blocking(move || look(&looking, token))
        .await
        .map_err(Error::Task)??;
    let clock = Clock::start();
    let directories = Directories::new(config.data_dir.clone());
    let metrics = Metrics::new();
    let contact = Arc::new(contact(clock, &found, config.node_ttl));
    let silence = Arc::clone(&contact);
    let (executor, events) = Executor::new(
        &config,
        found.packages,
        Arc::clone(&metrics),
        ending.clone(),
    );
    // The first report already tells of everything: an empty one would say that all is gone.
    let (publish, snapshot) = watch::channel(Snapshot::of(found.assignment.as_ref(), &found.local));
    let (newest, assignments) = watch::channel(found.assignment.map(Arc::new));
    supervise_adopted(&executor, &found.local, &assignments);
    let talking = talking(&config, clock, &contact, &ending);
    let follower = Follower {
        talking: talking.clone(),
        newest,
    };
    let reporter = Reporter {
        talking,
        metrics: Arc::clone(&metrics),
        snapshot: snapshot.clone(),
        node_ttl: config.node_ttl,
        lease: found.lease.map(LeaseKeeper::new),
    };
    let sync = Sync {
        local: found.local,
        journal: found.journal,
        executor: executor.clone(),
        boot_id: found.boot_id,
        clock,
        contact,
        fence: FenceRule::new(config.fence_exclusive),
        assignments,
        events,
        snapshot: publish,
        work: BTreeMap::new(),
        builds: BTreeMap::new(),
        housekeeping: crate::sync::Housekeeping::default(),
    };
    let tasks = Tasks {
        follower,
        reporter,
        sync,
        executor,
        ending,
        lock: found.lock,
    };
    let finished = tokio::spawn(tasks.run());
    Ok(Running {
        routes: http::routes(directories, config.token_hashes),
        metrics: Arc::new(move || metrics.text(&snapshot, silence.silence(clock.now()))),
        finished,
    })
}

/// The contact that an earlier heart had; when nothing is known of it, what it left has a TTL to be
/// heard of.
fn contact(clock: Clock, found: &Found, told: Span) -> Contact {
    let said = found
        .assignment
        .as_ref()
        .map_or(Span(0), |held| held.node_ttl);
    let longest = clock.now().after(node_ttl(said, told));
    let lease = found.lease.as_ref();
    let known = lease
        .map(LeaseFile::until)
        .filter(|until| *until > BootTime(0));
    Contact::new(known.map_or(longest, |until| clock.moment(until).min(longest)))
}

fn talking(
    config: &Config,
    clock: Clock,
    contact: &Arc<Contact>,
    ending: &CancellationToken,
) -> Talking {
    Talking {
        node: config.node,
        cluster: config.cluster.clone(),
        client: config.client.clone(),
        directories: Directories::new(config.data_dir.clone()),
        contact: Arc::clone(contact),
        clock,
        crash: Crash(config.crash_at),
        shutdown: ending.clone(),
    }
}

/// What runs until the heart ends.
struct Tasks {
    follower: Follower,
    reporter: Reporter,
    sync: Sync,
    executor: Executor,
    ending: CancellationToken,
    lock: File,
}

impl Tasks {
    /// Runs all of them; when one ends, all do.
    async fn run(self) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.follower.run());
        tasks.spawn(self.reporter.run());
        tasks.spawn(self.sync.run());
        let mut outcome = tasks.join_next().await.unwrap_or(Ok(()));
        self.ending.cancel();
        self.executor.finish().await;
        while let Some(ended) = tasks.join_next().await {
            outcome = outcome.and(ended);
        }
        drop(self.lock);
        outcome.map_err(Error::Task)
    }
}

/// Starts a heart and serves its API on `listener` until it is shut down.
///
/// # Errors
/// When it cannot start, or ends otherwise than by being shut down.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let running = start(config, shutdown.clone()).await?;
    axum::serve(listener, running.routes)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(Error::Serve)?;
    running.finished.await.map_err(Error::Task)?
}

/// Reads everything from disk; blocks.
fn look(config: &Config, ending: CancellationToken) -> Result<Found, Error> {
    let directories = Directories::new(config.data_dir.clone());
    let prepare = |path: PathBuf| move |source| Error::Directory { path, source };
    fs::create_dir_all(directories.root()).map_err(prepare(directories.root().to_owned()))?;
    let lock = File::create(directories.lock()).map_err(prepare(directories.lock()))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Error::InUse(config.data_dir.clone()));
    }
    let lease = match config.fence_exclusive {
        true => Some(LeaseFile::open(&directories.lease()).map_err(prepare(directories.lease()))?),
        false => None,
    };
    let boot_id = ProcessIdentity::current()
        .map_err(prepare(PathBuf::from("/proc")))?
        .boot_id;
    let packages = Packages::new(
        directories.clone(),
        config.client.clone(),
        Crash(config.crash_at),
        boot_id.clone(),
        ending,
    );
    packages
        .clean_up()
        .map_err(prepare(directories.packages()))?;
    let assignment = follow::load(&directories.assignment())
        .unwrap_or_else(|error| {
            tracing::error!(%error, "the assignment on disk cannot be read; waiting for a pacemaker");
            None
        })
        .filter(|assignment| is_ours(assignment, config));
    let (journal, entries) = Journal::open(&directories.journal()).map_err(Error::Journal)?;
    let instances = adopt::adopt(&directories, entries, &boot_id).map_err(Error::Adopt)?;
    let taken: Vec<u16> = instances
        .values()
        .filter_map(|held| held.entry.port)
        .collect();
    let local = Local {
        instances,
        ports: Ports::new(&config.ports, &taken),
        ..Local::default()
    };
    Ok(Found {
        journal,
        local,
        assignment,
        boot_id,
        packages,
        lease,
        lock,
    })
}

/// False, and logged, for an assignment that another node or cluster left in the directory.
fn is_ours(assignment: &Assignment, config: &Config) -> bool {
    let is_ours =
        assignment.node == config.node && !is_other_cluster(&config.cluster, &assignment.cluster);
    if !is_ours {
        tracing::error!(
            node = %assignment.node,
            cluster = assignment.cluster,
            "the assignment on disk is of another node or cluster; waiting for a pacemaker"
        );
    }
    is_ours
}

/// Watches over the processes that were adopted.
fn supervise_adopted(executor: &Executor, local: &Local, assignments: &Assignments) {
    for (id, held) in &local.instances {
        let Some(process) = held.condition.process() else {
            continue;
        };
        let supervision = Supervision {
            instance: *id,
            run: held.entry.runs,
            process: process.clone(),
            check: None,
            log_start: 0,
        };
        match &held.condition {
            Condition::Starting(_) => {
                let port = held.entry.port;
                executor.supervise_once_assigned(supervision, port, assignments.clone());
            }
            Condition::Idle
            | Condition::Running { .. }
            | Condition::Failing { .. }
            | Condition::Stopping { .. } => executor.supervise(supervision),
        }
    }
}
