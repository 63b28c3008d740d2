//! Raft: the one door through which the state changes.
//!
//! Starts openraft over the durable log and the state machine, and hands out a [`Proposer`].
//! Nothing outside `raft*` names an openraft type.
//!
//! A `Fatal` of openraft (a failed disk, a panic in `apply`) stops it for good; [`Proposer::failed`]
//! then resolves, the role ends with an error, and the process is expected to end within a second.

mod log_store;
mod network;
mod snapshot_files;
mod state_machine;
mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{
    ClientWriteError, Fatal, InitializeError, LinearizableReadError, RaftError,
};
use openraft::{BasicNode, Config, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use pacemaker_core::command::{Command, Outcome, Rejection};

use self::log_store::LogStore;
use self::network::NoPeers;
use self::snapshot_files::SnapshotFiles;
use self::state_machine::StateMachine;
use self::types::{Proposal, TypeConfig};
use crate::metrics::{Metrics, ResultLabel};
use crate::replica::Replica;

/// Entries between two snapshots: a restart applies at most about twice as many again, in well under a second.
const SNAPSHOT_EVERY: u64 = 5_000;
/// Entries kept behind a snapshot, so that the older of two snapshots can still be brought up to date.
const KEEP_BEHIND_SNAPSHOT: u64 = 2 * SNAPSHOT_EVERY;
/// Milliseconds between a leader's heartbeats.
const HEARTBEAT_MS: u64 = 100;
/// The shortest silence after which a follower stands for election, in milliseconds.
const ELECTION_MIN_MS: u64 = 500;
/// The longest; far enough from the shortest that two seldom stand at once.
const ELECTION_MAX_MS: u64 = 1_000;
/// Requests that may wait inside openraft; past it callers wait.
const WAITING_REQUESTS: u64 = 4_096;
/// How long a proposal waits for a leader with a valid lease.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries while there is none; the lease of a new leader comes without an event.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// The log's file in the data directory.
const LOG_FILE: &str = "raft.redb";

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Why Raft could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log could not be opened; the text says what to do.
    #[error(transparent)]
    Log(Box<dyn std::error::Error + Send + Sync>),
    /// The snapshots could not be read.
    #[error("reading the snapshots in {}", path.display())]
    Snapshots {
        /// Their directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log begins after the newest valid snapshot.
    #[error(
        "the log begins after entry {purged}, and no valid snapshot in {} reaches it; restore the data directory from a backup",
        path.display()
    )]
    SnapshotMissing {
        /// Where a snapshot is missing.
        path: PathBuf,
        /// The last entry that the log no longer has.
        purged: u64,
    },
    /// openraft refused to start.
    #[error("starting Raft")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a proposal has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// No leader was found in time; nothing was changed.
    #[error("no pacemaker leads the cluster; try again")]
    NoLeader,
    /// Another pacemaker leads; nothing was changed.
    #[error("pacemaker {0} leads the cluster")]
    OtherLeader(u64),
    /// Raft has stopped for good; whether the change was made is not known.
    #[error("the replicated log has failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How Raft stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The term.
    pub(crate) term: u64,
    /// True on the leader.
    pub(crate) is_leader: bool,
    /// Who leads, when known.
    pub(crate) leader: Option<u64>,
}

/// Proposes commands; clones are the same.
#[derive(Clone)]
pub(crate) struct Proposer {
    raft: Raft,
    replica: Arc<Replica>,
    metrics: Metrics,
}

impl std::fmt::Debug for Proposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proposer").finish_non_exhaustive()
    }
}

/// Opens log and snapshots under `directory` and starts Raft as `member`.
///
/// A member that holds no log yet makes a cluster of itself alone.
pub(crate) async fn start(
    directory: &Path,
    member: u64,
    address: &str,
    replica: Arc<Replica>,
    metrics: Metrics,
) -> Result<Proposer, OpenError> {
    let (log, machine) = {
        let directory = directory.to_owned();
        let (replica, metrics) = (Arc::clone(&replica), metrics.clone());
        tokio::task::spawn_blocking(move || open(&directory, replica, &metrics))
            .await
            .map_err(|error| OpenError::Start(error.into()))??
    };
    let config = Config {
        cluster_name: "paasmaker".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        api_channel_size: Some(WAITING_REQUESTS),
        enable_pre_vote: Some(true),
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| OpenError::Start(error.into()))?;
    let raft = Raft::new(member, Arc::new(config), NoPeers, log, machine)
        .await
        .map_err(|error| OpenError::Start(error.into()))?;
    initialize(&raft, member, address).await?;
    Ok(Proposer {
        raft,
        replica,
        metrics,
    })
}

/// True when `directory` holds a log. Blocks.
pub(crate) fn has_log(directory: &Path) -> bool {
    directory.join(LOG_FILE).exists()
}

