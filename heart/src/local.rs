//! What this node holds: every instance and build that it has anything of.
//!
//! ```text
//!            LayOut              Launch              passes its check
//!  Idle ─────────────► Idle ─────────────► Starting ─────────────────► Running
//!  (nothing on disk)   (laid out)             │                           │
//!                        ▲                    └────► Stopping ◄───────────┘
//!                        │                              │ ended           │ ended by itself
//!                        └──────────────────────────────┴─────────────────┘
//! ```
//! The happy path: an assigned instance is laid out, launched, found listening, and runs until it
//! is stopped. [`Local`] is plain data: [`Local::apply`] takes in what has happened,
//! [`plan`](crate::plan::plan) says what to do next, and only the loop in
//! `sync` owns one. The [`Entry`] of an instance is what the journal keeps.

mod backoff;
pub(crate) mod journal;
mod transition;

use std::collections::BTreeMap;

use common::assignment::{AssignedInstance, BuildState, PackageReference};
use common::id::{InstanceId, JobId};
use common::instance::{Failure, FailureCode};
use common::time::Span;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::ports::Ports;
use crate::shim::{ProcessRecord, VANISH_LIMIT};

pub use backoff::{BACKOFF_FIRST, BACKOFF_LIMIT, WELL_AFTER, delay_before_restart};
pub use transition::Event;

/// How often a start is tried on another port when a stranger holds the instance's.
pub const PORT_TRIES: u8 = 3;

/// Everything that this node holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Local {
    /// By instance.
    pub instances: BTreeMap<InstanceId, Held>,
    /// By job.
    pub builds: BTreeMap<JobId, HeldBuild>,
    /// The node's ports that nobody has.
    pub ports: Ports,
    /// Whether exclusive instances may run here.
    pub fence: Fence,
}

/// Whether exclusive instances may run on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// A pacemaker is heard: they run.
    #[default]
    Open,
    /// A pacemaker is heard (again), but has not said since that the assignment still holds: those
    /// that run go on, none is started.
    Unconfirmed,
    /// No pacemaker has been heard for longer than the node's TTL: none runs.
    Closed,
}

/// One instance that this node has something of.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What the journal keeps.
    pub entry: Entry,
    /// Its process.
    pub condition: Condition,
    /// What is being done to it; one thing at a time.
    pub work: Option<Work>,
    /// Not before this is it laid out or started again after a failure.
    pub retry_at: Option<Moment>,
    /// Not before this is a removal that failed tried again.
    pub remove_again_at: Option<Moment>,
    /// Ports in a row that a stranger held.
    pub ports_lost: u8,
}

/// What the journal keeps of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The code in its directory.
    pub package: PackageReference,
    /// True when its directory is complete.
    pub is_laid_out: bool,
    /// The boot in which it was laid out.
    pub boot_id: String,
    /// True when its directory is known to be on disk, so that it may be used in another boot.
    pub is_synced: bool,
    /// Time that its processes have to end.
    pub grace: Span,
    /// Its port: from its first start until it is removed.
    pub port: Option<u16>,
    /// How often a process has been launched for it.
    pub runs: u64,
    /// True when the startup commands are due before the next start.
    pub needs_startup: bool,
    /// Restarts after a failure, since it last ran well.
    pub restarts: u32,
    /// Why it is not running.
    pub failure: Option<Failure>,
}

/// The process of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is none.
    Idle,
    /// It has not passed its start check.
    Starting(ProcessRecord),
    /// It has.
    Running {
        /// The process.
        process: ProcessRecord,
        /// When it passed the check.
        since: Moment,
    },
    /// It has failed its start check, or a stranger listens on its port; it must be stopped.
    Failing {
        /// The process.
        process: ProcessRecord,
        /// Why.
        failure: Failure,
    },
    /// It has been told to end.
    Stopping {
        /// The process.
        process: ProcessRecord,
        /// When all that is left of it is killed.
        kill_at: Moment,
        /// Why it must end.
        reason: StopReason,
    },
}

