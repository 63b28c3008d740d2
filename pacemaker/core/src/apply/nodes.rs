//! Nodes: what they say they are, and whether they are heard of.

use std::collections::BTreeSet;

use common::id::{ApplicationId, InstanceId, NodeId};
use common::instance::InstanceState;
use common::node::{Node, NodeDescription, NodeState, Role};
use common::time::Timestamp;

use crate::apply::workspaces::{check_tags, check_text};
use crate::apply::{reject, stale};
use crate::command::{Outcome, Rejection, RejectionCode};
use crate::state::limits::{NODE_DESCRIPTION_MAX_BYTES, NODES_MAX};
use crate::state::records::NodeRecord;
use crate::transition::Transition;
use common::id::Generation;

impl Transition<'_> {
    /// A node says what it is; the same key is the same node.
    pub(super) fn register_node(
        &mut self,
        description: &NodeDescription,
    ) -> Result<Outcome, Rejection> {
        check_description(description)?;
        match self.state.node_by_key(&description.key) {
            Some(id) => self.update_node(id, description),
            None => self.insert_node(description, None),
        }
    }

    /// A node that has joined says what it is.
    pub(super) fn describe_node(
        &mut self,
        id: NodeId,
        description: &NodeDescription,
    ) -> Result<Outcome, Rejection> {
        check_description(description)?;
        let Some(node) = self.state.nodes.get(&id) else {
            return Err(unknown(id));
        };
        if node.node.description.key != description.key {
            return Err(reject(
                RejectionCode::Invalid,
                format!("node {id} joined with another key: a node keeps its key"),
            ));
        }
        self.update_node(id, description)
    }

    /// What a known node says of itself now, within what it was granted.
    pub(super) fn update_node(
        &mut self,
        id: NodeId,
        description: &NodeDescription,
    ) -> Result<Outcome, Rejection> {
        let granted = self
            .state
            .nodes
            .get(&id)
            .and_then(|node| node.granted.as_ref());
        if let Some(granted) = granted {
            check_granted(granted, &description.roles)?;
        }
        if !description.roles.contains(&Role::Heart) {
            for instance in self.instances_on(id) {
                self.lose(instance);
            }
        }
        let now = self.now();
        for application in self.applications_on(id) {
            // A new address of the node is a new address of its backends.
            self.application(application);
        }
        if let Some(node) = self.node(id) {
            node.node.description = description.clone();
            node.registered = now;
            node.silent.retain(|role| description.roles.contains(role));
            refresh(node);
        }
        self.update_brief(id);
        Ok(Outcome::Node(id))
    }

    /// A node with a new number.
    pub(super) fn insert_node(
        &mut self,
        description: &NodeDescription,
        granted: Option<&BTreeSet<Role>>,
    ) -> Result<Outcome, Rejection> {
        if self.state.nodes.len() >= NODES_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("the cluster has {NODES_MAX} nodes, the most that it may have"),
            ));
        }
        let counter = &mut self.state.counters.node;
        *counter = counter.saturating_add(1);
        let id = NodeId(*counter);
        let record = NodeRecord {
            node: Node {
                id,
                description: description.clone(),
                state: NodeState::Active,
            },
            registered: self.now(),
            silent: BTreeSet::new(),
            assignment_generation: Generation(0),
            instances: BTreeSet::new(),
            builds: BTreeSet::new(),
            is_draining: false,
            starting: Some(0),
            altered: Generation(0),
            changed: Generation(0),
            granted: granted.cloned(),
        };
        // Touched before it exists: a new assignment, though empty, is a change that is counted.
        self.node(id);
        self.state.nodes.insert(id, record);
        self.update_brief(id);
        Ok(Outcome::Node(id))
    }

    /// Nothing new goes to the node, and what is there moves when it can; twice is once.
    pub(super) fn drain_node(&mut self, id: NodeId) -> Result<Outcome, Rejection> {
        self.set_draining(id, true)
    }

    /// The node takes instances again; twice is once.
    pub(super) fn undrain_node(&mut self, id: NodeId) -> Result<Outcome, Rejection> {
        self.set_draining(id, false)
    }

    fn set_draining(&mut self, id: NodeId, is_draining: bool) -> Result<Outcome, Rejection> {
        for application in self.applications_on(id) {
            self.application(application);
        }
        let Some(node) = self.node(id) else {
            return Err(unknown(id));
        };
        node.is_draining = is_draining;
        refresh(node);
        self.update_brief(id);
        Ok(Outcome::Done)
    }

    /// Forgets a node with all that was on it.
    ///
    /// Nothing on it may serve any more, and nothing exclusive may still run there: a successor
    /// elsewhere would not know.
    pub(super) fn remove_node(&mut self, id: NodeId) -> Result<Outcome, Rejection> {
        let Some(node) = self.state.nodes.get(&id) else {
            return Err(unknown(id));
        };
        let name = &node.node.description.name;
        let instances = || {
            node.instances
                .iter()
                .filter_map(|instance| self.state.instances.get(instance))
        };
        let live = instances()
            .filter(|instance| instance.seen.state != InstanceState::Lost)
            .count();
        if live > 0 {
            return Err(reject(
                RejectionCode::Busy,
                format!(
                    "node {id} ({name}) still has {live} instances: drain it first (`pm node drain {id}`) and wait until it is empty"
                ),
            ));
        }
        if let Some(until) = instances()
            .filter_map(|instance| self.state.may_still_run_until(instance, Timestamp(0)))
            .filter(|until| *until > self.now())
            .max()
        {
            return Err(reject(
                RejectionCode::Busy,
                format!(
                    "an exclusive instance may still run on node {id} ({name}), which is silent, until {until}: try again then"
                ),
            ));
        }
        for instance in self.instances_on(id) {
            self.remove_instance(instance);
        }
        let builds = self.state.nodes.get(&id).map(|node| node.builds.clone());
        for job in builds.into_iter().flatten() {
            self.release_builder(job);
            self.touch_job(job);
        }
        self.remove_node_record(id);
        Ok(Outcome::Done)
    }

    /// A role is silent; a silent heart's instances are lost.
    pub(super) fn mark_silent(&mut self, id: NodeId, role: Role) -> Result<(), Rejection> {
        let Some(node) = self.state.nodes.get(&id) else {
            return Err(stale(format!("node {id} is unknown")));
        };
        if !node.has_role(role) || node.silent.contains(&role) {
            return Err(stale(format!("node {id} is known to be silent")));
        }
        if role == Role::Heart {
            for instance in self.instances_on(id) {
                self.lose(instance);
            }
        }
        if let Some(node) = self.node(id) {
            node.silent.insert(role);
            refresh(node);
        }
        Ok(())
    }

    /// A silent role is heard again; what its instances are is told by observations.
    pub(super) fn mark_heard(&mut self, id: NodeId, role: Role) -> Result<(), Rejection> {
        let is_silent = |node: &NodeRecord| node.silent.contains(&role);
        if !self.state.nodes.get(&id).is_some_and(is_silent) {
            return Err(stale(format!("node {id} is not silent")));
        }
        if let Some(node) = self.node(id) {
            node.silent.remove(&role);
            refresh(node);
        }
        Ok(())
    }

    fn instances_on(&self, node: NodeId) -> Vec<InstanceId> {
        self.state
            .nodes
            .get(&node)
            .into_iter()
            .flat_map(|node| &node.instances)
            .copied()
            .collect()
    }

    fn applications_on(&self, node: NodeId) -> BTreeSet<ApplicationId> {
        self.state
            .nodes
            .get(&node)
            .into_iter()
            .flat_map(|node| &node.instances)
            .filter_map(|instance| self.state.instances.get(instance))
            .map(|instance| instance.application)
            .collect()
    }
}