fn open(
    directory: &Path,
    replica: Arc<Replica>,
    metrics: &Metrics,
) -> Result<(LogStore, StateMachine), OpenError> {
    let log = LogStore::open(&directory.join(LOG_FILE), metrics)
        .map_err(|error| OpenError::Log(error.into()))?;
    let path = directory.join("snapshots");
    let snapshots = |source| OpenError::Snapshots {
        path: path.clone(),
        source,
    };
    let files = SnapshotFiles::open(path.clone()).map_err(snapshots)?;
    let machine = StateMachine::open(files, replica).map_err(snapshots)?;
    if let Some(purged) = log.purged()
        && machine.applied() < Some(purged)
    {
        return Err(OpenError::SnapshotMissing {
            path,
            purged: purged.index(),
        });
    }
    Ok((log, machine))
}

async fn initialize(raft: &Raft, member: u64, address: &str) -> Result<(), OpenError> {
    let members = BTreeMap::from([(member, BasicNode::new(address))]);
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
            // A voter alone need not wait for the silence of a leader that is not there.
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| OpenError::Start(error.into()))
        }
        Err(error) => Err(OpenError::Start(error.into())),
    }
}

impl Proposer {
    /// Puts a command into the log and waits until it has been applied here.
    ///
    /// A rejection is an answer, not an error. After [`ProposeError::Failed`] the command may or
    /// may not have had its effect.
    pub(crate) async fn propose(
        &self,
        command: Command,
    ) -> Result<Result<Outcome, Rejection>, ProposeError> {
        let started = Instant::now();
        let answer = self.write(Arc::new(command)).await;
        self.metrics
            .proposal_seconds
            .observe(started.elapsed().as_secs_f64());
        let result = match &answer {
            Ok(Ok(_)) => "accepted",
            Ok(Err(_)) => "rejected",
            Err(_) => "failed",
        };
        self.metrics
            .proposals
            .get_or_create(&ResultLabel { result })
            .inc();
        answer
    }

    async fn write(
        &self,
        command: Arc<Command>,
    ) -> Result<Result<Outcome, Rejection>, ProposeError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        loop {
            let proposal = Proposal {
                now: self.replica.now(),
                command: Arc::clone(&command),
            };
            match self.raft.client_write(proposal).await {
                Ok(response) => {
                    let outcome = response.data.0;
                    return Ok(outcome.expect("a command is answered with its outcome"));
                }
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    self.wait_for_leader(forward.leader_id, deadline).await?;
                }
                Err(error) => return Err(ProposeError::Failed(error.into())),
            }
        }
    }

    /// Waits until everything that was acknowledged anywhere before this call is applied here.
    pub(crate) async fn barrier(&self) -> Result<(), ProposeError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        loop {
            match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                    self.wait_for_leader(forward.leader_id, deadline).await?;
                }
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                    self.wait_for_leader(None, deadline).await?;
                }
                Err(error) => return Err(ProposeError::Failed(error.into())),
            }
        }
    }

    /// One pause of a retry; an error when someone else leads, or patience has run out.
    async fn wait_for_leader(
        &self,
        leader: Option<u64>,
        deadline: Instant,
    ) -> Result<(), ProposeError> {
        if let Some(leader) = leader
            && leader != *self.raft.node_id()
        {
            return Err(ProposeError::OtherLeader(leader));
        }
        if Instant::now() >= deadline {
            return Err(ProposeError::NoLeader);
        }
        let mut metrics = self.raft.server_metrics();
        // Both the passing of time and a change are a reason to try again; a closed channel means
        // that Raft has stopped, which the next try will say better.
        if let Ok(Err(_)) = tokio::time::timeout(RETRY_INTERVAL, metrics.changed()).await {
            return Err(ProposeError::NoLeader);
        }
        Ok(())
    }

    /// How Raft stands now.
    pub(crate) fn status(&self) -> Status {
        status_of(&self.raft.metrics().borrow_watched())
    }

    /// Resolves when this pacemaker's leadership may have changed; the caller asks [`Self::status`].
    pub(crate) async fn leadership_changed(&self, seen: Status) {
        let mut metrics = self.raft.metrics();
        loop {
            if status_of(&metrics.borrow_and_update()) != seen {
                return;
            }
            if metrics.changed().await.is_err() {
                // Raft has stopped: whoever waits for that hears of it elsewhere.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when Raft has stopped for good, and says why.
    pub(crate) async fn failed(&self) -> ProposeError {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return ProposeError::Failed(fatal.clone().into());
            }
            if metrics.changed().await.is_err() {
                return ProposeError::Failed(Fatal::<TypeConfig>::Panicked.into());
            }
        }
    }

    /// The first entry that the log still has.
    #[cfg(test)]
    pub(crate) fn first_index(&self) -> u64 {
        let metrics = self.raft.metrics();
        let purged = metrics.borrow_watched().purged;
        purged.map_or(0, |purged| purged.index() + 1)
    }

    /// Stops Raft in order; what was acknowledged is on disk already.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "stopping Raft failed");
        }
    }
}

fn status_of(metrics: &RaftMetrics<TypeConfig>) -> Status {
    Status {
        term: metrics.current_term,
        is_leader: metrics.state == ServerState::Leader,
        leader: metrics.current_leader,
    }
}
