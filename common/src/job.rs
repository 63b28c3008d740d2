//! Jobs: work that the cluster owns and carries on when the client has gone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{ApplicationId, InstanceId, JobId, VersionId, VersionNumber};
use crate::time::Timestamp;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// From source to serving.
    Deploy,
    /// Make a version current, starting it first if it is not running.
    Promote,
    /// Make the version that was current before current again.
    Rollback,
    /// Start a version's instances without making it current.
    Start,
    /// Stop a version's instances; they stay on their nodes.
    Stop,
    /// Remove a version's instances from their nodes.
    Deregister,
}

/// Where a job is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Not begun: another job of the application runs.
    Waiting,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// A step failed; what it started has been undone.
    Failed,
    /// Ended by a user.
    Aborted,
}

impl JobState {
    /// True when nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Aborted => true,
        }
    }
}

/// The steps of a deployment in their order; other jobs have some of them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The source is in the store.
    Source,
    /// The manifest is checked.
    Manifest,
    /// Services exist.
    Services,
    /// Prepare commands run on a builder node.
    Prepare,
    /// The result is in the store.
    Package,
    /// Nodes are chosen.
    Place,
    /// Instances are laid out on their nodes.
    Register,
    /// Processes start.
    Start,
    /// Start checks pass.
    Healthy,
    /// Every live router sends to old and new.
    Route,
    /// The version is current and every live router sends to it alone.
    Promote,
    /// No request that a stop could cut is in flight. A switch stops nothing: what the old version still
    /// carries goes on while it stays warm, and it is drained when it is stopped.
    Drain,
    /// The old version is kept warm, to be stopped when the watch window ends.
    Retire,
    /// Processes stop.
    Stop,
    /// Instances are removed from their nodes.
    Deregister,
}

/// One step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Which step.
    pub name: StepName,
    /// Where it is.
    pub state: JobState,
    /// When it began.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<Timestamp>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobFailure {
    /// The step that failed.
    pub step: StepName,
    /// Stable, for programs: a [`FailureCode`](crate::instance::FailureCode) in its JSON form, or the job's own.
    pub code: String,
    /// One sentence: what was being done, to what, and why it failed.
    pub message: String,
    /// The last lines of output, bounded by [`OUTPUT_TAIL_MAX_BYTES`](crate::instance::OUTPUT_TAIL_MAX_BYTES).
    #[serde(default)]
    pub output_tail: String,
    /// The instance that failed, when it was one.
    #[serde(default)]
    pub instance: Option<InstanceId>,
}

/// Work that the cluster owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// To which application.
    pub application: ApplicationId,
    /// To which version.
    pub version: VersionId,
    /// The same version, as people count it.
    pub version_number: VersionNumber,
    /// Where it is.
    pub state: JobState,
    /// In order; the first that is not succeeded is the one under way.
    pub steps: Vec<Step>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub finished: Option<Timestamp>,
    /// Why it failed.
    #[serde(default)]
    pub failure: Option<JobFailure>,
}
