//! Who is silent, and who has come back.
//!
//! Hearts and routers are judged apart: a router that hangs must not cost the instances on its
//! machine, and a heart that hangs must not be waited for as a router.
//!
//! A node whose reports do not arrive may still answer the leader's direct probe: that is a sign of
//! life too, but not for ever, because what cannot report cannot be relied on ([`PROBED_TTLS_MAX`]).

use std::collections::{BTreeMap, BTreeSet};

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

/// When each reporting role of each node will count as silent, and which do.
///
/// A time in the queue may be too early, because the role has been heard since; it is corrected when
/// it comes to the front. So a report costs nothing here.
#[derive(Clone, Debug, Default)]
pub(super) struct Silences {
    queue: BTreeSet<(Timestamp, NodeId, Role)>,
    queued: BTreeMap<(NodeId, Role), Timestamp>,
    silent: BTreeSet<(NodeId, Role)>,
}

impl Silences {
    /// A node may have other roles, or others of them silent.
    pub(super) fn notice(&mut self, state: &State, sightings: &Sightings, id: NodeId) {
        let node = state.nodes.get(&id);
        let ttl = state.settings().node_ttl;
        for role in REPORTING_ROLES {
            let node = node.filter(|node| node.has_role(role));
            let is_silent = node.is_some_and(|node| node.silent.contains(&role));
            if is_silent {
                self.silent.insert((id, role));
            } else {
                self.silent.remove(&(id, role));
            }
            match node.filter(|_| !is_silent) {
                Some(_) if self.queued.contains_key(&(id, role)) => {}
                Some(node) => self.set(id, role, Some(silent_at(sightings, node, role, ttl))),
                None => self.set(id, role, None),
            }
        }
    }

    fn set(&mut self, node: NodeId, role: Role, at: Option<Timestamp>) {
        let before = match at {
            Some(at) => self.queued.insert((node, role), at),
            None => self.queued.remove(&(node, role)),
        };
        if let Some(before) = before {
            self.queue.remove(&(before, node, role));
        }
        self.queue.extend(at.map(|at| (at, node, role)));
    }

    pub(super) fn plan(&mut self, wishes: &mut Wishes<'_>) {
        let overdue = self.overdue(wishes);
        let ttl = wishes.state.settings().node_ttl;
        for (id, role) in self.silent.union(&overdue) {
            let (id, role) = (*id, *role);
            let Some(node) = wishes.state.nodes.get(&id) else {
                continue;
            };
            if overdue.contains(&(id, role)) {
                wishes.busy_nodes.insert(id);
                let applications = instances_applications(wishes.state, node);
                wishes.busy_applications.extend(applications);
                wishes.wish(Action::MarkSilent { node: id, role });
            } else if last_report(wishes.sightings, id, role)
                .is_some_and(|at| wishes.now < at.after(ttl))
            {
                wishes.busy_nodes.insert(id);
                wishes.wish(Action::MarkHeard { node: id, role });
            }
        }
    }

    /// Those that count as silent and are not known to; the time at the front of the queue is right
    /// from here on.
    fn overdue(&mut self, wishes: &Wishes<'_>) -> BTreeSet<(NodeId, Role)> {
        let ttl = wishes.state.settings().node_ttl;
        let mut overdue = BTreeMap::new();
        while let Some((at, id, role)) = self.queue.first().copied() {
            let node = wishes.state.nodes.get(&id);
            let right = node.map(|node| silent_at(wishes.sightings, node, role, ttl));
            match right {
                Some(right) if right <= wishes.now => {
                    self.queue.pop_first();
                    overdue.insert((id, role), at);
                }
                Some(right) if right == at => break,
                right => self.set(id, role, right),
            }
        }
        // They come again until the state says that they are silent.
        for ((id, role), at) in &overdue {
            self.queue.insert((*at, *id, *role));
        }
        overdue.into_keys().collect()
    }

    /// When the next role will count as silent.
    pub(super) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let (at, _, _) = self.queue.iter().find(|(at, _, _)| *at > now)?;
        Some(*at)
    }
}

/// When each role that is heard will count as silent.
pub(super) fn deadlines<'a>(
    state: &'a State,
    sightings: &'a Sightings,
) -> impl Iterator<Item = Timestamp> + 'a {
    let ttl = state.settings().node_ttl;
    state.nodes.values().flat_map(move |node| {
        REPORTING_ROLES
            .into_iter()
            .filter(|role| node.has_role(*role) && !node.silent.contains(role))
            .map(move |role| silent_at(sightings, node, role, ttl))
    })
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
