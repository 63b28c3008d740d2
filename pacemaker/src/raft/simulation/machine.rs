//! A machine: a disk, snapshots, and at times a process that runs the real store and Raft on them.

use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::time::Timestamp;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::storage::RaftLogStorage as _;
use openraft::{RaftLogReader as _, SnapshotPolicy};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::raft::log_store::{LogStore, SegmentLengths, Segments as _};
use crate::raft::simulation::disk::{Disk, Stop};
use crate::raft::simulation::network::{Connections, Network};
use crate::raft::simulation::runtime::{Process, pass};
use crate::raft::simulation::shelf::Shelf;
use crate::raft::simulation::watched::Watched;
use crate::raft::simulation::witness::Witness;
use crate::raft::snapshot_files::SnapshotFiles;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::TypeConfig;
use crate::replica::Replica;

/// The group as openraft runs it here.
pub(crate) type Raft = openraft::Raft<TypeConfig, Watched>;

/// Entries between two snapshots: few, so that a short run has many.
const SNAPSHOT_EVERY: u64 = 60;
/// Segments of the log: short, for the same reason.
const LENGTHS: SegmentLengths = SegmentLengths {
    first: 4_096,
    others: 8_192,
};
/// The wall clock at the beginning of a run.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// A machine, with or without a process.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) id: u64,
    pub(crate) disk: Disk,
    pub(crate) shelf: Shelf,
    network: Arc<Network>,
    /// How wrong its wall clock is.
    wall: Mutex<Wall>,
    /// True once there was a process.
    had_log: AtomicBool,
    /// Milliseconds that a flush takes at most.
    flush: Arc<AtomicU64>,
    running: Mutex<Option<Running>>,
}

/// How a wall clock differs from simulated time.
#[derive(Clone, Copy, Debug)]
struct Wall {
    /// Milliseconds by which it is ahead; behind when negative.
    ahead: i64,
    /// Of a thousand milliseconds, how many it counts too many.
    fast: i64,
}

