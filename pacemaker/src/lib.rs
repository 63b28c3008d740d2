//! The pacemaker: the IO shell around [`pacemaker_core`], which decides everything.
//!
//! ```text
//!            HTTP ──► Proposer ──► Raft log (journal) ──► apply ──► Replica ──► watches (HTTP)
//!             │                                                    │
//!          reports ───────────────► leader's loop ◄────────────────┘
//!                                        └── plan ──► Proposer
//! ```
//!
//! | Task | Takes in | Gives out |
//! |---|---|---|
//! | Raft (openraft's own tasks) | proposals | applied entries in the replica |
//! | `raft-log` thread | appends, votes, purges, in order | flushed frames of `raft/` |
//! | leader's loop (`leader`) | reports, changes, time | `Command::Act` proposals |
//! | `CronLoop` (`crons`) | the state, the wall clock | records of what is due; requests to instances; what came of them |
//! | housekeeping | time, changes, losses | packages that are complete, sound and needed; no job logs without a job |
//! | links to peers (`peer`) | requests to other pacemakers | their answers, and who is gone |
//! | `watch_peers` (`raft`) | the group, peers that are gone | links, elections |
//! | membership | nodes that are pacemakers | changes of the Raft group, while leading |
//! | beginning (`start`) | the state as a leader knows it | readiness; the founder's first commands |
//! | HTTP (`http`) | requests | proposals, answers, packages and job logs on disk |
//! | supervision ([`Running::finished`]) | shutdown, a failure of Raft | the role's end |
//!
//! The data directory holds `identity.json`, `raft/` (the log), `raft.lock`, `snapshots/`, `packages/`,
//! `job-logs/` and `cron-logs/`. One process uses it at a time, the one that has the lock.
//!
//! A `Fatal` of Raft (a disk that fails, a panic in `apply`) ends the role: [`Running::finished`]
//! resolves with an error, and whoever runs the role must end the process, so that its supervisor
//! starts it again. Nothing acknowledged is lost by that.

mod authority;
mod clock;
mod config;
mod crash_point;
mod crons;
mod files;
mod housekeeping;
mod http;
mod identity;
mod job_log;
mod leader;
mod membership;
mod metrics;
mod package_store;
mod peer;
mod peers;
mod raft;
mod replica;
mod start;
mod wall_clock;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pacemaker_core::command::Rejection;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use crate::authority::{Authority, AuthorityError};
pub use crate::config::{ClusterIdentity, Config, ConfigError, token_hash};
pub use crate::crash_point::CrashPoint;
pub use crate::http::no_such_path;
pub use crate::identity::IdentityError;
pub use crate::job_log::JOB_LOG_MAX_BYTES;
pub use crate::package_store::PACKAGE_MAX_BYTES;
pub use crate::raft::{OpenError, ProposeError};
pub use crate::start::start;
pub use crate::wall_clock::WallClock;
pub use pacemaker_core::command::{ClusterSettings, JoinTokenRecord};

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
    /// The client for the other pacemakers could not be made.
    #[error("making the client for the other pacemakers")]
    Pacemakers(#[source] pacemaker_client::Error),
    /// The new cluster was refused.
    #[error("making the cluster")]
    Initialize(#[source] Rejection),
    /// Raft has failed for good; the process must end.
    #[error("the replicated log failed; this process must end and be started again")]
    Failed(#[source] ProposeError),
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

/// Starts a pacemaker and serves its API on `listener` until `shutdown`.
///
/// # Errors
/// As [`start()`], and when the role or the listener fails; the process must then end.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let tls = config.tls.clone();
    let running = start(config, shutdown.clone()).await?;
    let stop = shutdown.clone();
    let serving = http::serve(running.routes, running.metrics, listener, tls, stop);
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
