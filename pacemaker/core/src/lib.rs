//! The functional core: everything that decides, as plain synchronous functions over plain data.
//!
//! ```text
//! Command ──apply──► State ──plan(sightings, now)──► Vec<Action> ──► Command::Act ──► the log
//!                      │
//!                      ├──routes()──────► RoutingTable   (routers)
//!                      └──assignment()──► Assignment     (hearts)
//! ```
#![warn(
    clippy::wildcard_enum_match_arm,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod action;
pub mod command;
pub mod sightings;

use common::api::{ApplicationView, Explanation, JobView};
use common::assignment::Assignment;
use common::id::{ApplicationId, Generation, InstanceId, JobId, NodeId};
use common::job::Job;
use common::node::Node;
use common::routing_table::RoutingTable;
use common::time::Timestamp;
use common::workspace::Workspace;
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::command::{ApplyContext, Command, Outcome, Rejection, TokenRole};
use crate::sightings::Sightings;

/// The replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {}

impl State {
    /// Applies one command: total, synchronous, deterministic.
    ///
    /// # Errors
    /// A [`Rejection`] leaves the state untouched.
    pub fn apply(&mut self, _command: &Command, _ctx: &ApplyContext) -> Result<Outcome, Rejection> {
        Ok(Outcome::Done)
    }
    /// True once [`Command::InitializeCluster`] has been applied.
    pub fn is_initialized(&self) -> bool {
        false
    }
    /// Id and hostname of the cluster.
    pub fn cluster(&self) -> Option<(&str, &str)> {
        None
    }
    /// The role of the token with this SHA-256 in hexadecimal.
    pub fn token_role(&self, _hash: &str) -> Option<TokenRole> {
        None
    }
    /// The last applied log index.
    pub fn applied(&self) -> Generation {
        Generation(0)
    }
    /// The last change to the routing table.
    pub fn routes_generation(&self) -> Generation {
        Generation(0)
    }
    /// The last change to a node's assignment; `None` for an unknown node.
    pub fn assignment_generation(&self, _node: NodeId) -> Option<Generation> {
        None
    }
    /// The last change to a job.
    pub fn job_generation(&self, _job: JobId) -> Option<Generation> {
        None
    }
    /// The routing table of this state.
    pub fn routes(&self) -> RoutingTable {
        RoutingTable::default()
    }
    /// What a node should run; `term` is the leader's.
    pub fn assignment(&self, _node: NodeId, _term: u64) -> Option<Assignment> {
        None
    }
    /// All nodes by id.
    pub fn nodes(&self) -> Vec<Node> {
        Vec::new()
    }
    /// All workspaces by id.
    pub fn workspaces(&self) -> Vec<Workspace> {
        Vec::new()
    }
    /// True when the package has been committed.
    pub fn has_package(&self, _digest: &common::digest::Digest) -> bool {
        false
    }
    /// One job.
    pub fn job(&self, _job: JobId) -> Option<&Job> {
        None
    }
    /// Jobs, newest first, of one application or of all, with ids below `before`.
    pub fn jobs(
        &self,
        _application: Option<ApplicationId>,
        _before: Option<JobId>,
        _limit: usize,
    ) -> Vec<Job> {
        Vec::new()
    }
    /// A job as the API shows it; `router_port` makes its URLs.
    pub fn job_view(&self, _job: JobId, _router_port: u16) -> Option<JobView> {
        None
    }
    /// Applications as the API shows them.
    pub fn application_views(&self, _router_port: u16) -> Vec<ApplicationView> {
        Vec::new()
    }
    /// One application.
    pub fn application_view(
        &self,
        _application: ApplicationId,
        _router_port: u16,
    ) -> Option<ApplicationView> {
        None
    }
    /// The node that an instance is placed on.
    pub fn instance_node(&self, _instance: InstanceId) -> Option<Node> {
        None
    }
    /// `pm why`.
    pub fn explain_application(
        &self,
        _application: ApplicationId,
        _sightings: &Sightings,
    ) -> Option<Explanation> {
        None
    }
    /// `pm why`.
    pub fn explain_instance(
        &self,
        _instance: InstanceId,
        _sightings: &Sightings,
    ) -> Option<Explanation> {
        None
    }
    /// `pm why`.
    pub fn explain_job(&self, _job: JobId, _sightings: &Sightings) -> Option<Explanation> {
        None
    }
}

/// The leader's wish list for this tick; never trusted, it returns through the log.
#[must_use]
pub fn plan(_state: &State, _sightings: &Sightings, _now: Timestamp) -> Vec<Action> {
    Vec::new()
}

/// When the planner wants to be asked again though nothing was heard (a window ends, a TTL passes).
#[must_use]
pub fn next_deadline(_state: &State, _sightings: &Sightings, _now: Timestamp) -> Option<Timestamp> {
    None
}
