//! What hearts say of instances that the state does not know yet.
//!
//! Reports are levels: each says everything, so only the difference to the state is wished for,
//! and losing a report costs nothing but time.

use std::collections::{BTreeMap, BTreeSet};

use common::assignment::HeartReport;
use common::id::{InstanceId, NodeId};
use common::instance::InstanceState;
use common::node::Role;

use super::Wishes;
use crate::action::Action;
use crate::desire::has_no_process;
use crate::state::State;
use crate::state::records::{Exposure, Instance, NodeRecord, Seen};

/// Looks at the nodes that have news; those that turn out to have none are taken from the list.
pub(super) fn plan(wishes: &mut Wishes<'_>, news: &mut BTreeSet<NodeId>) {
    let (state, sightings) = (wishes.state, wishes.sightings);
    let nodes: Vec<NodeId> = news.iter().copied().collect();
    for id in nodes {
        if wishes.busy_nodes.contains(&id) {
            continue;
        }
        let node = state
            .nodes
            .get(&id)
            .filter(|node| node.has_role(Role::Heart) && !node.silent.contains(&Role::Heart));
        let (Some(node), Some(sighting)) = (node, sightings.hearts.get(&id)) else {
            news.remove(&id);
            continue;
        };
        let before = wishes.actions.len();
        if !is_known(state, node, &sighting.report) {
            observe_node(wishes, node, &sighting.report);
        }
        if wishes.is_full() {
            return;
        }
        if wishes.actions.len() == before {
            news.remove(&id);
        }
    }
}

/// True when a report says of each instance of the node what the state says, and of no other: the
/// usual one, told apart without a copy of anything.
fn is_known(state: &State, node: &NodeRecord, report: &HeartReport) -> bool {
    report.instances.len() == node.instances.len()
        && report.instances.iter().all(|said| {
            node.instances.contains(&said.id)
                && state.instances.get(&said.id).is_some_and(|instance| {
                    let seen = &instance.seen;
                    let is_same = (seen.state, seen.port, seen.pid, seen.restarts)
                        == (said.state, said.port, said.pid, said.restarts)
                        && seen.failure == said.failure;
                    is_same
                        && instance.assigned
                        && (instance.exposure == Exposure::In || instance.quiet)
                })
        })
}

fn observe_node(wishes: &mut Wishes<'_>, node: &NodeRecord, report: &HeartReport) {
    let reported: BTreeMap<InstanceId, Seen> = seen_instances(wishes.state, report);
    let known: Vec<&Instance> = node
        .instances
        .iter()
        .filter_map(|instance| wishes.state.instances.get(instance))
        .collect();
    // What is gone is forgotten first: its port may be another's by now.
    for instance in &known {
        let is_gone = !instance.assigned
            && report.assignment >= instance.goal_generation
            && !reported.contains_key(&instance.id);
        if is_gone {
            wishes.busy_applications.insert(instance.application);
            wishes.wish(Action::Forget {
                instance: instance.id,
                generation: instance.generation,
            });
        }
    }
    for instance in known {
        let Some(seen) = reported.get(&instance.id) else {
            continue;
        };
        if is_news(wishes.state, instance, seen, report) {
            wishes.busy_applications.insert(instance.application);
            wishes.wish(Action::Observe {
                instance: instance.id,
                generation: instance.generation,
                assignment: report.assignment,
                seen: seen.clone(),
            });
        }
    }
}

/// True when the state would be another one after the observation.
fn is_news(state: &State, instance: &Instance, seen: &Seen, report: &HeartReport) -> bool {
    if instance.seen != *seen {
        return true;
    }
    if report.assignment < instance.goal_generation {
        return false;
    }
    if instance.wants_process() {
        // It ran all the time, while what is wanted of it went to and fro.
        return seen.state == InstanceState::Running && instance.exposure == Exposure::Out;
    }
    !instance.quiet && has_no_process(seen.state) && is_exclusive(state, instance)
}

fn is_exclusive(state: &State, instance: &Instance) -> bool {
    state
        .applications
        .get(&instance.application)
        .and_then(|application| application.versions.get(&instance.version))
        .and_then(|version| version.instance_type(&instance.instance_type))
        .is_some_and(|spec| spec.exclusive)
}

/// What a report says of each instance, within the bounds of the state and with every port once.
fn seen_instances(state: &State, report: &HeartReport) -> BTreeMap<InstanceId, Seen> {
    let mut seen: BTreeMap<InstanceId, Seen> = BTreeMap::new();
    for instance in &report.instances {
        if instance.state == InstanceState::Lost {
            continue;
        }
        let mut what = Seen::from(instance);
        what.failure = what.failure.as_ref().map(crate::apply::bounded);
        seen.insert(instance.id, what);
    }
    // A port that two instances claim is the one's that had it before, else the elder's.
    let mut owners: BTreeMap<u16, (bool, InstanceId)> = BTreeMap::new();
    for (id, what) in &seen {
        let Some(port) = what.port else {
            continue;
        };
        let had_it = state
            .instances
            .get(id)
            .is_some_and(|instance| instance.seen.port == Some(port));
        let candidate = (!had_it, *id);
        owners
            .entry(port)
            .and_modify(|owner| *owner = candidate.min(*owner))
            .or_insert(candidate);
    }
    let owning: BTreeSet<InstanceId> = owners.values().map(|(_, id)| *id).collect();
    for (id, what) in &mut seen {
        if !owning.contains(id) {
            what.port = None;
        }
    }
    seen
}