impl Condition {
    /// The process, if there is one.
    #[must_use]
    pub const fn process(&self) -> Option<&ProcessRecord> {
        match self {
            Self::Idle => None,
            Self::Starting(process)
            | Self::Running { process, .. }
            | Self::Failing { process, .. }
            | Self::Stopping { process, .. } => Some(process),
        }
    }
}

/// Why a process is being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Nobody wants it to run.
    NotWanted,
    /// It failed its start check, or a stranger listens on its port.
    Failed(Failure),
}

/// What is being done to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Fetching, unpacking, copying.
    LayingOut,
    /// Startup commands, then the process.
    Launching,
    /// [`Work::LayingOut`] or [`Work::Launching`] that has been told to give up.
    GivingUp,
    /// Deleting its directory.
    Removing,
}

/// One build that this node holds.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldBuild {
    /// How far it is.
    pub state: BuildState,
    /// True once it has been told to give up.
    pub is_aborted: bool,
}

impl Entry {
    /// The entry of an instance of which nothing is there yet.
    #[must_use]
    pub fn new(assigned: &AssignedInstance, boot_id: &str) -> Self {
        Self {
            package: assigned.package.clone(),
            grace: assigned.stop.grace,
            is_laid_out: false,
            boot_id: boot_id.to_owned(),
            is_synced: false,
            port: None,
            runs: 0,
            needs_startup: true,
            restarts: 0,
            failure: None,
        }
    }
}

impl Held {
    /// An instance without process and without work.
    #[must_use]
    pub const fn idle(entry: Entry) -> Self {
        Self {
            entry,
            condition: Condition::Idle,
            work: None,
            retry_at: None,
            remove_again_at: None,
            ports_lost: 0,
        }
    }

    /// Why it is not running, or will not be once its process has been stopped.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match &self.condition {
            Condition::Failing { failure, .. }
            | Condition::Stopping {
                reason: StopReason::Failed(failure),
                ..
            } => Some(failure),
            Condition::Idle
            | Condition::Starting(_)
            | Condition::Running { .. }
            | Condition::Stopping {
                reason: StopReason::NotWanted,
                ..
            } => self.entry.failure.as_ref(),
        }
    }

    /// True while its process is stopped only because it will be started on another port at once.
    #[must_use]
    pub fn tries_another_port(&self) -> bool {
        let is_taken = self
            .failure()
            .is_some_and(|failure| failure.code == FailureCode::PortTaken);
        is_taken && self.condition != Condition::Idle && self.ports_lost + 1 < PORT_TRIES
    }

    /// True when nothing is left to wait for before the next try.
    #[must_use]
    pub fn is_due(&self, now: Moment) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// True when its directory may be deleted (again).
    #[must_use]
    pub fn is_removable(&self, now: Moment) -> bool {
        self.remove_again_at.is_none_or(|at| at <= now)
    }
}

impl Local {
    /// The next moment at which the plan may change although nothing happens.
    #[must_use]
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        self.instances
            .values()
            .filter_map(|held| match &held.condition {
                Condition::Idle => earliest(held.retry_at, held.remove_again_at, now),
                Condition::Starting(_) | Condition::Failing { .. } => None,
                Condition::Running { since, .. } => {
                    (held.entry.restarts > 0).then(|| since.after(WELL_AFTER))
                }
                Condition::Stopping { kill_at, .. } => Some(*kill_at),
            })
            .filter(|at| *at > now)
            .min()
    }
}

fn earliest(one: Option<Moment>, other: Option<Moment>, now: Moment) -> Option<Moment> {
    [one, other]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
}

/// How long after the grace a process that is still there is killed by the heart itself: its shim
/// kills it when the grace is over, so that this is for a shim that cannot. Longer than the shim
/// itself waits for what it has killed.
pub const KILL_MARGIN: Span = Span::seconds(15);
const _: () = assert!(KILL_MARGIN.duration().as_secs() > VANISH_LIMIT.as_secs());

pub use common::assignment::FENCE_GRACE;
