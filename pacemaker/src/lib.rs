//! The pacemaker: the IO shell around [`pacemaker_core`], which decides everything.
//!
//! ```text
//!            HTTP ──► Proposer ──► Raft log (redb) ──► apply ──► Replica ──► watches (HTTP)
//!             │                                                    │
//!          reports ───────────────► leader's loop ◄────────────────┘
//!                                        └── plan ──► Proposer
//! ```
//!
//! | Task | Takes in | Gives out |
//! |---|---|---|
//! | Raft (openraft's own tasks) | proposals | applied entries in the replica |
//! | `raft-log` thread | appends, votes, purges, in order | durable commits of `raft.redb` |
//! | leader's loop (`leader`) | reports, changes, time | `Command::Act` proposals |
//! | housekeeping | time | job logs without a job are removed |
//! | HTTP (`http`) | requests | proposals, answers, packages and job logs on disk |
//! | supervision ([`Running::finished`]) | shutdown, a failure of Raft | the role's end |
//!
//! The data directory holds `identity.json`, `raft.redb`, `snapshots/`, `packages/` and
//! `job-logs/`. One process uses it at a time.
//!
//! A `Fatal` of Raft (a disk that fails, a panic in `apply`) ends the role: [`Running::finished`]
//! resolves with an error, and whoever runs the role must end the process, so that its supervisor
//! starts it again. Nothing acknowledged is lost by that.

mod config;
mod files;
mod housekeeping;
mod http;
mod identity;
mod job_log;
mod leader;
mod metrics;
mod package_store;
mod raft;
mod replica;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::id::WorkspaceStub;
use pacemaker_core::command::{Command, Rejection, TokenRole};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::Api;
use crate::identity::Identity;
use crate::job_log::JobLogs;
use crate::leader::LeaderLoop;
use crate::metrics::Metrics;
use crate::package_store::PackageStore;
use crate::raft::Proposer;
use crate::replica::Replica;

pub use crate::config::{Config, ConfigError, token_hash};
pub use crate::http::no_such_path;
pub use crate::identity::IdentityError;
pub use crate::job_log::JOB_LOG_MAX_BYTES;
pub use crate::package_store::PACKAGE_MAX_BYTES;
pub use crate::raft::{OpenError, ProposeError};
pub use pacemaker_core::command::ClusterSettings;

/// The workspace that a new cluster has.
const FIRST_WORKSPACE: &str = "default";

