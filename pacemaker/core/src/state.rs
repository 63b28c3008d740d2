//! The replicated state: what every pacemaker agrees on.
//!
//! Owns the records ([`records`]), what follows from them ([`State::routes`],
//! [`State::assignment`]) and the rules that always hold ([`invariants`]). It is changed only by
//! [`State::apply`]. All maps are ordered, so that two replicas that applied the
//! same log are equal byte for byte.

pub mod crons;
pub mod invariants;
pub mod limits;
pub mod records;

use std::collections::{BTreeMap, BTreeSet};

use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{
    ApplicationId, ApplicationName, Generation, InstanceId, JobId, NodeId, RunId, WorkspaceId,
    WorkspaceStub,
};
use common::job::Job;
use common::node::{Node, NodeState, Role};
use common::routing_table::Route;
use common::time::Timestamp;
use common::workspace::Workspace;
use serde::{Deserialize, Serialize};

use crate::command::{ClusterSettings, TokenRole};
use crate::state::crons::{CronIndex, CronRun};
use crate::state::records::{
    Application, Cluster, Counters, Instance, JobRecord, JoinGrant, NodeBrief, NodeRecord,
    OnceRecord, PackageRecord,
};

/// The form of a snapshot that this release writes; [`Format`] says what it reads.
pub const FORMAT: u32 = 1;

/// The version of the form in which a state is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Format(u32);

impl Default for Format {
    fn default() -> Self {
        Self(FORMAT)
    }
}

impl From<Format> for u32 {
    fn from(format: Format) -> Self {
        format.0
    }
}

/// A snapshot in a form that this release cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the snapshot has form {found}, this release reads forms 1 to {FORMAT}: run a newer release"
)]
pub struct FormatError {
    /// What the snapshot says.
    pub found: u32,
}

impl TryFrom<u32> for Format {
    type Error = FormatError;

    fn try_from(found: u32) -> Result<Self, FormatError> {
        if (1..=FORMAT).contains(&found) {
            Ok(Self(FORMAT))
        } else {
            Err(FormatError { found })
        }
    }
}

/// The replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The form of the snapshot that it is written in.
    pub(crate) format: Format,
    /// The log index of the last command that was accepted.
    pub(crate) applied: Generation,
    /// None until the cluster is initialised.
    pub(crate) cluster: Option<Cluster>,
    /// The last id given, of each kind.
    pub(crate) counters: Counters,
    /// By id.
    pub(crate) workspaces: BTreeMap<WorkspaceId, Workspace>,
    /// By id.
    pub(crate) nodes: BTreeMap<NodeId, NodeRecord>,
    /// Stored and verified, by digest.
    pub(crate) packages: BTreeMap<Digest, PackageRecord>,
    /// By id.
    pub(crate) applications: BTreeMap<ApplicationId, Application>,
    /// By id.
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    /// By id.
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    /// Who owns a hostname or wildcard: every name of every kept version.
    pub(crate) claims: BTreeMap<String, ApplicationId>,
    /// The routing table in pieces, so that a change recomputes only its application's.
    pub(crate) table: BTreeMap<ApplicationId, BTreeMap<String, Route>>,
    /// The log index of the last change to `table`.
    pub(crate) routes_generation: Generation,
    /// The log index of the last change to each application's part of `table`.
    #[serde(default)]
    pub(crate) route_changes: BTreeMap<ApplicationId, Generation>,
    /// The same in the order of the changes.
    #[serde(default)]
    pub(crate) changed_routes: BTreeSet<(Generation, ApplicationId)>,
    /// Applications in the order in which they were last touched: what a planner looks at again.
    #[serde(default)]
    pub(crate) changed_applications: BTreeSet<(Generation, ApplicationId)>,
    /// The part of `nodes` that is asked for most; a node that is missing is looked up there.
    #[serde(default)]
    pub(crate) briefs: BTreeMap<NodeId, NodeBrief>,
    /// Nodes likewise.
    #[serde(default)]
    pub(crate) changed_nodes: BTreeSet<(Generation, NodeId)>,
    /// Runs of crons by number.
    #[serde(default)]
    pub(crate) cron_runs: BTreeMap<RunId, CronRun>,
    /// What finds those that are due.
    #[serde(default)]
    pub(crate) cron_index: CronIndex,
    /// What came of commands that carried a key.
    pub(crate) once: BTreeMap<String, OnceRecord>,
    /// The keys in the order in which they came, by log index.
    pub(crate) once_order: BTreeMap<Generation, String>,
}

