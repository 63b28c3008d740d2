//! Bodies and headers of the HTTP API under `/v1`; the paths are in [`paths`].

mod crons;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::api::crons::{
    CRON_FAILURES_SHOWN, CronRequest, CronRunState, CronRunView, CronTrigger, CronView, FailingCron,
};
use crate::assignment::Load;
use crate::digest::Digest;
use crate::id::{
    ApplicationId, Generation, HostPattern, InstanceId, InstanceTypeName, JobId, NodeId, VersionId,
    VersionNumber, WorkspaceStub,
};
use crate::instance::{Failure, InstanceGoal, InstanceState};
use crate::job::Job;
use crate::node::{Node, NodeDescription, Role};
use crate::time::{Span, Timestamp};

/// How an error looks on the wire: RFC 9457 with a stable `code`.
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";
/// `Idempotency-Key`: the same key has one effect.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// `Upload-Offset`: where an upload goes on (`PUT`) and how much has arrived (`HEAD`, 404).
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// `PM-Log-Offset`: the byte offset after the last byte of a log answer; pass it as `after` to go on.
pub const LOG_OFFSET: &str = "pm-log-offset";
/// `PM-Log-End`: `true` when a log will not grow any more.
pub const LOG_END: &str = "pm-log-end";
/// Header of an answer that may lack what was acknowledged a moment ago: its pacemaker reaches no
/// leader. The value says so in words.
pub const STALE: &str = "pm-stale";
/// The longest that a watch or a long poll blocks, seconds.
pub const WATCH_SECONDS: u64 = 30;
/// The largest JSON body of a request, bytes; a manifest has at most [`MANIFEST_MAX_BYTES`](crate::manifest::MANIFEST_MAX_BYTES).
pub const BODY_MAX_BYTES: usize = 2 * 1024 * 1024;

