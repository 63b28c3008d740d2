//! Who is silent, and who has come back.
//!
//! Hearts and routers are judged apart: a router that hangs must not cost the instances on its
//! machine, and a heart that hangs must not be waited for as a router.
//!
//! A node whose reports do not arrive may still answer the leader's direct probe: that is a sign of
//! life too, but not for ever, because what cannot report cannot be relied on ([`PROBED_TTLS_MAX`]).

use common::id::NodeId;
use common::node::Role;
use common::time::{Span, Timestamp};

use super::Wishes;
use crate::action::Action;
use crate::sightings::Sightings;
use crate::state::State;
use crate::state::records::NodeRecord;

/// For how many times the TTL the answers to probes stand in for reports. Long enough for a
/// network that loses one direction for a moment, short enough that a role which hangs on a machine
/// that answers is given up.
const PROBED_TTLS_MAX: u64 = 10;

/// The roles that report.
const REPORTING_ROLES: [Role; 2] = [Role::Heart, Role::Router];

pub(super) fn plan(wishes: &mut Wishes<'_>) {
    let ttl = wishes.state.settings().node_ttl;
    for node in wishes.state.nodes.values() {
        for role in reporting_roles(node) {
            let id = node.node.id;
            let deadline = silent_at(wishes.sightings, node, role, ttl);
            let is_silent = node.silent.contains(&role);
            if !is_silent && wishes.now >= deadline {
                wishes.busy_nodes.insert(id);
                let applications = instances_applications(wishes.state, node);
                wishes.busy_applications.extend(applications);
                wishes.wish(Action::MarkSilent { node: id, role });
            }
            if is_silent
                && last_report(wishes.sightings, id, role)
                    .is_some_and(|at| wishes.now < at.after(ttl))
            {
                wishes.busy_nodes.insert(id);
                wishes.wish(Action::MarkHeard { node: id, role });
            }
        }
    }
}

/// When each role that is heard will count as silent.
pub(super) fn deadlines<'a>(
    state: &'a State,
    sightings: &'a Sightings,
) -> impl Iterator<Item = Timestamp> + 'a {
    let ttl = state.settings().node_ttl;
    state.nodes.values().flat_map(move |node| {
        reporting_roles(node)
            .filter(|role| !node.silent.contains(role))
            .map(move |role| silent_at(sightings, node, role, ttl))
    })
}

fn reporting_roles(node: &NodeRecord) -> impl Iterator<Item = Role> {
    REPORTING_ROLES
        .into_iter()
        .filter(|role| node.has_role(*role))
}

/// When a role counts as silent, unless it is heard before.
///
/// The time begins at the last report, the registration, or the leader's election, whichever came
/// last, and goes on with each answer to a probe, within bounds.
fn silent_at(sightings: &Sightings, node: &NodeRecord, role: Role, ttl: Span) -> Timestamp {
    let heard = last_report(sightings, node.node.id, role)
        .unwrap_or_default()
        .max(sightings.elected)
        .max(node.registered);
    let probed = sightings
        .probes
        .get(&node.node.id)
        .copied()
        .unwrap_or_default();
    let at_most = heard.after(Span(ttl.0.saturating_mul(PROBED_TTLS_MAX)));
    heard.max(probed).after(ttl).min(at_most)
}

fn last_report(sightings: &Sightings, node: NodeId, role: Role) -> Option<Timestamp> {
    match role {
        Role::Heart => sightings.hearts.get(&node).map(|sighting| sighting.at),
        Role::Router => sightings.routers.get(&node).map(|sighting| sighting.at),
        Role::Pacemaker => None,
    }
}

fn instances_applications(
    state: &State,
    node: &NodeRecord,
) -> impl Iterator<Item = common::id::ApplicationId> {
    node.instances
        .iter()
        .filter_map(|instance| state.instances.get(instance))
        .map(|instance| instance.application)
}
