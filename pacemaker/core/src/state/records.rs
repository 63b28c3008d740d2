//! The records that the state is made of: plain data, no decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::api::VersionState;
use common::application::{CronKey, InstanceTypeSpec, VersionSpec};
use common::assignment::{InstanceReport, PackageReference};
use common::digest::Digest;
use common::id::{
    ApplicationId, ApplicationName, Generation, InstanceId, InstanceTypeName, JobId, NodeId,
    VersionId, VersionNumber, WorkspaceId,
};
use common::instance::{Failure, InstanceGoal, InstanceState};
use common::job::{Job, JobState, StepName};
use common::node::{Node, NodeState, Role};
use common::secret::Secret;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::command::{ClusterSettings, Outcome, TokenRole};
use crate::state::crons::CronRecord;

/// What the cluster is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Random, made once.
    pub id: String,
    /// Appended to every generated hostname.
    pub hostname: String,
    /// SHA-256 of a token → what it may do.
    pub tokens: BTreeMap<String, TokenRole>,
    /// Times that the cluster keeps to.
    pub settings: ClusterSettings,
    /// SHA-256 of a join token's secret → what it grants.
    #[serde(default)]
    pub join_tokens: BTreeMap<String, JoinGrant>,
}

/// What a join token grants, and to whom it was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// The most that the node may do.
    pub roles: BTreeSet<Role>,
    /// When it can no longer be used.
    pub expires: Timestamp,
    /// The node that joined with it; it is kept for a while, so that this node may ask again.
    pub used_by: Option<NodeId>,
}

/// The last id given of each kind; ids are never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Of workspaces.
    pub workspace: u64,
    /// Of nodes.
    pub node: u64,
    /// Of applications.
    pub application: u64,
    /// Of versions across applications.
    pub version: u64,
    /// Of instances.
    pub instance: u64,
    /// Of jobs.
    pub job: u64,
    /// Of runs of crons.
    #[serde(default)]
    pub cron_run: u64,
}

/// A node and what follows from its place in the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What the API shows.
    pub node: Node,
    /// When it last registered: it has one TTL from then to report.
    pub registered: Timestamp,
    /// Its reporting roles that have been silent for longer than the TTL.
    pub silent: BTreeSet<Role>,
    /// The last change to its assignment.
    pub assignment_generation: Generation,
    /// Every instance that is placed here, assigned or not yet forgotten.
    pub instances: BTreeSet<InstanceId>,
    /// Jobs whose build is assigned to this node.
    pub builds: BTreeSet<JobId>,
    /// True while an administrator wants it empty, also while it is silent.
    #[serde(default)]
    pub is_draining: bool,
    /// How many of its instances are to run and do not yet, when that has been counted.
    #[serde(default)]
    pub starting: Option<u64>,
    /// The last entry of the log that touched the node or an instance on it, other than by placing
    /// one: no report can say anything of what has just been placed.
    #[serde(default)]
    pub altered: Generation,
    /// The last entry of the log that touched the node or an instance on it.
    #[serde(default)]
    pub changed: Generation,
    /// The most that it may do; none for a node that registered without a join token.
    #[serde(default)]
    pub granted: Option<BTreeSet<Role>>,
}

impl NodeRecord {
    /// True when the node said that it has this role.
    #[must_use]
    pub fn has_role(&self, role: Role) -> bool {
        self.node.description.roles.contains(&role)
    }

    /// True when new instances and builds may be given to it.
    #[must_use]
    pub fn takes_instances(&self) -> bool {
        self.has_role(Role::Heart)
            && !self.silent.contains(&Role::Heart)
            && !self.is_draining
            && self.node.state != NodeState::Stopped
    }
}

/// What is asked of a node for each of its instances, in a map of its own that stays in the
/// processor's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBrief {
    /// Where its instances are reached.
    pub address: IpAddr,
    /// True while it is to become empty.
    pub is_draining: bool,
}

impl From<&NodeRecord> for NodeBrief {
    fn from(node: &NodeRecord) -> Self {
        Self {
            address: node.node.description.address,
            is_draining: node.is_draining,
        }
    }
}