/// The paths of the API. A `{…}` is a parameter, as axum and OpenAPI write it.
pub mod paths {
    /// GET: [`ClusterView`](super::ClusterView).
    pub const CLUSTER: &str = "/v1/cluster";
    /// GET: list of [`Workspace`](crate::workspace::Workspace); POST: [`CreateWorkspace`](super::CreateWorkspace).
    pub const WORKSPACES: &str = "/v1/workspaces";
    /// HEAD, GET, PUT of the package's bytes.
    pub const PACKAGE: &str = "/v1/packages/{digest}";
    /// POST: [`DeployRequest`](super::DeployRequest) → 202 [`JobStarted`](super::JobStarted).
    pub const DEPLOYMENTS: &str = "/v1/deployments";
    /// GET `?workspace=&name=`: list of [`ApplicationView`](super::ApplicationView).
    pub const APPLICATIONS: &str = "/v1/applications";
    /// GET: [`ApplicationView`](super::ApplicationView).
    pub const APPLICATION: &str = "/v1/applications/{application}";
    /// POST → 202 [`JobStarted`](super::JobStarted).
    pub const ROLLBACK: &str = "/v1/applications/{application}/rollback";
    /// PUT: [`ScaleRequest`](super::ScaleRequest) → 200 [`ApplicationView`](super::ApplicationView).
    pub const SCALE: &str = "/v1/applications/{application}/scale";
    /// GET: list of [`CronView`](super::CronView).
    pub const CRONS: &str = "/v1/applications/{application}/crons";
    /// POST [`CronRequest`](super::CronRequest): its slots are not run any more → 204.
    pub const CRON_SUSPEND: &str = "/v1/applications/{application}/crons/suspend";
    /// POST [`CronRequest`](super::CronRequest): its slots are run again, from the next on → 204.
    pub const CRON_RESUME: &str = "/v1/applications/{application}/crons/resume";
    /// GET `?cron=&before=&limit=`: list of [`CronRunView`](super::CronRunView), newest first;
    /// POST [`CronRequest`](super::CronRequest): one run now → 202 [`CronRunView`](super::CronRunView).
    pub const APPLICATION_CRON_RUNS: &str = "/v1/applications/{application}/cron-runs";
    /// GET: [`CronRunView`](super::CronRunView).
    pub const CRON_RUN: &str = "/v1/cron-runs/{run}";
    /// GET: text, the head of the answer and the beginning of its body, from the pacemaker that made the request.
    pub const CRON_RUN_LOG: &str = "/v1/cron-runs/{run}/log";
    /// POST with `action` one of `start`, `stop`, `promote`, `deregister` → 202 [`JobStarted`](super::JobStarted).
    pub const VERSION_ACTION: &str = "/v1/applications/{application}/versions/{version}/{action}";
    /// GET `?application=&limit=&before=`: list of [`Job`](crate::job::Job), newest first.
    pub const JOBS: &str = "/v1/jobs";
    /// GET `?after=G`: [`JobView`](super::JobView), blocking until it is newer than G.
    pub const JOB: &str = "/v1/jobs/{job}";
    /// POST: ends a running job.
    pub const JOB_ABORT: &str = "/v1/jobs/{job}/abort";
    /// GET `?after=OFFSET&follow=true`: text; POST `?offset=N`: a builder appends.
    pub const JOB_LOG: &str = "/v1/jobs/{job}/log";
    /// GET `?after=OFFSET&tail=LINES&follow=true`: text, fetched from the instance's node.
    pub const INSTANCE_LOG: &str = "/v1/instances/{instance}/log";
    /// GET `?after=G`: [`RoutingTable`](crate::routing_table::RoutingTable), a watch; `?wait=false` answers 200 at once.
    pub const ROUTES: &str = "/v1/routes";
    /// GET: list of [`Node`](crate::node::Node); POST [`NodeDescription`](super::NodeDescription) → [`NodeRegistered`](super::NodeRegistered).
    pub const NODES: &str = "/v1/nodes";
    /// GET `?after=G`: [`Assignment`](crate::assignment::Assignment), a watch.
    pub const ASSIGNMENT: &str = "/v1/nodes/{node}/assignment";
    /// POST: [`Report`](crate::assignment::Report) → 204.
    pub const REPORTS: &str = "/v1/reports";
    /// GET `?application=|instance=|job=` (exactly one): [`Explanation`](super::Explanation).
    pub const WHY: &str = "/v1/why";
    /// GET: the OpenAPI document.
    pub const OPENAPI: &str = "/v1/openapi.json";
    /// POST [`JoinRequest`](super::JoinRequest) → [`JoinAnswer`](super::JoinAnswer); the token's secret is the only credential.
    pub const JOIN: &str = "/v1/join";
    /// POST [`CertificateRequest`](super::CertificateRequest) → [`CertificateAnswer`](super::CertificateAnswer), with the present certificate.
    pub const CERTIFICATES: &str = "/v1/certificates";
    /// GET: where pacemakers answer now, a list of `https://host:port`.
    pub const PACEMAKERS: &str = "/v1/pacemakers";
    /// POST [`CreateJoinToken`](super::CreateJoinToken) → 201 [`JoinTokenCreated`](super::JoinTokenCreated).
    pub const JOIN_TOKENS: &str = "/v1/cluster/join-tokens";
    /// GET: [`ClusterStatus`](super::ClusterStatus).
    pub const CLUSTER_STATUS: &str = "/v1/cluster/status";
    /// DELETE: takes a pacemaker out of the Raft group for good.
    pub const MEMBER: &str = "/v1/cluster/members/{node}";
    /// GET: [`NodeView`](super::NodeView); DELETE: forgets a node, whose certificate is refused from then on.
    pub const NODE: &str = "/v1/nodes/{node}";
    /// POST: moves everything away from a node.
    pub const NODE_DRAIN: &str = "/v1/nodes/{node}/drain";
    /// POST: gives a drained node work again.
    pub const NODE_UNDRAIN: &str = "/v1/nodes/{node}/undrain";
    /// Between pacemakers only: upgraded to the binary protocol of the Raft group.
    pub const PEER: &str = "/v1/peer";
    /// On a heart: GET, as [`INSTANCE_LOG`].
    pub const HEART_INSTANCE_LOG: &str = "/v1/heart/instances/{instance}/log";
}

