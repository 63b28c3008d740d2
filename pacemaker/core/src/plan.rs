//! `plan`: what the leader wishes for in this tick, and when it wants to be asked again.
//!
//! First the state is told the truth (who is silent, what hearts say, what builds became), then
//! it is moved towards what is wanted. An application about which something new was heard is only
//! observed in this tick, and decided about in the next: so no action is planned against what
//! another one of the same tick changes, and the whole plan applies. Ask until the plan is empty.
//!
//! A [`Planner`] remembers what it has looked at, so that a tick costs what has changed and not
//! what there is; [`plan`] looks at everything and wishes for the same.

mod builds;
mod candidates;
mod liveness;
mod observe;
mod placement;
mod rollout;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, Generation, InstanceId, NodeId};
use common::time::Timestamp;

use self::candidates::Candidates;
use self::liveness::Silences;
use crate::action::Action;
use crate::sightings::Sightings;
use crate::state::State;
use crate::state::limits::ACTIONS_PER_TICK_MAX;
use crate::state::records::{Application, Instance};

/// The leader's wish list for this tick; never trusted, it returns through the log.
///
/// At most [`ACTIONS_PER_TICK_MAX`] actions.
#[must_use]
pub fn plan(state: &State, sightings: &Sightings, now: Timestamp) -> Vec<Action> {
    Planner::default().plan(state, sightings, now)
}

/// When the planner wants to be asked again though nothing was heard (a window ends, a TTL passes).
///
/// Always later than `now`: what is due already is in the plan, or waits for a report.
#[must_use]
pub fn next_deadline(state: &State, sightings: &Sightings, now: Timestamp) -> Option<Timestamp> {
    let applications = state.applications.values();
    liveness::deadlines(state, sightings)
        .chain(applications.flat_map(|one| deadlines_of(state, one, sightings.elected)))
        .filter(|deadline| *deadline > now)
        .min()
}

/// Plans, and remembers what need not be looked at again.
///
/// It belongs to one leader: a new one begins with a new planner. What it remembers is only what
/// it has seen in the states and sightings that it was shown; it notices by itself when either was
/// replaced by an older one, and looks at everything anew.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    /// Changes to the state up to here are known; none before the first plan.
    noticed: Option<Generation>,
    /// The election from which this planner's times count.
    elected: Timestamp,
    /// Applications that changed, or that wait for something that is not in the state.
    due: BTreeSet<ApplicationId>,
    /// When applications are due though nothing happens.
    alarms: Alarms,
    /// The last report of each heart that is known: when it came, incarnation, sequence.
    heard: BTreeMap<NodeId, (Timestamp, u64, u64)>,
    /// Nodes whose report may say what the state does not know.
    news: BTreeSet<NodeId>,
    silences: Silences,
    candidates: Candidates,
}

impl Planner {
    /// The wish list for this tick: the same as [`plan`]'s, at the cost of what has changed.
    #[must_use]
    pub fn plan(&mut self, state: &State, sightings: &Sightings, now: Timestamp) -> Vec<Action> {
        let heard = self.listen(sightings);
        self.plan_after(state, sightings, &heard, now)
    }

    /// The same for a caller that knows which hearts have reported since the last plan, so that
    /// the others' reports need not be looked at.
    #[must_use]
    pub fn plan_after(
        &mut self,
        state: &State,
        sightings: &Sightings,
        heard: &BTreeSet<NodeId>,
        now: Timestamp,
    ) -> Vec<Action> {
        if !state.is_initialized() {
            return Vec::new();
        }
        self.notice(state, sightings);
        for node in heard {
            self.news.insert(*node);
            self.candidates.notice(state, sightings, *node);
        }
        self.candidates.forget_plans(state, sightings);
        let mut wishes = Wishes::new(state, sightings, now);
        self.silences.plan(&mut wishes);
        observe::plan(&mut wishes, &mut self.news);
        if !wishes.busy_nodes.is_empty() {
            // Where instances can go is about to change: decide when it has.
            return wishes.actions;
        }
        self.due.extend(self.alarms.ring(now));
        self.plan_applications(&mut wishes);
        wishes.actions
    }

    fn plan_applications(&mut self, wishes: &mut Wishes<'_>) {
        let mut after = None;
        while let Some(id) = self.next_due(after)
            && !wishes.is_full()
        {
            after = Some(id);
            let Some(application) = wishes.state.applications.get(&id) else {
                self.due.remove(&id);
                continue;
            };
            if wishes.busy_applications.contains(&id) {
                continue;
            }
            let step = builds::plan(wishes, application);
            if let Some(action) = step.or_else(|| rollout::plan(wishes, application)) {
                wishes.wish(action);
                continue;
            }
            let before = wishes.actions.len();
            let is_at_rest = placement::plan(wishes, application, &mut self.candidates);
            if wishes.actions.len() == before {
                self.put_off(wishes.state, application, is_at_rest, wishes.now);
            }
        }
    }

