//! The two messages between pacemaker and node: what should run, and what does.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::application::{HealthSpec, RuntimeSpec, ServiceSpec, ShellScript, StopSpec};
use crate::digest::Digest;
use crate::id::{
    ApplicationId, ApplicationName, Generation, InstanceId, InstanceTypeName, JobId, NodeId,
    VersionId, VersionNumber, WorkspaceStub,
};
use crate::instance::{Failure, InstanceGoal, InstanceState};
use crate::secret::Secret;
use crate::time::Span;

/// How long an exclusive instance that is cut off still has when its lease is over, whatever its
/// manifest says: a heart and its shims stop it in this, and pacemakers wait for it.
pub const FENCE_GRACE: Span = Span::seconds(1);

/// What a node should run: the whole truth, every time.
///
/// An instance that the heart has and the assignment lacks is stopped and removed; a build likewise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    /// The cluster's id; empty when the pacemaker does not say.
    #[serde(default)]
    pub cluster: String,
    /// The node that this is for.
    pub node: NodeId,
    /// The time after which the pacemakers call a silent node down: that long a heart runs exclusive
    /// instances without word from them. Zero when the pacemaker does not say.
    #[serde(default)]
    pub node_ttl: Span,
    /// The Raft term of the leader that made it; an older term than the heart has seen is refused.
    pub term: u64,
    /// The log index of the last change to it.
    pub generation: Generation,
    /// Sorted by id.
    pub instances: Vec<AssignedInstance>,
    /// Sorted by job.
    pub builds: Vec<AssignedBuild>,
}

/// One instance that a node should have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssignedInstance {
    /// Which instance.
    pub id: InstanceId,
    /// Whether it should have a process.
    pub goal: InstanceGoal,
    /// What it is part of.
    pub subject: Subject,
    /// Its instance type.
    pub instance_type: InstanceTypeName,
    /// The code.
    pub package: PackageReference,
    /// How it is run.
    pub runtime: RuntimeSpec,
    /// Run in its directory before each start that the cluster orders; not before a restart in place
    /// after a crash.
    pub startup: Vec<ShellScript>,
    /// The application's variables, the type's own over them.
    pub env: BTreeMap<String, String>,
    /// What goes to `PM_SERVICES`: credentials by service name, `provider` added.
    pub services: BTreeMap<String, Value>,
    /// No port.
    pub standalone: bool,
    /// Stopped by the heart itself when it is cut off for longer than the node's TTL.
    pub exclusive: bool,
    /// The readiness check beyond LISTEN.
    pub health: Option<HealthSpec>,
    /// How it is stopped.
    pub stop: StopSpec,
    /// Time until the port must be in LISTEN and the health path answers.
    pub start_timeout: Span,
    /// Time that a standalone process must survive.
    pub standalone_wait: Span,
    /// `PM_CRON_KEY`, what requests of web crons are signed with; for a version that has crons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron_key: Option<Secret>,
}

/// What an instance or a build belongs to: the content of `PM_METADATA` without the node's tags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// `application_id`.
    pub application_id: ApplicationId,
    /// `name`.
    pub application: ApplicationName,
    /// `version`.
    pub version: VersionNumber,
    /// `version_id`.
    pub version_id: VersionId,
    /// `workspace`, the display name.
    pub workspace: String,
    /// `workspace_stub`.
    pub workspace_stub: WorkspaceStub,
    /// The workspace's tags.
    pub workspace_tags: BTreeMap<String, Value>,
}

impl Subject {
    /// The value of `PM_METADATA` on a node with these tags (manifest.md, "What a process sees").
    #[must_use]
    pub fn metadata(&self, node_tags: &BTreeMap<String, Value>) -> Value {
        serde_json::json!({
            "application": {
                "application_id": self.application_id,
                "name": self.application,
                "version": self.version,
                "version_id": self.version_id,
                "workspace": self.workspace,
                "workspace_stub": self.workspace_stub,
            },
            "node": node_tags,
            "workspace": self.workspace_tags,
        })
    }
}