/// An error answer, RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Stable and for programs, such as `version_not_found`.
    pub code: String,
    /// One short sentence, the same for every occurrence.
    pub title: String,
    /// What was being done, to what, why it failed and what to do next.
    #[serde(default)]
    pub detail: String,
    /// A manifest's faults, each at its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<crate::manifest::Fault>,
}

/// Asks for a workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// The display name, at most 128 characters.
    pub name: String,
    /// The name in hostnames.
    pub stub: WorkspaceStub,
    /// Seen by applications in `PM_METADATA`.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
}

/// Asks for a deployment; the source has been uploaded before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Where.
    pub workspace: WorkspaceStub,
    /// The manifest's text.
    pub manifest: String,
    /// The source package.
    pub source: Digest,
    /// False: start it beside the current version, and stop there.
    pub promote: bool,
}

/// A job has been accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStarted {
    /// Follow this.
    pub job: JobId,
    /// The application.
    pub application: ApplicationId,
    /// The version that it is about.
    pub version: VersionNumber,
    /// What the manifest says that has no effect yet, and other things worth knowing.
    #[serde(default)]
    pub notices: Vec<crate::manifest::Notice>,
}

/// Asks for another number of instances of the current version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// New quantity by instance type.
    pub quantities: BTreeMap<InstanceTypeName, u32>,
}

/// A node has been registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRegistered {
    /// Its number.
    pub node: NodeId,
}

/// Asks to become a node of the cluster.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Of the join token; works once.
    pub secret: String,
    /// PEM of a certificate signing request; its subject does not matter, its key does.
    pub signing_request: String,
    /// What the node says of itself; its roles are within those of the token.
    pub description: NodeDescription,
}

/// Without the secret.
impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// What a new node needs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinAnswer {
    /// Its number.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster: String,
    /// PEM of the node's certificate.
    pub certificate: String,
    /// PEM of the authority's certificate.
    pub authority: String,
    /// PEM of the authority's key; for pacemakers only, which sign certificates with it.
    #[serde(default)]
    pub authority_key: Option<String>,
    /// Where pacemakers answer, as `https://host:port`.
    pub pacemakers: Vec<String>,
}

/// Without the key.
impl std::fmt::Debug for JoinAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinAnswer")
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// Asks for the next certificate of the node whose present one was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// PEM of a certificate signing request, of a new key or of the same.
    pub signing_request: String,
}

/// A new certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateAnswer {
    /// PEM of the certificate.
    pub certificate: String,
    /// Where pacemakers answer now, as `https://host:port`.
    pub pacemakers: Vec<String>,
}

/// Asks for a token with which one node may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// The most that the node may do; at least one.
    pub roles: BTreeSet<Role>,
    /// How long it can be used, at most [`JOIN_TOKEN_TTL_MAX`].
    pub ttl: Span,
}

/// A join token is typed within minutes or handed to whoever sets a machine up; a week is for that.
pub const JOIN_TOKEN_TTL_MAX: Span = Span::seconds(7 * 24 * 3600);

/// A token with which one node may join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinTokenCreated {
    /// For `pm agent --join`; see [`JoinToken`](crate::join_token::JoinToken).
    pub token: String,
    /// When it can no longer be used.
    pub expires: Timestamp,
}

/// Without the token.
impl std::fmt::Debug for JoinTokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinTokenCreated")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// How the Raft group stands, as seen by the pacemaker that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub id: String,
    /// The node that answers.
    pub answered_by: NodeId,
    /// The node that leads, when known.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// The last log index known to be on a majority.
    pub committed: Generation,
    /// The last log index applied by the one that answers.
    pub applied: Generation,
    /// By node.
    pub members: Vec<MemberView>,
    /// What is wrong, one sentence each; empty when all is well.
    pub problems: Vec<String>,
}

