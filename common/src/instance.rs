//! An instance: one process tree of one instance type, on one node.
//!
//! ```text
//! Allocated → Registered → Starting → Running → Stopping → Stopped
//!                 │           │         │
//!                 └───────────┴─────────┴────→ Failed (exit, unhealthy, lost port)
//!            any state on a node that is down → Lost
//! ```
//! The happy path: the planner allocates an instance on a node; the heart there fetches, unpacks
//! and runs the startup commands (Registered), starts the process (Starting), sees its port in
//! LISTEN (Running); told to stop, it drains and stops (Stopping, Stopped). A stopped instance
//! keeps its directory and may start again. When it is no longer assigned, its directory is
//! removed and it is forgotten (Deregistered in the catalogue of states, gone from the State).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where an instance is in its life, as its heart reports it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Given to a node; the heart has not finished to lay out its directory.
    Allocated,
    /// On disk, startup commands done or not needed yet, no process.
    Registered,
    /// The process runs and has not passed its start check.
    Starting,
    /// The process passed its start check.
    Running,
    /// The stop signal has been sent, or is about to be.
    Stopping,
    /// No process is left; the directory stands.
    Stopped,
    /// The last start failed or the process ended; the heart waits to restart it.
    Failed,
    /// Its node is down; nobody knows.
    Lost,
}

/// What the pacemaker wants of an instance that is assigned to a node.
///
/// An instance that is no longer in the assignment is to be stopped and removed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum InstanceGoal {
    /// On disk and ready to start, no process.
    Registered,
    /// Running, restarted when it ends.
    Running,
}

/// Why an instance is not running, in words for the user and a code for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// What kind of failure.
    pub code: FailureCode,
    /// One sentence: what was being done and why it failed.
    pub message: String,
    /// The last lines of output, at most [`OUTPUT_TAIL_MAX_BYTES`], lossy UTF-8.
    #[serde(default)]
    pub output_tail: String,
}

/// How much output travels with a failure: one screen.
pub const OUTPUT_TAIL_MAX_BYTES: usize = 4096;

/// The kinds of failure that a heart reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The package could not be fetched.
    FetchFailed,
    /// The package's bytes do not match its digest.
    PackageDamaged,
    /// The package was refused while unpacking (escape, bomb, device).
    PackageRefused,
    /// The disk is full or failed.
    Disk,
    /// A prepare command ended with an error.
    PrepareFailed,
    /// A startup command ended with an error.
    StartupFailed,
    /// The launch command could not be executed.
    LaunchFailed,
    /// No port was free in the node's range.
    NoPort,
    /// Another process holds the instance's port.
    PortTaken,
    /// The process ended by itself.
    Exited,
    /// The port was not in LISTEN in time.
    NotListening,
    /// The health path did not answer in time.
    Unhealthy,
    /// The node cannot run this kind of program.
    Unsupported,
    /// The heart was told to give it up (abort).
    Aborted,
}
