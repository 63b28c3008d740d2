//! Bodies about web crons and their runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{ApplicationId, InstanceId, InstanceTypeName, NodeId, RunId, VersionNumber};
use crate::time::{Span, Timestamp};

/// A cron of an application: what the manifest says, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CronView {
    /// The instance type whose instances it calls.
    pub instance_type: InstanceTypeName,
    /// Unique in its instance type.
    pub name: String,
    /// When, as the manifest writes it.
    pub runspec: String,
    /// The IANA name of the time zone that the expression means.
    pub timezone: String,
    /// `GET`, `POST`…
    pub method: String,
    /// What it calls on the instance.
    pub uri: String,
    /// True while people have taken its slots away.
    pub suspended: bool,
    /// The next slot; none when it is suspended or no version is current.
    pub next: Option<Timestamp>,
    /// Its runs that have not ended, oldest first.
    pub running: Vec<RunId>,
    /// The newest run.
    pub last: Option<CronRunView>,
    /// Runs that failed in a row, up to now.
    pub failures: u32,
    /// How long one attempt may take.
    pub timeout: Span,
    /// `allow`, `forbid` or `replace`.
    pub overlap: String,
    /// `skip` or `once`.
    pub missed: String,
    /// Attempts after the first.
    pub retries: u32,
}

impl CronView {
    /// How the cron is named in the API: `TYPE/NAME`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.instance_type, self.name)
    }
}

/// A run of a cron, or a slot that was not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CronRunView {
    /// Its number; `PM-Cron-Run` of its requests.
    pub id: RunId,
    /// Whose.
    pub application: ApplicationId,
    /// The cron, as `TYPE/NAME`.
    pub cron: String,
    /// The version whose cron it was.
    pub version: Option<VersionNumber>,
    /// The slot; of a run that was asked for, when it was asked for.
    pub scheduled: Timestamp,
    /// What made it.
    pub trigger: CronTrigger,
    /// Where it is.
    pub state: CronRunState,
    /// Attempts that were begun.
    pub attempts: u32,
    /// When the first attempt began.
    pub started: Option<Timestamp>,
    /// When the last attempt ended.
    pub ended: Option<Timestamp>,
    /// How long the last attempt took.
    pub duration: Option<Span>,
    /// The instance that was called last.
    pub instance: Option<InstanceId>,
    /// The pacemaker that made the last attempt, and has its log.
    pub node: Option<NodeId>,
    /// The HTTP status of the last answer.
    pub status: Option<u16>,
    /// What became of it, in words; empty while nothing has.
    pub outcome: String,
    /// How many slots this record stands for: more than 1 for slots in a row that were not run.
    pub count: u64,
    /// The last of those slots.
    pub last_scheduled: Timestamp,
}

/// What makes a run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CronTrigger {
    /// A slot of its schedule.
    Schedule,
    /// Someone asked for it.
    Manual,
}

/// Where a run is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CronRunState {
    /// Asked for, not begun.
    Waiting,
    /// An attempt is under way.
    Running,
    /// An attempt failed; another follows.
    Backoff,
    /// Answered with 2xx.
    Succeeded,
    /// Answered otherwise, or not at all.
    Failed,
    /// Not answered within its timeout.
    TimedOut,
    /// Nobody knows: the pacemaker that made the request is gone.
    Lost,
    /// A newer run took its place.
    Replaced,
    /// Not run: an earlier run went on, or no version was current.
    Skipped,
    /// Not run: no pacemaker led the cluster at the time.
    Missed,
}

impl CronRunState {
    /// True when nothing more follows.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Running | Self::Backoff => false,
            Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Lost
            | Self::Replaced
            | Self::Skipped
            | Self::Missed => true,
        }
    }
}

/// Names a cron of an application: to run it now, to suspend or to resume it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CronRequest {
    /// `TYPE/NAME`, or the name alone where one instance type has such a cron.
    pub cron: String,
}

/// Failures in a row from which on a cron is shown where people look for trouble: one may be a
/// deployment under way, two a coincidence.
pub const CRON_FAILURES_SHOWN: u32 = 3;

/// A cron that fails again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailingCron {
    /// The cron, as `TYPE/NAME`.
    pub cron: String,
    /// Runs that failed in a row, up to now.
    pub failures: u32,
    /// What became of the last, in words.
    pub outcome: String,
}
