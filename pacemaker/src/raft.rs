//! Raft: the one door through which the state changes.
//!
//! Starts openraft over the durable log and the state machine, and hands out a [`Proposer`].
//! Nothing outside `raft*` names an openraft type.
//!
//! A `Fatal` of openraft (a failed disk, a panic in `apply`) stops it for good; [`Proposer::failed`]
//! then resolves, the role ends with an error, and the process is expected to end within a second.

mod election;
mod group;
mod inbound;
mod log_store;
mod network;
mod proposer;
mod room;
#[cfg(test)]
mod simulation;
mod snapshot_files;
mod state_machine;
mod types;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError};
use openraft::network::NetSnapshot;
use openraft::{Config, RaftNetworkFactory, SnapshotPolicy};
use tokio_util::task::TaskTracker;

pub(crate) use self::group::{CAUGHT_UP_ENTRIES, Group, Member};
pub(crate) use self::inbound::{AppendStream, SnapshotReceiver};
use self::log_store::LogStore;
pub(crate) use self::network::Network;
use self::proposer::Here;
pub use self::proposer::ProposeError;
pub(crate) use self::proposer::{Proposer, Status};
use self::room::Room;
use self::snapshot_files::SnapshotFiles;
use self::state_machine::StateMachine;
use self::types::{Seat, SnapshotBytes, TypeConfig};
pub(crate) use self::types::{StoredLogId, StoredVote};
use crate::metrics::Metrics;
use crate::peer::{Peers, Place};
use crate::replica::Replica;

/// Entries between two snapshots: a restart applies at most about twice as many again, in well under a second.
const SNAPSHOT_EVERY: u64 = 5_000;
/// Entries kept behind a snapshot, so that the older of two snapshots can still be brought up to date.
const KEEP_BEHIND_SNAPSHOT: u64 = 2 * SNAPSHOT_EVERY;
/// Milliseconds between a leader's heartbeats: a small part of the shortest timeout, so that a
/// machine that stalls for tens of milliseconds, as one does with two compilers on it, loses none.
const HEARTBEAT_MS: u64 = 50;
/// A follower stands for election when it has heard nothing for [`ELECTION_MAX_MS`], the leader's
/// lease, and a random time from here to there more: 450 to 600 ms, or nine heartbeats that did
/// not come. A leader whose process has ended is noticed by its closed connections, long before.
const ELECTION_MIN_MS: u64 = 150;
/// The longest, and the lease of a leader; see [`ELECTION_MIN_MS`].
const ELECTION_MAX_MS: u64 = 300;
/// A leader that hears no majority is silent for so long, so that those who hear it, and are not
/// heard by it, elect another.
const QUORUM_LOSS_SILENCE_MS: u64 = 2 * ELECTION_MAX_MS;
/// Requests that may wait inside openraft; past it callers wait.
const WAITING_REQUESTS: u64 = 4_096;
/// The log in the data directory.
const LOG_DIRECTORY: &str = "raft";
/// The log of earlier releases, which this one does not read.
const LOG_OF_FORMAT_1: &str = "raft.redb";

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

/// Opens log and snapshots under `directory` and starts Raft among `peers`.
///
/// Without a log, a founder makes a group of itself alone, which others find at the place that it
/// gives; anyone else is nobody, and waits until a leader adds it.
pub(crate) async fn start(
    directory: &Path,
    founder: Option<Place>,
    peers: Peers,
    replica: Arc<Replica>,
    metrics: Metrics,
) -> Result<Proposer, OpenError> {
    let network = Network::new(peers.clone());
    start_over(directory, founder, network, peers, replica, metrics).await
}

/// As [`start`], over a network of the caller's.
async fn start_over(
    directory: &Path,
    founder: Option<Place>,
    network: impl RaftNetworkFactory<
        TypeConfig,
        Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotBytes>,
    >,
    peers: Peers,
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
    let former = machine.former();
    let config = config()
        .validate()
        .map_err(|error| OpenError::Start(error.into()))?;
    let member = peers.credentials().member;
    let raft = Raft::new(member, Arc::new(config), network, log, machine)
        .await
        .map_err(|error| OpenError::Start(error.into()))?;
    let known = raft.metrics().borrow_watched().membership_config.clone();
    if known.voter_ids().eq([member]) {
        // A voter alone need not wait for the silence of a leader that is not there.
        raft.trigger()
            .elect(false)
            .await
            .map_err(|error| OpenError::Start(error.into()))?;
    } else if let Some(place) = founder {
        initialize(&raft, member, place).await?;
    }
    Ok(Proposer {
        raft,
        replica,
        metrics,
        peers,
        former,
        room: Room::of(directory.to_owned()),
        working: TaskTracker::new(),
        removed: Arc::default(),
    })
}

fn config() -> Config {
    Config {
        cluster_name: "paasmaker".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        api_channel_size: Some(WAITING_REQUESTS),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(QUORUM_LOSS_SILENCE_MS),
        // What a leader sent before its own disk had it may be gone after a crash: leading on in the
        // same term, it would give the same log id to another entry, and the members would differ.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

/// True when `directory` holds a log. Blocks.
pub(crate) fn has_log(directory: &Path) -> bool {
    directory.join(LOG_DIRECTORY).exists() || directory.join(LOG_OF_FORMAT_1).exists()
}

fn open(
    directory: &Path,
    replica: Arc<Replica>,
    metrics: &Metrics,
) -> Result<(LogStore, StateMachine), OpenError> {
    let log = open_log(directory, metrics).map_err(|error| OpenError::Log(error.into()))?;
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

fn open_log(directory: &Path, metrics: &Metrics) -> Result<LogStore, log_store::OpenError> {
    let path = directory.join(LOG_DIRECTORY);
    let old = directory.join(LOG_OF_FORMAT_1);
    if !path.exists() && old.exists() {
        return Err(log_store::OpenError::Format {
            path: old,
            found: "1".to_owned(),
        });
    }
    LogStore::open(&path, metrics)
}

async fn initialize(raft: &Raft, member: u64, place: Place) -> Result<(), OpenError> {
    let members = BTreeMap::from([(member, Seat::from(place))]);
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(OpenError::Start(error.into())),
    }
}
