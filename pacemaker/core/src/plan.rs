//! `plan`: what the leader wishes for in this tick, and when it wants to be asked again.
//!
//! First the state is told the truth (who is silent, what hearts say, what builds became), then
//! it is moved towards what is wanted. An application about which something new was heard is only
//! observed in this tick, and decided about in the next: so no action is planned against what
//! another one of the same tick changes, and the whole plan applies. Ask until the plan is empty.

mod builds;
mod liveness;
mod observe;
mod placement;
mod rollout;

use std::collections::{BTreeMap, BTreeSet};

use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, Generation, InstanceId, NodeId};
use common::time::Timestamp;

use crate::action::Action;
use crate::sightings::Sightings;
use crate::state::State;
use crate::state::limits::ACTIONS_PER_TICK_MAX;
use crate::state::records::Instance;

/// The leader's wish list for this tick; never trusted, it returns through the log.
///
/// At most [`ACTIONS_PER_TICK_MAX`] actions.
#[must_use]
pub fn plan(state: &State, sightings: &Sightings, now: Timestamp) -> Vec<Action> {
    if !state.is_initialized() {
        return Vec::new();
    }
    let mut wishes = Wishes::new(state, sightings, now);
    liveness::plan(&mut wishes);
    observe::plan(&mut wishes);
    if !wishes.busy_nodes.is_empty() {
        // Where instances can go is about to change: decide when it has.
        return wishes.actions;
    }
    builds::plan(&mut wishes);
    rollout::plan(&mut wishes);
    placement::plan(&mut wishes);
    wishes.actions
}

/// When the planner wants to be asked again though nothing was heard (a window ends, a TTL passes).
///
/// Always later than `now`: what is due already is in the plan, or waits for a report.
#[must_use]
pub fn next_deadline(state: &State, sightings: &Sightings, now: Timestamp) -> Option<Timestamp> {
    liveness::deadlines(state, sightings)
        .chain(rollout::deadlines(state))
        .chain(placement::deadlines(state))
        .filter(|deadline| *deadline > now)
        .min()
}

/// The plan while it is made.
struct Wishes<'a> {
    state: &'a State,
    sightings: &'a Sightings,
    now: Timestamp,
    actions: Vec<Action>,
    /// Applications and nodes about which this tick already says something.
    busy_applications: BTreeSet<ApplicationId>,
    busy_nodes: BTreeSet<NodeId>,
    /// Instances per node with those that this tick adds.
    placed: BTreeMap<NodeId, usize>,
}

impl<'a> Wishes<'a> {
    fn new(state: &'a State, sightings: &'a Sightings, now: Timestamp) -> Self {
        Self {
            state,
            sightings,
            now,
            actions: Vec::new(),
            busy_applications: BTreeSet::new(),
            busy_nodes: BTreeSet::new(),
            placed: BTreeMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.actions.len() >= ACTIONS_PER_TICK_MAX
    }

    /// Adds an action; what does not fit comes again in the next tick.
    fn wish(&mut self, action: Action) {
        if !self.is_full() {
            self.actions.push(action);
        }
    }

    /// True when every live router uses a table that is at least as new as `generation`.
    ///
    /// The table may not have changed at that index at all; then the last change before it is
    /// the newest that there is to acknowledge.
    fn is_acknowledged(&self, generation: Generation) -> bool {
        let needed = generation.min(self.state.routes_generation());
        self.state.live_routers().all(|router| {
            self.sightings
                .routers
                .get(&router.node.id)
                .is_some_and(|sighting| sighting.report.routes >= needed)
        })
    }

    /// True when no live router carries requests to the instance that it accepted before it
    /// acknowledged `generation`.
    fn is_drained(&self, instance: InstanceId) -> bool {
        self.state.live_routers().all(|router| {
            self.sightings
                .routers
                .get(&router.node.id)
                .is_some_and(|sighting| {
                    sighting
                        .report
                        .in_flight
                        .get(&instance)
                        .is_none_or(|count| *count == 0)
                })
        })
    }

    /// What an instance that is out of the table still waits for before it may be stopped.
    fn release(&self, instance: &Instance, spec: &InstanceTypeSpec) -> Release {
        let was_routed = instance.left > Generation(0) && !spec.standalone;
        if !was_routed {
            return Release::Free;
        }
        if !self.is_acknowledged(instance.left) {
            return Release::Waits;
        }
        let limit = self.state.settings().drain_limit;
        match instance.draining_since {
            _ if self.is_drained(instance.id) => Release::Free,
            None => Release::BeginsToDrain,
            Some(since) if self.now >= since.after(limit) => Release::Free,
            Some(_) => Release::Waits,
        }
    }
}

/// Whether an instance that left the table may be stopped.
enum Release {
    /// Routers have not acknowledged, or requests drain.
    Waits,
    /// Routers have acknowledged and requests go on: their time begins.
    BeginsToDrain,
    /// No request can be lost any more, or they have had their time.
    Free,
}