/// What a node says of itself is within the bounds of the state.
pub(super) fn check_description(description: &NodeDescription) -> Result<(), Rejection> {
    check_text("a node's key", &description.key)?;
    check_text("a node's name", &description.name)?;
    check_tags("a node", &description.tags)?;
    let size = serde_json::to_vec(description).map_or(usize::MAX, |bytes| bytes.len());
    if size > NODE_DESCRIPTION_MAX_BYTES {
        return Err(reject(
            RejectionCode::LimitExceeded,
            format!(
                "a node's description has {size} bytes of JSON: at most {NODE_DESCRIPTION_MAX_BYTES}"
            ),
        ));
    }
    Ok(())
}

/// A node does only what its join token granted.
pub(super) fn check_granted(
    granted: &BTreeSet<Role>,
    roles: &BTreeSet<Role>,
) -> Result<(), Rejection> {
    if roles.is_subset(granted) {
        return Ok(());
    }
    let in_words = |roles: &BTreeSet<Role>| {
        let words: Vec<&str> = roles.iter().copied().map(role_in_words).collect();
        words.join(", ")
    };
    Err(reject(
        RejectionCode::TokenRefused,
        format!(
            "the join token grants the roles {}, not {}: start the agent with fewer, or make a token for these",
            in_words(granted),
            in_words(roles)
        ),
    ))
}

fn role_in_words(role: Role) -> &'static str {
    match role {
        Role::Pacemaker => "pacemaker",
        Role::Heart => "heart",
        Role::Router => "router",
    }
}

fn unknown(id: NodeId) -> Rejection {
    reject(
        RejectionCode::NodeNotFound,
        format!("there is no node {id}: `pm node list` lists them"),
    )
}

/// A node of which any reporting role is silent is down for people; who decides asks the role.
fn refresh(node: &mut NodeRecord) {
    node.node.state = match node.node.state {
        NodeState::Stopped => NodeState::Stopped,
        NodeState::Active | NodeState::Draining | NodeState::Down => {
            if !node.silent.is_empty() {
                NodeState::Down
            } else if node.is_draining {
                NodeState::Draining
            } else {
                NodeState::Active
            }
        }
    };
}
