//! Everything that can change the state, and what comes of it.

mod crons;

use std::collections::{BTreeMap, BTreeSet};

use common::application::{CronKey, VersionSpec};
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{
    ApplicationId, Generation, InstanceTypeName, JobId, NodeId, RunId, VersionNumber, WorkspaceId,
    WorkspaceStub,
};
use common::node::{NodeDescription, Role};
use common::secret::Secret;
use common::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::crons::{CronDecision, CronGrant, CronReport, CronResult, SkipReason};
use crate::action::Action;

/// A change that is asked for; it has its effect when it has been committed and applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster; a second one is rejected.
    InitializeCluster {
        /// The cluster's id, random.
        id: String,
        /// Appended to every generated hostname, lower case.
        hostname: String,
        /// SHA-256 (hexadecimal) of a bearer token → what it may do.
        tokens: BTreeMap<String, TokenRole>,
        /// Times that the cluster keeps to.
        settings: ClusterSettings,
        /// Tokens that were handed out before the cluster's first node ran; expired ones are left out.
        #[serde(default)]
        join_tokens: Vec<JoinTokenRecord>,
        /// The machine that begins the cluster: it becomes node 1 in the same entry, so that no
        /// other can. None where nodes register themselves (`pm dev`).
        #[serde(default)]
        founder: Option<NodeDescription>,
    },
    /// An administrator lets one more node join.
    CreateJoinToken {
        /// SHA-256 (hexadecimal) of the token's secret.
        hash: String,
        /// The most that the node may do.
        roles: BTreeSet<Role>,
        /// When it can no longer be used.
        expires: Timestamp,
    },
    /// A machine that holds a token's secret becomes a node; it works once. The same machine may
    /// repeat it, when it did not hear the answer, and gets the same number.
    JoinNode {
        /// SHA-256 (hexadecimal) of the token's secret.
        token: String,
        /// What it said.
        description: NodeDescription,
    },
    /// A node that has joined says what it is; one that was removed is refused.
    DescribeNode {
        /// Which, by its certificate.
        node: NodeId,
        /// What it said; its key is the one that it joined with.
        description: NodeDescription,
    },
    /// An administrator empties a node: nothing new is placed there, and what runs there is stopped
    /// when its replacement serves elsewhere.
    DrainNode {
        /// Which.
        node: NodeId,
    },
    /// A node that was drained takes instances again.
    UndrainNode {
        /// Which.
        node: NodeId,
    },
    /// An administrator forgets a node that is drained or down. Its number is never given again.
    RemoveNode {
        /// Which; the shell has taken it out of the Raft group before.
        node: NodeId,
    },
    /// A user makes a workspace.
    CreateWorkspace {
        /// The display name.
        name: String,
        /// Unique.
        stub: WorkspaceStub,
        /// For applications to see.
        tags: BTreeMap<String, Value>,
    },
    /// A node of a cluster without certificates says what it is; the same key updates the same node,
    /// a new key makes one.
    RegisterNode {
        /// What it said.
        description: NodeDescription,
    },
    /// A package has been stored and verified on a majority of the pacemakers.
    CommitPackage {
        /// Which.
        package: PackageReference,
    },
    /// The leader's collector found packages that nothing needs; those that are needed stay.
    ForgetPackages {
        /// Which.
        digests: BTreeSet<Digest>,
    },
    /// A user deploys: makes the application if there is none, a version, and a job.
    Deploy {
        /// Where.
        workspace: WorkspaceStub,
        /// The checked manifest.
        spec: Box<VersionSpec>,
        /// Its text, kept for reading.
        manifest: String,
        /// A committed package.
        source: Digest,
        /// False: stop after `Healthy`.
        promote: bool,
        /// 32 random bytes in hexadecimal, with which requests of the application's crons are
        /// signed; an application keeps its first.
        #[serde(default)]
        cron_key: Option<Secret>,
    },
    /// A user starts a version beside the current one.
    StartVersion(VersionTarget),
    /// A user stops a version that is not current.
    StopVersion(VersionTarget),
    /// A user makes a version current.
    PromoteVersion(VersionTarget),
    /// A user removes a version's instances from their nodes.
    DeregisterVersion(VersionTarget),
    /// A user goes back to the version that was current before.
    Rollback {
        /// Whose.
        application: ApplicationId,
    },
    /// A user changes how many instances of the current version there are.
    Scale {
        /// Whose.
        application: ApplicationId,
        /// New quantity by type.
        quantities: BTreeMap<InstanceTypeName, u32>,
    },
    /// A user ends a job.
    AbortJob {
        /// Which.
        job: JobId,
    },
    /// The leader carries out its plan. Each action is validated again; a stale one is skipped.
    Act {
        /// The last log index applied when the plan was made.
        computed_at: Generation,
        /// In order.
        actions: Vec<Action>,
    },
    /// The leader decides about slots and runs of crons. Each decision is checked again; a stale one
    /// does nothing.
    DecideCrons {
        /// The leader: it sends the requests of what is granted.
        runner: NodeId,
        /// The leader's wall clock.
        at: Timestamp,
        /// In order, at most [`CRON_DECISIONS_MAX`](crate::state::limits::CRON_DECISIONS_MAX).
        decisions: Vec<CronDecision>,
    },
    /// What became of requests of crons, told by whoever made them, leader or not.
    ReportCronRuns {
        /// Who made them; of an attempt that another pacemaker makes it can say nothing.
        #[serde(default)]
        runner: NodeId,
        /// At most [`CRON_REPORTS_MAX`](crate::state::limits::CRON_REPORTS_MAX).
        reports: Vec<CronReport>,
    },
    /// A user runs a cron now.
    StartCronRun {
        /// Whose.
        application: ApplicationId,
        /// Which; of the current version.
        cron: CronKey,
    },
    /// A user takes a cron's slots away.
    SuspendCron {
        /// Whose.
        application: ApplicationId,
        /// Which.
        cron: CronKey,
    },
    /// A user gives a cron its slots back, from the next on.
    ResumeCron {
        /// Whose.
        application: ApplicationId,
        /// Which.
        cron: CronKey,
    },
    /// A pacemaker has started again: of the requests that it was making, nobody knows.
    AbandonCronRuns {
        /// Which.
        runner: NodeId,
    },
    /// A command with the key under which a client may repeat it (`Idempotency-Key`).
    Once {
        /// At most 128 characters.
        key: String,
        /// What to do the first time.
        command: Box<Self>,
    },
}