/// The value of `PM_SERVICES`: each service's credentials under its name, with `provider` added.
#[must_use]
pub fn service_credentials(services: &[ServiceSpec]) -> BTreeMap<String, Value> {
    services
        .iter()
        .map(|service| {
            let mut credentials: serde_json::Map<String, Value> = service
                .parameters
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            credentials.insert(
                "provider".to_owned(),
                Value::String(service.plugin.to_string()),
            );
            (service.name.to_string(), Value::Object(credentials))
        })
        .collect()
}

/// A package in the cluster's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageReference {
    /// Names the bytes and verifies them.
    pub digest: Digest,
    /// The length in bytes of the (compressed) package.
    pub size: u64,
}

/// A build: fetch a source, run the prepare commands in it, pack it again, upload it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AssignedBuild {
    /// The deployment that this build is a step of; its output goes to this job's log.
    pub job: JobId,
    /// What is built.
    pub subject: Subject,
    /// The source.
    pub source: PackageReference,
    /// The runtime whose environment the commands see.
    pub runtime: Option<RuntimeSpec>,
    /// Run in order.
    pub scripts: Vec<ShellScript>,
    /// The application's variables.
    pub env: BTreeMap<String, String>,
    /// What goes to `PM_SERVICES`.
    pub services: BTreeMap<String, Value>,
    /// The longest that all scripts together may run.
    pub timeout: Span,
}

/// What a node does run: heartbeat, acknowledgement and observation in one message.
///
/// Posted every [`REPORT_INTERVAL`] and at once on any change, by each role of the node for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The id of the cluster that the node belongs to; empty while it does not know.
    #[serde(default)]
    pub cluster: String,
    /// The node that reports.
    pub node: NodeId,
    /// The heart's part, when the sender is a heart.
    #[serde(default)]
    pub heart: Option<HeartReport>,
    /// The router's part, when the sender is a router.
    #[serde(default)]
    pub router: Option<RouterReport>,
}

/// Time between reports when nothing changes.
pub const REPORT_INTERVAL: Span = Span(500);

/// What a heart sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeartReport {
    /// Random per start of the heart; a change means that it restarted.
    pub incarnation: u64,
    /// Counts reports of this incarnation; an older one than the newest seen is ignored.
    pub sequence: u64,
    /// The assignment that the heart holds and acts on.
    pub assignment: Generation,
    /// Every instance that the heart has anything of, also those no longer assigned.
    pub instances: Vec<InstanceReport>,
    /// Every build that it holds, running or finished.
    pub builds: Vec<BuildReport>,
    /// What the machine has free.
    pub load: Load,
}

/// One instance as its heart sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceReport {
    /// Which instance.
    pub id: InstanceId,
    /// Its state on this node.
    pub state: InstanceState,
    /// The port that it was given, once it has one.
    #[serde(default)]
    pub port: Option<u16>,
    /// The process id of the application, while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// How often the heart has started it again after a failure, since it last ran well.
    #[serde(default)]
    pub restarts: u32,
    /// Why it failed; set with [`InstanceState::Failed`].
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// One build as its heart sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildReport {
    /// The deployment.
    pub job: JobId,
    /// How far it is.
    pub state: BuildState,
}

/// How far a build is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BuildState {
    /// Commands are running.
    Running,
    /// The package is in the store.
    Succeeded {
        /// What was built.
        package: PackageReference,
    },
    /// It failed, and nothing of it is left.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// What a machine has and has free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Physical memory, bytes.
    pub memory_total: u64,
    /// Memory that a new process could have, bytes.
    pub memory_available: u64,
    /// Cores.
    pub cpus: u32,
    /// The one-minute load average times 1000.
    pub load_milli: u64,
    /// Free bytes of the disk that holds the instances.
    pub disk_available: u64,
}

/// What a router has applied and what it still carries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouterReport {
    /// Random per start of the router.
    pub incarnation: u64,
    /// Counts reports of this incarnation.
    pub sequence: u64,
    /// The routing table that every core of the router uses for new requests.
    pub routes: Generation,
    /// Requests in flight to instances that the table no longer names; absent means none.
    pub in_flight: BTreeMap<InstanceId, u64>,
}
