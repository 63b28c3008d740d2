//! Where instances are, against where they are wanted: place, start, withdraw, stop, remove.

use common::application::InstanceTypeSpec;
use common::id::NodeId;
use common::instance::InstanceGoal;
use common::time::Timestamp;

use super::{Release, Wishes};
use crate::action::Action;
use crate::desire::{TypeDesire, Wanted};
use crate::state::State;
use crate::state::records::{Application, Exposure, Instance, NodeRecord, Version};

/// How good a node is for one more instance of a type; the smallest wins.
///
/// Zones are spread over first where the manifest asks for it, then the type over nodes, then all
/// instances over nodes; the node's number breaks ties, so that a plan is the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NodeScore {
    same_type_in_zone: usize,
    same_type: usize,
    all: usize,
    node: NodeId,
}

pub(super) fn plan(wishes: &mut Wishes<'_>) {
    let state = wishes.state;
    for application in state.applications.values() {
        if wishes.busy_applications.contains(&application.id) {
            continue;
        }
        for version in application.versions.values() {
            for spec in version
                .spec
                .instance_types
                .iter()
                .filter(|spec| spec.exclusive)
            {
                presume_stopped(wishes, version, spec);
            }
        }
        if wishes.busy_applications.contains(&application.id) {
            continue;
        }
        for version in application.versions.values() {
            for spec in &version.spec.instance_types {
                if wishes.is_full() {
                    return;
                }
                let desire = state.desire(application, version, spec);
                move_instances(wishes, spec, &desire);
                place_missing(wishes, application, version, spec, desire.missing);
            }
        }
    }
}

/// When instances that left the table may be stopped though requests are in flight, and lost ones
/// presumed to be.
pub(super) fn deadlines(state: &State) -> impl Iterator<Item = Timestamp> {
    let limit = state.settings().drain_limit;
    state.instances.values().filter_map(move |instance| {
        if let Some(since) = instance.draining_since.filter(|_| instance.assigned) {
            return Some(since.after(limit));
        }
        presumed_stopped_at(state, instance)
    })
}

/// When a lost instance of an exclusive type that is not wanted to run can have no process.
fn presumed_stopped_at(state: &State, instance: &Instance) -> Option<Timestamp> {
    state
        .may_still_run_until(instance)
        .filter(|_| !instance.wants_process())
}

/// Lost instances that were removed are in nobody's desire, but a successor may wait for them.
fn presume_stopped(wishes: &mut Wishes<'_>, version: &Version, spec: &InstanceTypeSpec) {
    let state = wishes.state;
    for id in &version.instances {
        let Some(instance) = state.instances.get(id) else {
            continue;
        };
        if instance.instance_type == spec.name
            && presumed_stopped_at(state, instance).is_some_and(|at| wishes.now >= at)
        {
            wishes.busy_applications.insert(instance.application);
            wishes.wish(Action::PresumeStopped {
                instance: *id,
                generation: instance.generation,
            });
        }
    }
}

fn move_instances(wishes: &mut Wishes<'_>, spec: &InstanceTypeSpec, desire: &TypeDesire) {
    let state = wishes.state;
    for (id, wanted) in &desire.wanted {
        let Some(instance) = state.instances.get(id) else {
            continue;
        };
        if let Some(action) = next_move(wishes, instance, spec, *wanted) {
            wishes.wish(action);
        }
    }
}

/// The one next thing to do with an instance, if it is time for it.
fn next_move(
    wishes: &Wishes<'_>,
    instance: &Instance,
    spec: &InstanceTypeSpec,
    wanted: Wanted,
) -> Option<Action> {
    let (id, generation) = (instance.id, instance.generation);
    let is_running_goal = instance.goal == InstanceGoal::Running;
    match wanted {
        Wanted::Running if !is_running_goal => {
            wishes.state.may_start(instance).then_some(Action::SetGoal {
                instance: id,
                generation,
                goal: InstanceGoal::Running,
            })
        }
        Wanted::Running => (instance.exposure == Exposure::Withdrawn).then_some(Action::Restore {
            instance: id,
            generation,
        }),
        Wanted::Registered if !is_running_goal => None,
        Wanted::Registered | Wanted::Gone if instance.exposure == Exposure::In => {
            Some(Action::Withdraw {
                instance: id,
                generation,
            })
        }
        Wanted::Registered | Wanted::Gone => match wishes.release(instance, spec) {
            Release::Waits => None,
            Release::BeginsToDrain => Some(Action::BeginDrain {
                instance: id,
                generation,
            }),
            Release::Free if wanted == Wanted::Registered => Some(Action::SetGoal {
                instance: id,
                generation,
                goal: InstanceGoal::Registered,
            }),
            Release::Free => Some(Action::Unassign {
                instance: id,
                generation,
            }),
        },
    }
}

fn place_missing(
    wishes: &mut Wishes<'_>,
    application: &Application,
    version: &Version,
    spec: &InstanceTypeSpec,
    missing: u32,
) {
    if version.package.is_none() || missing == 0 {
        return;
    }
    let mut chosen: Vec<NodeId> = Vec::new();
    for _ in 0..missing {
        if wishes.is_full() {
            return;
        }
        let Some(node) = best_node(wishes, version, spec, &chosen) else {
            return;
        };
        chosen.push(node);
        let placed = wishes.placed.entry(node).or_default();
        *placed = placed.saturating_add(1);
        wishes.wish(Action::Place {
            application: application.id,
            version: version.number,
            instance_type: spec.name.clone(),
            node,
        });
    }
}

fn best_node(
    wishes: &Wishes<'_>,
    version: &Version,
    spec: &InstanceTypeSpec,
    chosen: &[NodeId],
) -> Option<NodeId> {
    let state = wishes.state;
    let same_type: Vec<NodeId> = version
        .instances
        .iter()
        .filter_map(|id| state.instances.get(id))
        .filter(|instance| instance.assigned && instance.instance_type == spec.name)
        .map(|instance| instance.node)
        .chain(chosen.iter().copied())
        .collect();
    let worn: Vec<NodeId> = state.worn_nodes(version, spec).collect();
    state
        .feasible_nodes(spec)
        .filter(|node| !worn.contains(&node.node.id))
        .map(|node| score(wishes, node, spec, &same_type))
        .min()
        .map(|score| score.node)
}

fn score(
    wishes: &Wishes<'_>,
    node: &NodeRecord,
    spec: &InstanceTypeSpec,
    same_type: &[NodeId],
) -> NodeScore {
    let id = node.node.id;
    let zone = node.node.description.zone.as_ref();
    let zone_of = |node: &NodeId| {
        wishes
            .state
            .nodes
            .get(node)
            .and_then(|node| node.node.description.zone.as_ref())
    };
    let same_type_in_zone = if spec.placement.spread_zones {
        same_type
            .iter()
            .filter(|other| zone_of(other) == zone)
            .count()
    } else {
        0
    };
    let added = wishes.placed.get(&id).copied().unwrap_or_default();
    NodeScore {
        same_type_in_zone,
        same_type: same_type.iter().filter(|other| **other == id).count(),
        all: node.instances.len().saturating_add(added),
        node: id,
    }
}