impl State {
    /// True once [`Command::InitializeCluster`](crate::command::Command::InitializeCluster) has
    /// been applied.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.cluster.is_some()
    }

    /// Id and hostname of the cluster.
    #[must_use]
    pub fn cluster(&self) -> Option<(&str, &str)> {
        let cluster = self.cluster.as_ref()?;
        Some((&cluster.id, &cluster.hostname))
    }

    /// The times that the cluster keeps to.
    #[must_use]
    pub fn settings(&self) -> ClusterSettings {
        self.cluster
            .as_ref()
            .map(|cluster| cluster.settings)
            .unwrap_or_default()
    }

    /// The role of the token with this SHA-256 in hexadecimal.
    #[must_use]
    pub fn token_role(&self, hash: &str) -> Option<TokenRole> {
        self.cluster.as_ref()?.tokens.get(hash).copied()
    }

    /// The log index of the last command that was accepted.
    ///
    /// A refused command changes nothing, this included; Raft's own bookkeeping of the last
    /// applied entry is the shell's.
    #[must_use]
    pub fn applied(&self) -> Generation {
        self.applied
    }

    /// The last change to the routing table.
    #[must_use]
    pub fn routes_generation(&self) -> Generation {
        self.routes_generation
    }

    /// The last change to a node's assignment; `None` for an unknown node.
    #[must_use]
    pub fn assignment_generation(&self, node: NodeId) -> Option<Generation> {
        Some(self.nodes.get(&node)?.assignment_generation)
    }

    /// The last change to a job.
    #[must_use]
    pub fn job_generation(&self, job: JobId) -> Option<Generation> {
        Some(self.jobs.get(&job)?.generation)
    }

    /// All nodes by id.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.values().map(|node| node.node.clone()).collect()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        Some(&self.nodes.get(&node)?.node)
    }

    /// True for a node that has joined and was not removed: its certificate counts.
    #[must_use]
    pub fn is_node(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// True for a number that was given to a node which is none any more: its certificate is refused.
    #[must_use]
    pub fn was_removed(&self, node: NodeId) -> bool {
        !self.is_node(node) && node.0 <= self.counters.node
    }

    /// The node that registered or joined with this key.
    #[must_use]
    pub fn node_by_key(&self, key: &str) -> Option<NodeId> {
        self.nodes
            .values()
            .find(|node| node.node.description.key == key)
            .map(|node| node.node.id)
    }

    /// How many instances are placed on a node, those included that leave it.
    #[must_use]
    pub fn instances_on(&self, node: NodeId) -> usize {
        self.nodes.get(&node).map_or(0, |node| node.instances.len())
    }

    /// Join tokens by the SHA-256 of their secret, used and expired ones included for a while.
    #[must_use]
    pub fn join_tokens(&self) -> Option<&BTreeMap<String, JoinGrant>> {
        Some(&self.cluster.as_ref()?.join_tokens)
    }

    /// All workspaces by id.
    #[must_use]
    pub fn workspaces(&self) -> Vec<Workspace> {
        self.workspaces.values().cloned().collect()
    }

    /// All applications by id.
    #[must_use]
    pub fn applications(&self) -> &BTreeMap<ApplicationId, Application> {
        &self.applications
    }

    /// All instances by id.
    #[must_use]
    pub fn instances(&self) -> &BTreeMap<InstanceId, Instance> {
        &self.instances
    }

    /// True when the package has been committed.
    #[must_use]
    pub fn has_package(&self, digest: &Digest) -> bool {
        self.packages.contains_key(digest)
    }

    /// Every package that a kept version needs: what a collector of garbage must leave alone.
    ///
    /// A package that was uploaded a moment ago and is not deployed yet is not among them.
    #[must_use]
    pub fn referenced_packages(&self) -> BTreeSet<Digest> {
        self.applications
            .values()
            .flat_map(|application| application.versions.values())
            .flat_map(|version| std::iter::once(&version.source).chain(version.package.as_ref()))
            .map(|package| package.digest.clone())
            .collect()
    }

    /// Every committed package by digest.
    #[must_use]
    pub fn packages(&self) -> &BTreeMap<Digest, PackageRecord> {
        &self.packages
    }

    /// The packages that may be forgotten: no kept version needs them, and they were committed
    /// longer ago than [`PACKAGE_GRACE`](limits::PACKAGE_GRACE).
    #[must_use]
    pub fn needless_packages(&self, now: Timestamp) -> BTreeSet<Digest> {
        let referenced = self.referenced_packages();
        self.packages
            .iter()
            .filter(|(digest, record)| {
                now.since(record.committed) > limits::PACKAGE_GRACE && !referenced.contains(*digest)
            })
            .map(|(digest, _)| digest.clone())
            .collect()
    }

    /// One job.
    #[must_use]
    pub fn job(&self, job: JobId) -> Option<&Job> {
        Some(&self.jobs.get(&job)?.job)
    }

    /// Jobs, newest first, of one application or of all, with ids below `before`.
    #[must_use]
    pub fn jobs(
        &self,
        application: Option<ApplicationId>,
        before: Option<JobId>,
        limit: usize,
    ) -> Vec<Job> {
        self.jobs
            .values()
            .rev()
            .map(|record| &record.job)
            .filter(|job| before.is_none_or(|before| job.id < before))
            .filter(|job| application.is_none_or(|application| job.application == application))
            .take(limit)
            .cloned()
            .collect()
    }

    /// The node that an instance is placed on.
    #[must_use]
    pub fn instance_node(&self, instance: InstanceId) -> Option<Node> {
        let node = self.instances.get(&instance)?.node;
        Some(self.nodes.get(&node)?.node.clone())
    }

    /// The reporting roles of a node that have been silent for longer than the TTL.
    #[must_use]
    pub fn silent_roles(&self, node: NodeId) -> Option<&BTreeSet<Role>> {
        Some(&self.nodes.get(&node)?.silent)
    }

    pub(crate) fn workspace_by_stub(&self, stub: &WorkspaceStub) -> Option<&Workspace> {
        self.workspaces
            .values()
            .find(|workspace| workspace.stub == *stub)
    }

    /// Names of applications are routed in lower case, so they are compared so.
    pub(crate) fn application_by_name(
        &self,
        workspace: WorkspaceId,
        name: &ApplicationName,
    ) -> Option<&Application> {
        self.applications.values().find(|application| {
            application.workspace == workspace
                && application
                    .name
                    .as_str()
                    .eq_ignore_ascii_case(name.as_str())
        })
    }

    pub(crate) fn package(&self, digest: &Digest) -> Option<PackageReference> {
        let record = self.packages.get(digest)?;
        Some(PackageReference {
            digest: digest.clone(),
            size: record.size,
        })
    }

    /// Routers that must acknowledge a table before a change goes on.
    pub(crate) fn live_routers(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().filter(|node| {
            node.has_role(Role::Router)
                && !node.silent.contains(&Role::Router)
                && node.node.state != NodeState::Stopped
        })
    }

    pub(crate) fn brief(&self, node: NodeId) -> Option<NodeBrief> {
        let kept = self.briefs.get(&node).copied();
        kept.or_else(|| self.nodes.get(&node).map(NodeBrief::from))
    }

    pub(crate) fn is_draining(&self, node: NodeId) -> bool {
        self.brief(node).is_some_and(|brief| brief.is_draining)
    }

    /// How many of a node's instances are to run and do not yet.
    pub(crate) fn starting_on(&self, node: &NodeRecord) -> u64 {
        node.starting
            .unwrap_or_else(|| self.count_starting_on(node))
    }

    pub(crate) fn count_starting_on(&self, node: &NodeRecord) -> u64 {
        let count = node
            .instances
            .iter()
            .filter_map(|instance| self.instances.get(instance))
            .filter(|instance| instance.is_starting())
            .count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// The job that an application is busy with.
    pub(crate) fn running_job(&self, application: &Application) -> Option<&JobRecord> {
        self.jobs.get(&application.job?)
    }
}