/// A package in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRecord {
    /// Bytes.
    pub size: u64,
    /// When it was committed.
    pub committed: Timestamp,
}

/// An application, its versions, and the one change that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Its number.
    pub id: ApplicationId,
    /// Where it lives.
    pub workspace: WorkspaceId,
    /// As its first manifest wrote it.
    pub name: ApplicationName,
    /// The last version number given.
    pub last_version: u64,
    /// By number.
    pub versions: BTreeMap<VersionNumber, Version>,
    /// The version that hostnames go to.
    pub current: Option<VersionNumber>,
    /// The version that a rollback goes to.
    pub previous: Option<VersionNumber>,
    /// The version whose exclusive types may run; the current one except during a handover.
    pub exclusive_owner: Option<VersionNumber>,
    /// True while exclusive types change hands: their routes hold requests.
    pub handover: bool,
    /// The job under way; one at a time.
    pub job: Option<JobId>,
    /// The switchover under way.
    pub switch: Option<Switch>,
    /// The version before, kept running so that going back is instant.
    pub warm: Option<Warm>,
    /// The last entry of the log that touched it or one of its instances.
    #[serde(default)]
    pub changed: Generation,
    /// Its crons; they outlive the versions that have them, as long as one is kept.
    #[serde(default)]
    pub crons: BTreeMap<CronKey, CronRecord>,
    /// The version whose crons are fired: the one that was current last.
    #[serde(default)]
    pub crons_version: Option<VersionNumber>,
    /// The last entry of the log that changed which crons are fired, not what became of their runs.
    #[serde(default)]
    pub crons_changed: Generation,
    /// What requests of its crons are signed with.
    #[serde(default)]
    pub cron_key: Option<Secret>,
}

/// A switchover from one version to another (design, section 3).
///
/// ```text
/// Both ──acknowledged──► Handover ──exclusive types run──► OnlyNew ──acknowledged──► Draining
/// ```
/// `Handover` is passed through at once when there are no exclusive types. The version becomes
/// current at the entry of `OnlyNew`; before that a failure or an abort undoes everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The version before, if there was one.
    pub from: Option<VersionNumber>,
    /// The version that becomes current.
    pub to: VersionNumber,
    /// How far it is.
    pub phase: SwitchPhase,
    /// The log index at which the phase began.
    pub generation: Generation,
    /// When the phase began.
    pub since: Timestamp,
}

/// How far a switchover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SwitchPhase {
    /// The hostnames go to both versions.
    Both,
    /// Exclusive types of the old version stop, those of the new one start.
    Handover,
    /// The new version is current and alone in the table.
    OnlyNew,
    /// Requests in flight to the old version end.
    Draining,
}

/// A version that is kept running for a while after another became current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    /// Which.
    pub version: VersionNumber,
    /// When it is stopped.
    pub until: Timestamp,
}

/// What is wanted of a version's instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VersionGoal {
    /// None anywhere.
    Absent,
    /// Laid out on nodes, not running.
    Registered,
    /// Running; exclusive types only when the version owns them.
    Running,
}

/// A version of an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Across applications.
    pub id: VersionId,
    /// As people count it.
    pub number: VersionNumber,
    /// What its manifest says.
    pub spec: Box<VersionSpec>,
    /// The manifest's text.
    pub manifest: String,
    /// What was uploaded.
    pub source: PackageReference,
    /// What runs; none until it is built.
    pub package: Option<PackageReference>,
    /// When it was deployed.
    pub created: Timestamp,
    /// How many instances of each type are wanted.
    pub quantities: BTreeMap<InstanceTypeName, u32>,
    /// What is wanted of its instances.
    pub goal: VersionGoal,
    /// How far it has come.
    pub state: VersionState,
    /// Every instance of it that is not forgotten.
    pub instances: BTreeSet<InstanceId>,
}

impl Version {
    /// What the manifest says of a type.
    #[must_use]
    pub fn instance_type(&self, name: &InstanceTypeName) -> Option<&InstanceTypeSpec> {
        self.spec
            .instance_types
            .iter()
            .find(|instance_type| instance_type.name == *name)
    }

