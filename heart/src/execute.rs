//! Performs one [`HeartAction`](crate::plan::HeartAction), each in a task of its own.
//!
//! A task tells the loop how it went by an [`Event`] and never decides what comes next. Everything
//! here may be done twice: directories are made under temporary names and renamed, what is there
//! already is used or replaced. How many tasks of a kind work at once is bounded.

mod housekeeping;
mod launch;
mod lay_out;
mod remove;
mod supervise;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::id::InstanceId;
use pacemaker_client::Client;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::crash_point::Crash;
use crate::directories::Directories;
use crate::fetch::Packages;
use crate::local::Event;
use crate::metrics::Metrics;
use crate::runs::Runs;
use crate::shim::ProcessRecord;

pub(crate) use launch::Launch;
pub(crate) use supervise::{Assignments, Supervision};

/// Trees copied at once: the disk is the limit, and more at once only wait for each other.
const COPIES_AT_ONCE: usize = 4;
/// Processes started at once: each costs a millisecond of one core.
const SPAWNS_AT_ONCE: usize = 16;
/// Trees deleted at once.
const REMOVALS_AT_ONCE: usize = 4;
/// Builds at once: compilers take all cores, and instances need some.
const BUILDS_AT_ONCE: usize = 2;
/// Events that may wait for the loop; a task that finds the queue full waits.
pub(crate) const EVENTS_MAX: usize = 1024;

/// What the tasks work with; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Executor(Arc<Shared>);

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directories: Directories,
    pub(crate) packages: Arc<Packages>,
    pub(crate) runs: Runs,
    pub(crate) client: Client,
    pub(crate) shim_program: PathBuf,
    /// True: exclusive instances run only as long as their lease holds.
    pub(crate) fence_exclusive: bool,
    pub(crate) node_tags: BTreeMap<String, Value>,
    pub(crate) crash: Crash,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shutdown: CancellationToken,
    events: mpsc::Sender<Event>,
    tasks: TaskTracker,
    /// The instances whose processes are being killed.
    kills: Mutex<BTreeSet<InstanceId>>,
    copies: Semaphore,
    spawns: Semaphore,
    removals: Semaphore,
    pub(crate) builds: Semaphore,
}

impl std::ops::Deref for Executor {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Executor {
    /// An executor with nothing to do; its events arrive at the receiver.
    pub(crate) fn new(
        config: &Config,
        packages: Arc<Packages>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let crash = Crash(config.crash_at);
        let shared = Shared {
            directories: Directories::new(config.data_dir.clone()),
            packages,
            runs: Runs::new(config.shim_program.clone(), crash),
            client: config.client.clone(),
            shim_program: config.shim_program.clone(),
            fence_exclusive: config.fence_exclusive,
            node_tags: config.node_tags.clone(),
            crash,
            metrics,
            shutdown,
            events,
            tasks: TaskTracker::new(),
            kills: Mutex::default(),
            copies: Semaphore::new(COPIES_AT_ONCE),
            spawns: Semaphore::new(SPAWNS_AT_ONCE),
            removals: Semaphore::new(REMOVALS_AT_ONCE),
            builds: Semaphore::new(BUILDS_AT_ONCE),
        };
        (Self(Arc::new(shared)), receiver)
    }

    /// Starts a task that is waited for when the heart ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Kills what is left of this run of an instance, unless that is under way already.
    pub(crate) fn kill(&self, instance: InstanceId, process: ProcessRecord) {
        if !self.kills().insert(instance) {
            return;
        }
        let executor = self.clone();
        self.spawn(async move {
            tracing::warn!(%instance, "killing a process that did not end in time");
            let run_directory = executor.directories.instance(instance).run();
            if let Err(error) = crate::runs::kill_run(run_directory, instance, process).await {
                tracing::error!(%instance, %error, "killing a process");
            }
            executor.kills().remove(&instance);
        });
    }

    /// Waits until every task has ended; they end soon once the heart is shut down.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.packages.finish().await;
    }
}

impl Shared {
    fn kills(&self) -> MutexGuard<'_, BTreeSet<InstanceId>> {
        // The lock guards single steps; a panic elsewhere leaves the set whole.
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the loop; when it is gone, the heart ends and nobody needs to know.
    pub(crate) async fn tell(&self, event: Event) {
        drop(self.events.send(event).await);
    }
}
