//! What nodes offer: which runtimes, where, and whether a node suits an instance type.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{InstanceTypeSpec, RuntimeSpec, VersionSpec};
use common::id::NodeId;
use common::node::NodeDescription;

use crate::apply::reject;
use crate::command::{Rejection, RejectionCode};
use crate::state::State;
use crate::state::records::NodeRecord;

impl State {
    /// Nodes that could take a new instance of this type.
    pub(crate) fn feasible_nodes(
        &self,
        spec: &InstanceTypeSpec,
    ) -> impl Iterator<Item = &NodeRecord> {
        self.nodes
            .values()
            .filter(|node| node.takes_instances() && suits(&node.node.description, spec))
    }

    /// True when some node but these could take a new instance of this type.
    pub(crate) fn has_feasible_node(&self, spec: &InstanceTypeSpec, except: &[NodeId]) -> bool {
        self.feasible_nodes(spec)
            .any(|node| !except.contains(&node.node.id))
    }

    /// Nodes that could build.
    pub(crate) fn builder_nodes(
        &self,
        runtime: Option<&RuntimeSpec>,
    ) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().filter(move |node| {
            node.takes_instances()
                && runtime.is_none_or(|runtime| offers(&node.node.description, runtime))
        })
    }
}

/// True when the node has this version of this runtime.
pub(crate) fn offers(description: &NodeDescription, runtime: &RuntimeSpec) -> bool {
    description
        .runtimes
        .get(&runtime.plugin)
        .is_some_and(|versions| versions.contains(&runtime.version))
}

/// True when an instance of this type may be placed on the node.
pub(crate) fn suits(description: &NodeDescription, spec: &InstanceTypeSpec) -> bool {
    let placement = &spec.placement;
    offers(description, &spec.runtime)
        && placement
            .tags
            .iter()
            .all(|(name, value)| description.tags.get(name) == Some(value))
        && placement
            .zone
            .as_ref()
            .is_none_or(|zone| description.zone.as_ref() == Some(zone))
}

/// Refuses a version that no node could run or build, and lists what is offered.
pub(crate) fn check_offered(state: &State, spec: &VersionSpec) -> Result<(), Rejection> {
    for instance_type in &spec.instance_types {
        if state.has_feasible_node(instance_type, &[]) {
            continue;
        }
        let runtime = &instance_type.runtime;
        let subject = format!("instance type `{}`", instance_type.name);
        if state.builder_nodes(Some(runtime)).next().is_none() {
            return Err(not_offered(state, &subject, runtime));
        }
        return Err(reject(
            RejectionCode::NotOffered,
            format!(
                "no node that offers {} version {} has the tags and the zone that {subject} asks for under `placement`: change them, or the nodes' tags",
                runtime.plugin, runtime.version
            ),
        ));
    }
    if let Some(prepare) = &spec.prepare {
        let runtime = prepare.runtime.as_ref();
        if state.builder_nodes(runtime).next().is_none() {
            return Err(match runtime {
                Some(runtime) => not_offered(state, "`prepare`", runtime),
                None => reject(
                    RejectionCode::NotOffered,
                    "no heart is there to run the prepare commands: start one",
                ),
            });
        }
    }
    Ok(())
}

fn not_offered(state: &State, subject: &str, runtime: &RuntimeSpec) -> Rejection {
    let offered = offered(state);
    let list = if offered.is_empty() {
        "no heart is there: start one".to_owned()
    } else {
        let entries: Vec<String> = offered
            .iter()
            .map(|(plugin, versions)| {
                let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
                format!("{plugin} ({})", versions.join(", "))
            })
            .collect();
        format!("nodes offer {}", entries.join("; "))
    };
    reject(
        RejectionCode::NotOffered,
        format!(
            "no node offers {} version {}, which {subject} asks for; {list}",
            runtime.plugin, runtime.version
        ),
    )
}

/// Every runtime that an active heart offers, with its versions.
pub(crate) fn offered(state: &State) -> BTreeMap<String, BTreeSet<String>> {
    let mut offered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in state.builder_nodes(None) {
        for (plugin, versions) in &node.node.description.runtimes {
            offered
                .entry(plugin.to_string())
                .or_default()
                .extend(versions.iter().cloned());
        }
    }
    offered
}