    /// How many instances of a type are wanted while the version has instances at all.
    #[must_use]
    pub fn quantity(&self, name: &InstanceTypeName) -> u32 {
        self.quantities.get(name).copied().unwrap_or_default()
    }
}

/// What a heart said last of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Where it is.
    pub state: InstanceState,
    /// Its port.
    pub port: Option<u16>,
    /// Its process.
    pub pid: Option<u32>,
    /// Restarts since it last ran well.
    pub restarts: u32,
    /// Why it is not running.
    pub failure: Option<Failure>,
}

impl From<&InstanceReport> for Seen {
    fn from(report: &InstanceReport) -> Self {
        Self {
            state: report.state,
            port: report.port,
            pid: report.pid,
            restarts: report.restarts,
            failure: report.failure.clone(),
        }
    }
}

/// Whether an instance serves; routers may send to one that does, unless it is standalone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exposure {
    /// It has not passed its start check under the present goal, or has ended since.
    Out,
    /// It passed its start check and has not been withdrawn.
    In,
    /// It is about to be stopped: its last requests drain.
    Withdrawn,
}

impl Instance {
    /// True when it is to run and what it will need does not show in its node's load yet.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.wants_process()
            && match self.seen.state {
                InstanceState::Allocated | InstanceState::Registered | InstanceState::Starting => {
                    true
                }
                InstanceState::Running
                | InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Failed
                | InstanceState::Lost => false,
            }
    }

    /// True when its heart is to keep a process of it.
    #[must_use]
    pub fn wants_process(&self) -> bool {
        self.assigned && self.goal == InstanceGoal::Running
    }
}

/// One process tree of one instance type, on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its number.
    pub id: InstanceId,
    /// Whose.
    pub application: ApplicationId,
    /// Of which version.
    pub version: VersionNumber,
    /// Of which type.
    pub instance_type: InstanceTypeName,
    /// Where it is placed; it never moves.
    pub node: NodeId,
    /// What is wanted of it.
    pub goal: InstanceGoal,
    /// False once its heart has been told to remove it.
    pub assigned: bool,
    /// The last change to `goal` or `assigned`.
    pub goal_generation: Generation,
    /// When `goal` or `assigned` last changed.
    pub goal_at: Timestamp,
    /// The last change by an action; an action that was planned against another one is stale.
    pub generation: Generation,
    /// What its heart said last.
    pub seen: Seen,
    /// When the state last changed.
    pub since: Timestamp,
    /// Whether routers may send to it.
    pub exposure: Exposure,
    /// The log index at which it last left the table.
    pub left: Generation,
    /// When it last left the table.
    pub left_at: Timestamp,
    /// Since when every live router has acknowledged that it left, while requests go on; the drain
    /// limit begins here, because until then a router may have sent new ones.
    #[serde(default)]
    pub draining_since: Option<Timestamp>,
    /// True when no process is wanted and none can be there: its heart, knowing that, has said so,
    /// or has been cut off for so long that it has stopped what is exclusive by itself.
    pub quiet: bool,
}

/// A job and what it must remember to undo itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What the API shows.
    pub job: Job,
    /// The last change to it.
    pub generation: Generation,
    /// What was wanted of the version before.
    pub goal_before: VersionGoal,
    /// Where the version was before.
    pub state_before: VersionState,
    /// The builder, while one builds.
    pub builder: Option<NodeId>,
}

impl JobRecord {
    /// The step under way: the first that has not succeeded, while the job runs.
    #[must_use]
    pub fn step(&self) -> Option<StepName> {
        if self.job.state.is_final() {
            return None;
        }
        self.job
            .steps
            .iter()
            .find(|step| step.state != JobState::Succeeded)
            .map(|step| step.name)
    }
}

/// What came of a command that carried a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnceRecord {
    /// Of the command, so that a key is not used for two.
    pub fingerprint: Digest,
    /// What was answered.
    pub outcome: Outcome,
}