    fn next_due(&self, after: Option<ApplicationId>) -> Option<ApplicationId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.due.range((start, Bound::Unbounded)).next().copied()
    }

    /// When to ask again though nothing was heard; always later than `now`. Ask after a plan that
    /// was empty.
    #[must_use]
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        [self.silences.next(now), self.alarms.next(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes note of what has changed in the state and of what has been heard.
    fn notice(&mut self, state: &State, sightings: &Sightings) {
        let is_older = self
            .noticed
            .is_some_and(|noticed| state.applied() < noticed);
        if is_older || sightings.elected < self.elected {
            *self = Self::default();
        }
        self.elected = sightings.elected;
        match self.noticed.replace(state.applied()) {
            None => {
                self.due = state.applications.keys().copied().collect();
                for node in state.nodes.keys() {
                    self.news.insert(*node);
                    self.silences.notice(state, sightings, *node);
                }
            }
            Some(noticed) => {
                let next = Generation(noticed.0.saturating_add(1));
                let applications = state
                    .changed_applications
                    .range((next, ApplicationId(0))..)
                    .map(|(_, application)| *application);
                self.due.extend(applications);
                for (_, node) in state.changed_nodes.range((next, NodeId(0))..) {
                    self.candidates.notice(state, sightings, *node);
                    let record = state.nodes.get(node);
                    if record.is_some_and(|record| record.altered > noticed) {
                        self.news.insert(*node);
                        self.silences.notice(state, sightings, *node);
                    }
                }
            }
        }
    }

    /// Finds the hearts that have reported since.
    fn listen(&mut self, sightings: &Sightings) -> BTreeSet<NodeId> {
        let known = self.heard.iter().map(|(node, stamp)| (*node, *stamp));
        let mut known = known.peekable();
        let mut fresh: Vec<(NodeId, (Timestamp, u64, u64))> = Vec::new();
        for (node, sighting) in &sightings.hearts {
            let report = &sighting.report;
            let stamp = (sighting.at, report.incarnation, report.sequence);
            while known.next_if(|(other, _)| other < node).is_some() {}
            if known.next_if_eq(&(*node, stamp)).is_none() {
                fresh.push((*node, stamp));
            }
        }
        self.heard.extend(fresh.iter().copied());
        if self.heard.len() != sightings.hearts.len() {
            // Some are not heard any more: a new leader's sightings, or a node that was removed.
            self.heard
                .retain(|node, _| sightings.hearts.contains_key(node));
            self.candidates = Candidates::default();
        }
        fresh.into_iter().map(|(node, _)| node).collect()
    }

    /// An application that was looked at and of which nothing is wished for now.
    fn put_off(
        &mut self,
        state: &State,
        application: &Application,
        is_at_rest: bool,
        now: Timestamp,
    ) {
        if is_at_rest {
            self.due.remove(&application.id);
        }
        let deadline = if is_at_rest {
            application.warm.map(|warm| warm.until)
        } else {
            deadlines_of(state, application, self.elected)
                .filter(|deadline| *deadline > now)
                .min()
        };
        self.alarms.set(application.id, deadline);
    }
}

/// When each application is due though nothing happens.
#[derive(Clone, Debug, Default)]
struct Alarms {
    at: BTreeMap<ApplicationId, Timestamp>,
    queue: BTreeSet<(Timestamp, ApplicationId)>,
}

impl Alarms {
    fn set(&mut self, application: ApplicationId, at: Option<Timestamp>) {
        let before = match at {
            Some(at) => self.at.insert(application, at),
            None => self.at.remove(&application),
        };
        if let Some(before) = before {
            self.queue.remove(&(before, application));
        }
        self.queue.extend(at.map(|at| (at, application)));
    }

    /// Those that are due; they are set again when they have been looked at.
    fn ring(&mut self, now: Timestamp) -> Vec<ApplicationId> {
        let mut due = Vec::new();
        while let Some((at, application)) = self.queue.first().copied()
            && at <= now
        {
            self.set(application, None);
            due.push(application);
        }
        due
    }

    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let (at, _) = self.queue.iter().find(|(at, _)| *at > now)?;
        Some(*at)
    }
}

/// When something about an application is due though nothing happens.
fn deadlines_of(
    state: &State,
    application: &Application,
    elected: Timestamp,
) -> impl Iterator<Item = Timestamp> {
    let of_placement = placement::deadlines(state, application, elected);
    rollout::deadlines(state, application).chain(of_placement)
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
        }
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn room(&self) -> usize {
        ACTIONS_PER_TICK_MAX.saturating_sub(self.actions.len())
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
        let has_cron = self.state.may_serve_cron(instance);
        if has_cron && self.state.is_retired(instance) {
            // It ends by its timeout, and no other follows.
            return Release::Waits;
        }
        match instance.draining_since {
            _ if !has_cron && self.is_drained(instance.id) => Release::Free,
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