/// A pacemaker of the Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberView {
    /// The node.
    pub node: NodeId,
    /// The machine's name.
    pub name: String,
    /// Its API.
    pub api: String,
    /// What it does in the group.
    pub part: MemberPart,
    /// True for the one that leads.
    pub is_leader: bool,
    /// True when the leader hears it.
    pub is_reachable: bool,
    /// Entries that it lacks; none when the one that answers does not lead.
    pub lag: Option<u64>,
    /// Free bytes of the disk that holds its log.
    pub disk_available: Option<u64>,
    /// When its certificate ends.
    pub certificate_expires: Option<Timestamp>,
    /// Its release.
    pub release: Option<String>,
}

/// What a pacemaker does in the Raft group.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MemberPart {
    /// Its disk counts for what is acknowledged.
    Voter,
    /// It is catching up, or stands by until there is an odd number.
    Learner,
    /// It has joined the cluster and is not in the group yet.
    Joining,
}

/// A node and what is known of it at the moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// What the cluster keeps.
    pub node: Node,
    /// Milliseconds since its last report, when the leader answered and has heard one.
    pub silent_for: Option<Span>,
    /// What its machine has free, when it runs a heart.
    pub load: Option<Load>,
    /// Instances placed on it.
    pub instances: u64,
    /// When its certificate ends.
    pub certificate_expires: Option<Timestamp>,
}

/// A job with the generation to pass as `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// The last change to it.
    pub generation: Generation,
    /// The job.
    pub job: Job,
    /// Where the version answers when it serves, as `http://host:port/`.
    #[serde(default)]
    pub urls: Vec<String>,
}

/// The cluster in a few numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterView {
    /// The cluster's name for itself, random, made once.
    pub id: String,
    /// Appended to every generated hostname.
    pub hostname: String,
    /// The node that leads, when known.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// The last log index applied here.
    pub applied: Generation,
    /// The release that answers.
    pub release: String,
}

/// An application with its versions and instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApplicationView {
    /// Its number.
    pub id: ApplicationId,
    /// Its name.
    pub name: String,
    /// Its workspace.
    pub workspace: WorkspaceStub,
    /// The version that hostnames go to.
    pub current: Option<VersionNumber>,
    /// The version that a rollback goes to.
    pub previous: Option<VersionNumber>,
    /// Newest first.
    pub versions: Vec<VersionView>,
    /// The job under way.
    pub job: Option<JobId>,
    /// Where the current version answers.
    pub urls: Vec<String>,
    /// Crons that have failed [`CRON_FAILURES_SHOWN`] times in a row or more.
    #[serde(default)]
    pub failing_crons: Vec<FailingCron>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionView {
    /// Across applications.
    pub id: VersionId,
    /// As people count it.
    pub number: VersionNumber,
    /// Where it is.
    pub state: VersionState,
    /// True for the one that hostnames go to.
    pub is_current: bool,
    /// When it was deployed.
    pub created: Timestamp,
    /// Its types.
    pub instance_types: Vec<InstanceTypeView>,
}

/// Where a version is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Its package is not ready.
    New,
    /// Its package is in the store.
    Prepared,
    /// Its instances are laid out on nodes.
    Ready,
    /// Its instances run.
    Running,
}

/// An instance type of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceTypeView {
    /// Its name.
    pub name: InstanceTypeName,
    /// How many there should be.
    pub quantity: u32,
    /// The manifest's hostnames.
    pub hostnames: Vec<HostPattern>,
    /// Those that exist.
    pub instances: Vec<InstanceView>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    /// Its number.
    pub id: InstanceId,
    /// Where it is placed.
    pub node: NodeId,
    /// What is wanted of it.
    pub goal: InstanceGoal,
    /// What its heart said last.
    pub state: InstanceState,
    /// Its port.
    pub port: Option<u16>,
    /// Its process.
    pub pid: Option<u32>,
    /// Restarts since it last ran well.
    pub restarts: u32,
    /// Why it is not running.
    pub failure: Option<Failure>,
    /// When the state last changed.
    pub since: Timestamp,
}

/// The answer to `pm why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// What was asked about.
    pub subject: String,
    /// One sentence: how it stands.
    pub summary: String,
    /// Facts that led there, and what to do, in order.
    pub lines: Vec<String>,
}
