//! Nodes: what they say they are, and whether they are heard of.

use std::collections::BTreeSet;

use common::id::{ApplicationId, InstanceId, NodeId};
use common::node::{Node, NodeDescription, NodeState, Role};

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
        let known = self
            .state
            .nodes
            .values()
            .find(|node| node.node.description.key == description.key)
            .map(|node| node.node.id);
        let Some(id) = known else {
            return self.insert_node(description);
        };
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
        Ok(Outcome::Node(id))
    }

    fn insert_node(&mut self, description: &NodeDescription) -> Result<Outcome, Rejection> {
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
        };
        // Touched before it exists: a new assignment, though empty, is a change that is counted.
        self.node(id);
        self.state.nodes.insert(id, record);
        Ok(Outcome::Node(id))
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

/// A node of which any reporting role is silent is down for people; who decides asks the role.
fn refresh(node: &mut NodeRecord) {
    node.node.state = match node.node.state {
        NodeState::Active | NodeState::Down => {
            if node.silent.is_empty() {
                NodeState::Active
            } else {
                NodeState::Down
            }
        }
        state @ (NodeState::Draining | NodeState::Stopped) => state,
    };
}
