//! Nodes in words: which could take an instance, and why the others cannot.

use common::application::InstanceTypeSpec;
use common::id::NodeId;
use common::node::{NodeState, Role};

use crate::desire::TypeDesire;
use crate::offers::offers;
use crate::state::State;
use crate::state::records::{NodeRecord, Version};

/// Nodes that are told of one by one; a person reads no more.
const NODES_TOLD_MAX: usize = 50;

impl State {
    /// For each node with a heart, whether it could take an instance of this type, and why not.
    pub(super) fn nodes_in_words(&self, version: &Version, spec: &InstanceTypeSpec) -> Vec<String> {
        let hearts: Vec<&NodeRecord> = self
            .nodes
            .values()
            .filter(|node| node.has_role(Role::Heart))
            .collect();
        if hearts.is_empty() {
            return vec!["no node has a heart: start one".to_owned()];
        }
        let worn: Vec<NodeId> = self.worn_nodes(version, spec).collect();
        let mut lines: Vec<String> = hearts
            .iter()
            .take(NODES_TOLD_MAX)
            .map(|node| {
                let verdict = verdict(node, spec, &worn);
                format!("{} {verdict}", self.node_in_words(node.node.id))
            })
            .collect();
        let more = hearts.len().saturating_sub(NODES_TOLD_MAX);
        if more > 0 {
            lines.push(format!("and {more} more nodes"));
        }
        lines
    }

    /// What becomes of the instances on nodes that are being drained.
    pub(super) fn drains_in_words(
        &self,
        version: &Version,
        spec: &InstanceTypeSpec,
        desire: &TypeDesire<'_>,
    ) -> Vec<String> {
        let on_draining: Vec<String> = self
            .instances_of(version)
            .filter(|instance| instance.assigned && instance.instance_type == spec.name)
            .filter(|instance| {
                let node = self.nodes.get(&instance.node);
                node.is_some_and(|node| node.is_draining && !node.silent.contains(&Role::Heart))
            })
            .map(|instance| {
                format!(
                    "instance {} is on {}, which is being drained",
                    instance.id,
                    self.node_in_words(instance.node)
                )
            })
            .collect();
        if on_draining.is_empty() {
            return Vec::new();
        }
        let worn: Vec<NodeId> = self.worn_nodes(version, spec).collect();
        let mut lines = on_draining;
        if self.has_feasible_node(spec, &worn) {
            lines.push(
                "it is stopped there when its replacement elsewhere stands in its place".to_owned(),
            );
        } else {
            lines.push(format!(
                "no other node can take `{}`, so it stays there: add a node, or undrain one",
                spec.name
            ));
            if desire.missing == 0 {
                lines.extend(self.nodes_in_words(version, spec));
            }
        }
        lines
    }

    pub(super) fn node_in_words(&self, node: NodeId) -> String {
        match self.nodes.get(&node) {
            Some(record) => format!("node {node} ({})", record.node.description.name),
            None => format!("node {node}"),
        }
    }
}

/// The first thing that keeps a node from taking an instance of this type.
fn verdict(node: &NodeRecord, spec: &InstanceTypeSpec, worn: &[NodeId]) -> String {
    let description = &node.node.description;
    let runtime = &spec.runtime;
    if node.silent.contains(&Role::Heart) {
        return "is silent".to_owned();
    }
    if !offers(description, runtime) {
        return format!(
            "does not offer {} version {}",
            runtime.plugin, runtime.version
        );
    }
    let placement = &spec.placement;
    for (name, wanted) in &placement.tags {
        match description.tags.get(name) {
            Some(found) if found == wanted => {}
            Some(found) => {
                return format!("has the tag {name}: {found}, and `placement` asks for {wanted}");
            }
            None => return format!("has no tag `{name}`, and `placement` asks for {wanted}"),
        }
    }
    if let Some(wanted) = &placement.zone
        && description.zone.as_ref() != Some(wanted)
    {
        return match &description.zone {
            Some(found) => format!("stands in zone {found}, and `placement` asks for {wanted}"),
            None => format!("stands in no zone, and `placement` asks for {wanted}"),
        };
    }
    if node.is_draining {
        return "is being drained".to_owned();
    }
    if worn.contains(&node.node.id) {
        return "has one that keeps crashing".to_owned();
    }
    match node.node.state {
        NodeState::Stopped => "was shut down".to_owned(),
        NodeState::Active | NodeState::Draining | NodeState::Down => "can take it".to_owned(),
    }
}