/// Why a pacemaker did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Raft did not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A directory for packages or logs could not be used.
    #[error("using {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The random numbers of the system failed.
    #[error("making a random id for the cluster")]
    Random(#[source] getrandom::Error),
    /// The client for the hearts' logs could not be made.
    #[error("making the client for the nodes")]
    NodeClient(#[source] reqwest::Error),
    /// The new cluster was refused.
    #[error("making the cluster")]
    Initialize(#[source] Rejection),
    /// Raft has failed for good; the process must end.
    #[error("the replicated log failed; this process must end and be started again")]
    Failed(#[source] ProposeError),
    /// It was told to stop before it had started.
    #[error("told to stop while starting")]
    Stopped,
    /// A task of the role panicked or was dropped.
    #[error("a task of the pacemaker failed")]
    Task(#[source] tokio::task::JoinError),
    /// The listener failed.
    #[error("serving the API")]
    Serve(#[source] io::Error),
}

/// A pacemaker that runs.
pub struct Running {
    /// The API and `/readyz`, to be merged into the node's router; without a fallback.
    pub routes: axum::Router,
    /// The metrics of this role as Prometheus text, without the closing `# EOF`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Resolves when the role has ended; with an error, the process must end.
    pub finished: JoinHandle<Result<(), Error>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// Starts a pacemaker; on its first start it makes a cluster of itself alone.
///
/// Returns when it leads and answers with everything that was ever acknowledged.
///
/// # Errors
/// Refuses a wrong configuration and a data directory that is damaged, of another format, or in
/// use; each says what to do.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running, Error> {
    config.validate()?;
    let metrics = Metrics::new();
    let replica = Arc::new(Replica::default());
    let identity = load_identity(&config).await?;
    let proposer = raft::start(
        &config.data_dir,
        identity.member,
        &identity.node_key,
        Arc::clone(&replica),
        metrics.clone(),
    )
    .await?;
    let started = start_with(config, &identity, &proposer, &replica, &metrics, shutdown).await;
    if started.is_err() {
        proposer.stop().await;
    }
    started
}

async fn start_with(
    config: Config,
    identity: &Identity,
    proposer: &Proposer,
    replica: &Arc<Replica>,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let (packages, job_logs) = open_stores(&config.data_dir, identity).await?;
    // Ends with the role, and also when it fails.
    let stop = shutdown.child_token();
    let (leader, leader_loop) =
        LeaderLoop::new(proposer.clone(), Arc::clone(replica), metrics.clone());
    let api = Arc::new(Api {
        proposer: proposer.clone(),
        replica: Arc::clone(replica),
        leader,
        packages,
        job_logs: job_logs.clone(),
        metrics: metrics.clone(),
        nodes: reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(Error::NodeClient)?,
        node_token: config.node_token.clone(),
        node_key: config.node_key.clone(),
        member: identity.member,
        router_port: config.router_port,
        ready: AtomicBool::new(false),
        shutdown: stop.clone(),
    });
    tokio::select! {
        prepared = prepare_cluster(&config, proposer, replica) => prepared?,
        error = proposer.failed() => return Err(Error::Failed(error)),
        () = shutdown.cancelled() => return Err(Error::Stopped),
    }
    api.ready.store(true, Ordering::Release);
    let leading = tokio::spawn(leader_loop.run(stop.clone()));
    let sweeping = tokio::spawn(housekeeping::run(
        Arc::clone(replica),
        job_logs,
        stop.clone(),
    ));
    let finished = tokio::spawn(supervise(proposer.clone(), leading, sweeping, stop));
    let text = metrics.clone();
    Ok(Running {
        routes: http::router(&api),
        metrics: Arc::new(move || text.text()),
        finished,
    })
}

/// Starts a pacemaker and serves its API on `listener` until `shutdown`.
///
/// # Errors
/// As [`start`], and when the role or the listener fails; the process must then end.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let running = start(config, shutdown.clone()).await?;
    let serving = http::serve(running.routes, running.metrics, listener, shutdown.clone());
    let mut finished = running.finished;
    tokio::select! {
        served = serving => {
            shutdown.cancel();
            let ended = finished.await.map_err(Error::Task)?;
            served.map_err(Error::Serve)?;
            ended
        }
        ended = &mut finished => ended.map_err(Error::Task)?,
    }
}

async fn load_identity(config: &Config) -> Result<Identity, Error> {
    let directory = config.data_dir.clone();
    let node_key = config.node_key.clone();
    blocking(move || {
        files::make_private(&directory).map_err(|source| Error::Directory {
            path: directory.clone(),
            source,
        })?;
        let has_log = raft::has_log(&directory);
        Ok(Identity::load(&directory, &node_key, has_log)?)
    })
    .await
}

async fn open_stores(
    directory: &Path,
    identity: &Identity,
) -> Result<(PackageStore, JobLogs), Error> {
    let directory = directory.to_owned();
    let identity = identity.clone();
    blocking(move || {
        identity.keep(&directory)?;
        let in_directory = |path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Directory { path, source }
        };
        let path = directory.join("packages");
        let packages = PackageStore::open(path.clone()).map_err(in_directory(&path))?;
        let path = directory.join("job-logs");
        let job_logs = JobLogs::open(path.clone()).map_err(in_directory(&path))?;
        Ok((packages, job_logs))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Task)?
}

/// Waits until the log is applied, and makes the cluster if there is none.
async fn prepare_cluster(
    config: &Config,
    proposer: &Proposer,
    replica: &Replica,
) -> Result<(), Error> {
    while let Err(error) = proposer.barrier().await {
        match error {
            ProposeError::NoLeader | ProposeError::OtherLeader(_) => {
                tracing::warn!(%error, "waiting to lead");
            }
            ProposeError::Failed(_) => return Err(Error::Failed(error)),
        }
    }
    if !replica.read(pacemaker_core::State::is_initialized) {
        let command = Command::InitializeCluster {
            id: random_id()?,
            hostname: config.cluster_hostname.clone(),
            tokens: BTreeMap::from([
                (
                    token_hash(&config.administrator_token),
                    TokenRole::Administrator,
                ),
                (token_hash(&config.node_token), TokenRole::Node),
            ]),
            settings: config.settings,
        };
        propose(proposer, command).await?;
    }
    if replica.read(|state| state.workspaces().is_empty()) {
        let stub = WorkspaceStub::parse(FIRST_WORKSPACE).expect("the name keeps the rule");
        let command = Command::CreateWorkspace {
            name: FIRST_WORKSPACE.to_owned(),
            stub,
            tags: BTreeMap::new(),
        };
        propose(proposer, command).await?;
    }
    for (name, token) in [
        ("administrator_token", &config.administrator_token),
        ("node_token", &config.node_token),
    ] {
        let hash = token_hash(token);
        if replica.read(|state| state.token_role(&hash)).is_none() {
            tracing::warn!(
                name,
                "the configured token is not one that the cluster knows"
            );
        }
    }
    Ok(())
}

async fn propose(proposer: &Proposer, command: Command) -> Result<(), Error> {
    proposer
        .propose(command)
        .await
        .map_err(Error::Failed)?
        .map_err(Error::Initialize)
        .map(|_| ())
}

/// 128 random bits as hexadecimal.
fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Ends all tasks at a shutdown, or when one of them or Raft fails.
async fn supervise(
    proposer: Proposer,
    mut leading: JoinHandle<()>,
    mut sweeping: JoinHandle<()>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = proposer.failed() => {
            tracing::error!(%error, "the replicated log failed; the process must end");
            Err(Error::Failed(error))
        }
        joined = &mut leading => early(joined),
        joined = &mut sweeping => early(joined),
    };
    stop.cancel();
    for task in [leading, sweeping] {
        if !task.is_finished()
            && let Err(error) = task.await
            && ended.is_ok()
        {
            ended = Err(Error::Task(error));
        }
    }
    proposer.stop().await;
    ended
}

/// A task that ends by itself has panicked, or saw the shutdown first.
fn early(joined: Result<(), tokio::task::JoinError>) -> Result<(), Error> {
    joined.map_err(Error::Task)
}