/// A process.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) raft: Raft,
    pub(crate) replica: Arc<Replica>,
    /// The process's own clock, over the machine's.
    clock: Arc<Mutex<Clock>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Machine {
    /// A new machine, connected, without a process.
    pub(crate) fn new(id: u64, network: &Arc<Network>) -> Arc<Self> {
        let machine = Arc::new(Self {
            id,
            disk: Disk::new(Arc::clone(&network.random)),
            shelf: Shelf::default(),
            had_log: AtomicBool::new(false),
            wall: Mutex::new(Wall {
                ahead: network.random.within(0..2_000).cast_signed(),
                fast: 0,
            }),
            flush: Arc::new(AtomicU64::new(1)),
            network: Arc::clone(network),
            running: Mutex::default(),
        });
        network.connect(Arc::clone(&machine));
        machine
    }

    /// The process, while there is one.
    pub(crate) fn running(&self) -> Option<Running> {
        let slot = self.slot();
        slot.as_ref()
            .filter(|running| !running.process.is_dead())
            .cloned()
    }

    /// What a process of it takes for the time: its wall clock as far as it can be believed.
    pub(crate) fn now(&self, running: &Running) -> Timestamp {
        let wall = *self.wall.lock().expect("one thread");
        let passed = self.witness().now().cast_signed();
        let told = EPOCH_MS + wall.ahead + passed + passed * wall.fast / 1_000;
        let told = Timestamp(u64::try_from(told).unwrap_or_default());
        let floor = running.replica.newest_time();
        let mut clock = running.clock.lock().expect("one thread");
        clock.read(Instant::now().into_std(), told, floor)
    }

    /// Sets the wall clock by so many milliseconds, and lets it count so many of a thousand too many.
    pub(crate) fn set_clock(&self, by: i64, fast: i64) {
        self.witness().note(format_args!(
            "{} sets its clock by {by} ms, {fast} per mille",
            self.id
        ));
        let mut wall = self.wall.lock().expect("one thread");
        // What it has counted so far stays: only the rate changes.
        let passed = self.witness().now().cast_signed();
        wall.ahead += by + passed * (wall.fast - fast) / 1_000;
        wall.fast = fast;
    }

    /// How long a flush takes at most.
    pub(crate) fn slow_down(&self, flush: Duration) {
        let milliseconds = u64::try_from(flush.as_millis()).expect("a flush is short");
        self.witness()
            .note(format_args!("{} flushes in {milliseconds} ms", self.id));
        self.flush.store(milliseconds, Ordering::Relaxed);
    }

    /// Starts a process; true when it runs.
    pub(crate) async fn start(self: &Arc<Self>) -> bool {
        if self.running().is_some() {
            return true;
        }
        let process = Process::default();
        let booted = {
            let (machine, process) = (Arc::clone(self), process.clone());
            process
                .clone()
                .spawn(async move { machine.boot(&process).await })
        };
        match booted.await {
            Ok(Ok(running)) => {
                self.watch(&running);
                *self.slot() = Some(running);
                true
            }
            Ok(Err(why)) => {
                self.witness()
                    .note(format_args!("{} does not start: {why}", self.id));
                process.kill();
                false
            }
            // The power went while it started, or the start panicked.
            Err(error) => {
                if error.is_panic() {
                    self.witness()
                        .wrong(format_args!("{} panicked while it started", self.id));
                }
                process.kill();
                false
            }
        }
    }

    async fn boot(&self, process: &Process) -> Result<Running, String> {
        let metrics = Metrics::new();
        let replica = Arc::new(Replica::default());
        let disk = self.disk.open(process);
        if !self.had_log.swap(true, Ordering::Relaxed) {
            // It is complete before it has its name.
            disk.make(1, LENGTHS.first)
                .map_err(|error| error.to_string())?;
        }
        let (mut log, writer) = LogStore::simulated(disk, LENGTHS, &metrics).map_err(|error| {
            let source = error.source().map(ToString::to_string);
            format!("{error} ({})", source.unwrap_or_default())
        })?;
        let files = SnapshotFiles::simulated(self.shelf.clone());
        let machine =
            StateMachine::open(files, Arc::clone(&replica)).map_err(|error| error.to_string())?;
        let applied = machine.applied();
        if log.purged().is_some_and(|purged| applied < Some(purged)) {
            return Err("the log begins after the newest valid snapshot".to_owned());
        }
        let vote = log.read_vote().await.map_err(|error| error.to_string())?;
        let state = log.get_log_state().await;
        let last = state.map_err(|error| error.to_string())?.last_log_id;
        let witness = Arc::clone(self.witness());
        // A snapshot holds what the log before it held.
        witness.found(self.id, vote, last.max(applied));
        witness.restored(self.id, applied.map(|applied| applied.index()), &replica);
        let (flush, random) = (Arc::clone(&self.flush), Arc::clone(&self.network.random));
        process.spawn(writer.run_simulated(move || {
            let most = flush.load(Ordering::Relaxed);
            pass(random.milliseconds(most / 2..most + 1))
        }));
        let config = openraft::Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            max_in_snapshot_log_to_keep: SNAPSHOT_EVERY / 2,
            ..super::super::config()
        };
        let config = config.validate().map_err(|error| error.to_string())?;
        let connections = Connections {
            from: self.id,
            network: Arc::clone(&self.network),
        };
        let watched = Watched {
            machine: self.id,
            inner: machine,
            replica: Arc::clone(&replica),
            witness,
        };
        let raft = Raft::new(self.id, Arc::new(config), connections, log, watched)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Running {
            process: process.clone(),
            raft,
            replica,
            clock: Arc::default(),
        })
    }

    /// A process whose Raft has failed for good ends, as the role does.
    fn watch(&self, running: &Running) {
        let mut metrics = running.raft.metrics();
        let process = running.process.clone();
        let (id, witness) = (self.id, Arc::clone(self.witness()));
        running.process.spawn(async move {
            loop {
                let failed = metrics.borrow_and_update().running_state.clone().err();
                if let Some(fatal) = failed {
                    // Only a disk may end it: the rest would be a defect.
                    if matches!(fatal, Fatal::StorageError(_)) {
                        witness.note(format_args!("{id} fails: {fatal}"));
                    } else {
                        witness.wrong(format_args!("{id} fails: {fatal}"));
                    }
                    return process.kill();
                }
                if metrics.changed().await.is_err() {
                    return process.kill();
                }
            }
        });
    }

    /// Ends the process, or takes the power from the machine.
    pub(crate) fn stop(&self, how: Stop) {
        self.witness()
            .note(format_args!("{} stops: {how:?}", self.id));
        if let Some(running) = self.slot().take() {
            running.process.kill();
        }
        self.disk.stop(how);
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.witness().note(format_args!("{} pauses", self.id));
        if let Some(running) = self.running() {
            running.process.pause();
        }
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.witness().note(format_args!("{} resumes", self.id));
        if let Some(running) = self.running() {
            running.process.resume();
        }
    }

    fn witness(&self) -> &Arc<Witness> {
        &self.network.witness
    }

    fn slot(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().expect("one thread runs the simulation")
    }
}