/// Times that the cluster keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// How long the version before stays warm after a switch, so that going back is instant.
    pub watch_window: Span,
    /// How long a switch waits for requests in flight to the old version.
    pub drain_limit: Span,
    /// How long a node may be silent.
    pub node_ttl: Span,
    /// How long a node's certificate is valid; it is renewed when half of that has passed.
    #[serde(default = "default_certificate_ttl")]
    pub certificate_ttl: Span,
}

/// A day: a stolen key is worth little, and a machine that is off for a night comes back by itself.
const fn default_certificate_ttl() -> Span {
    Span::seconds(24 * 3600)
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            watch_window: Span::seconds(300),
            drain_limit: Span::seconds(60),
            node_ttl: Span::seconds(3),
            certificate_ttl: default_certificate_ttl(),
        }
    }
}

/// A token with which one node may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenRecord {
    /// SHA-256 (hexadecimal) of its secret.
    pub hash: String,
    /// The most that the node may do.
    pub roles: BTreeSet<Role>,
    /// When it can no longer be used.
    pub expires: Timestamp,
}

/// A version of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionTarget {
    /// Whose.
    pub application: ApplicationId,
    /// Which.
    pub version: VersionNumber,
}

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenRole {
    /// Everything that a person may do.
    Administrator,
    /// What hearts and routers do: watch, report, fetch, build.
    Node,
}

/// What the log adds to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyContext {
    /// The time that the proposing leader stamped.
    pub now: Timestamp,
    /// The log index of the entry; the generation of what it changes.
    pub index: Generation,
}

/// What became of a command that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// A workspace exists.
    Workspace(WorkspaceId),
    /// A node is known.
    Node(NodeId),
    /// A job has been made.
    Job {
        /// Follow this.
        job: JobId,
        /// Whose.
        application: ApplicationId,
        /// About which version.
        version: VersionNumber,
    },
    /// Decisions about crons have been taken.
    CronsDecided {
        /// By their position: the attempt that a `Fire` or a `Claim` begins. None for every other
        /// decision, and for one that was stale: nothing is to be sent.
        grants: Vec<Option<CronGrant>>,
    },
    /// A run of a cron waits for the leader.
    CronRun(RunId),
    /// Reports of crons have been taken.
    CronRunsReported {
        /// Runs of which one was stale: the attempt was reported before, or is not the present one.
        stale: Vec<RunId>,
    },
    /// The plan has been carried out, but for these.
    Acted {
        /// Position in the list of actions, and why it was skipped.
        rejected: Vec<(u32, Rejection)>,
    },
}

/// Why a command was refused; the state is untouched.
///
/// The message says what to do next; the code is stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Which of the reasons.
    pub code: RejectionCode,
    /// What was refused, why, and what to do.
    pub message: String,
}

/// The reasons for a refusal. In JSON and in problem documents these are in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// The cluster exists already, or does not exist yet.
    ClusterState,
    /// No such workspace.
    WorkspaceNotFound,
    /// The stub is taken.
    WorkspaceExists,
    /// No such application.
    ApplicationNotFound,
    /// No such version.
    VersionNotFound,
    /// The version is not in a state that allows this.
    VersionState,
    /// No such instance type in the current version.
    InstanceTypeNotFound,
    /// No such instance.
    InstanceNotFound,
    /// No such node.
    NodeNotFound,
    /// No such job.
    JobNotFound,
    /// No such cron in the current version.
    CronNotFound,
    /// The package is not in the store.
    PackageNotFound,
    /// Another job of this application is under way, or a node still has instances.
    Busy,
    /// A hostname belongs to another application.
    HostnameTaken,
    /// A plugin or a runtime version that no node offers.
    NotOffered,
    /// A named limit of the state would be passed.
    LimitExceeded,
    /// No earlier version to go back to.
    NothingToRollBack,
    /// The action was planned against a state that has changed.
    Stale,
    /// A join token that does not exist, has expired, was used, or does not grant the roles.
    TokenRefused,
    /// A value that is not allowed.
    Invalid,
}
