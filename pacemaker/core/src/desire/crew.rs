//! The instances of one type of one version, sorted by what their place is worth.
//!
//! Who survives when there are more than are wanted:
//!
//! - *Settled* instances are kept first, those that serve before the others and the longest serving
//!   first. So when a silent node comes back, a replacement that runs stays and the returned
//!   instance goes; a replacement that does not run yet goes and the returned one stays.
//! - *Worn* instances have used up their restarts on their node. They stay until others serve in
//!   their place, and at most [`SPARES_MAX`] more than are wanted are tried elsewhere: what crashes
//!   everywhere must not be laid out on every node.
//! - *Leaving* instances are on a node that is being drained. They stay until their replacements
//!   serve, and for good while no other node can take these.
//! - *Lost* instances stay until others serve in their place, because they may still serve.

use common::application::InstanceTypeSpec;
use common::id::{InstanceId, NodeId};
use common::instance::{InstanceGoal, InstanceState};
use common::time::Timestamp;

use super::{TypeDesire, Wanted, is_met, is_worn};
use crate::state::State;
use crate::state::records::{Exposure, Instance};

/// How many instances of a type may be tried on other nodes beside those that keep crashing.
const SPARES_MAX: usize = 2;

/// How much an instance is worth keeping: the smallest are kept.
///
/// Those that serve come first, the longest serving before the others; those that already leave the
/// table come last, so that a choice once made is kept. Where none is to run, all leave the table,
/// and that says nothing about which are kept.
type Rank = (u8, Timestamp, InstanceId);

/// The assigned instances of a type, by kind, each kind in the order of their ranks.
pub(super) struct Crew<'a> {
    settled: Vec<&'a Instance>,
    worn: Vec<&'a Instance>,
    leaving: Vec<&'a Instance>,
    lost: Vec<&'a Instance>,
    /// True when a replacement could be placed on another node.
    can_move: bool,
    worn_nodes: Vec<NodeId>,
    is_moving: bool,
}

impl<'a> Crew<'a> {
    pub(super) fn new(
        state: &State,
        spec: &InstanceTypeSpec,
        goal: InstanceGoal,
        assigned: Vec<&'a Instance>,
    ) -> Self {
        let mut crew = Self {
            settled: Vec::with_capacity(assigned.len()),
            worn: Vec::new(),
            leaving: Vec::new(),
            lost: Vec::new(),
            can_move: false,
            worn_nodes: Vec::new(),
            is_moving: false,
        };
        let may_wear = goal == InstanceGoal::Running && !spec.exclusive;
        for instance in assigned {
            if instance.seen.state == InstanceState::Lost {
                crew.lost.push(instance);
            } else if state.is_draining(instance.node) {
                crew.leaving.push(instance);
            } else if may_wear && is_worn(instance) {
                crew.worn.push(instance);
            } else {
                crew.settled.push(instance);
            }
        }
        crew.is_moving = !crew.lost.is_empty() || !crew.leaving.is_empty() || !crew.worn.is_empty();
        crew.worn_nodes
            .extend(crew.worn.iter().map(|instance| instance.node));
        crew.can_move = crew.is_moving && state.has_feasible_node(spec, &crew.worn_nodes);
        if !crew.can_move {
            let staying = crew.worn.drain(..).chain(crew.leaving.drain(..));
            crew.settled.extend(staying);
        }
        for kind in [
            &mut crew.settled,
            &mut crew.worn,
            &mut crew.leaving,
            &mut crew.lost,
        ] {
            kind.sort_by_key(|instance| rank(instance, goal));
        }
        crew
    }

    fn begin_desire(&self) -> TypeDesire<'a> {
        TypeDesire {
            wanted: Vec::with_capacity(self.settled.len()),
            missing: 0,
            worn: self.worn_nodes.clone(),
            is_moving: self.is_moving,
        }
    }

    /// What is wanted of each, and how many more are, of a type that may run more than once.
    pub(super) fn desire(self, goal: InstanceGoal, quantity: usize) -> TypeDesire<'a> {
        let met = |instances: &[&Instance]| {
            let serves = |instance: &&&Instance| serves(instance, goal);
            instances.iter().filter(serves).count()
        };
        let settled = self.settled.len().min(quantity);
        let (serving, lead) = (met(&self.settled), quantity.saturating_sub(settled));
        let spares = quantity.saturating_add(SPARES_MAX).saturating_sub(settled);
        let worn = if serving >= quantity {
            0
        } else {
            self.worn.len().min(spares)
        };
        let still_needed = |serving: usize, instances: &[&Instance]| {
            instances.len().min(quantity.saturating_sub(serving))
        };
        let leaving = still_needed(serving, &self.leaving);
        let staying = met(&self.worn).saturating_add(met(&self.leaving));
        let lost = still_needed(serving.saturating_add(staying), &self.lost);
        // Those that are to stand idle on a silent node wait there until it comes back.
        let idle = match goal {
            InstanceGoal::Running => 0,
            InstanceGoal::Registered => lost,
        };
        let wanted = wanted_for(goal);
        let mut desire = self.begin_desire();
        desire.want(&self.settled, &[(wanted, settled)]);
        desire.want(&self.worn, &[(wanted, worn)]);
        desire.want_no_start(&self.leaving, goal, leaving);
        desire.want(&self.lost, &[(wanted, lost)]);
        let missing = lead.min(spares.saturating_sub(worn)).saturating_sub(idle);
        desire.finish(missing)
    }

    /// The same of an exclusive type: one that goes has stopped before another starts in its place.
    ///
    /// The replacements of those that leave are laid out first, and idle until as many as are wanted
    /// stand ready; so the time without any is only that of a stop and a start.
    pub(super) fn exclusive_desire(self, goal: InstanceGoal, quantity: usize) -> TypeDesire<'a> {
        let settled = self.settled.len().min(quantity);
        let (kept, surplus) = self.settled.split_at(settled);
        // Those that were told to run come first, so that they are not told to stop.
        let (mut kept, idle): (Vec<&'a Instance>, Vec<&'a Instance>) = kept
            .iter()
            .partition(|instance| instance.goal == InstanceGoal::Running);
        let prepared = idle
            .iter()
            .filter(|instance| is_met(instance, InstanceGoal::Registered))
            .count();
        let ready = kept.len().saturating_add(prepared);
        kept.extend(idle);
        let leaving = self.leaving.len().min(quantity.saturating_sub(ready));
        let running = settled.min(quantity.saturating_sub(leaving));
        let serving = self
            .settled
            .iter()
            .chain(&self.leaving)
            .filter(|instance| serves(instance, goal))
            .count();
        // A lost one is removed before its replacement may start.
        let lost = if self.can_move {
            0
        } else {
            self.lost.len().min(quantity.saturating_sub(serving))
        };
        let wanted = wanted_for(goal);
        let mut desire = self.begin_desire();
        let idle = settled.saturating_sub(running);
        desire.want(&kept, &[(wanted, running), (Wanted::Registered, idle)]);
        desire.want(surplus, &[]);
        desire.want_no_start(&self.leaving, goal, leaving);
        desire.want(&self.lost, &[(wanted, lost)]);
        let missing = quantity.saturating_sub(settled).saturating_sub(lost);
        desire.finish(missing)
    }
}

impl<'a> TypeDesire<'a> {
    /// Wants this of so many of the first, that of so many after them, and nothing of the rest.
    fn want(&mut self, instances: &[&'a Instance], shares: &[(Wanted, usize)]) {
        let verdicts = shares
            .iter()
            .flat_map(|(wanted, count)| std::iter::repeat_n(*wanted, *count))
            .chain(std::iter::repeat(Wanted::Gone));
        self.wanted.extend(instances.iter().copied().zip(verdicts));
    }

    /// Wants this of so many of the first, but starts none: it cannot stay where it is.
    fn want_no_start(&mut self, instances: &[&'a Instance], goal: InstanceGoal, count: usize) {
        let (kept, rest) = instances.split_at(count.min(instances.len()));
        let verdicts = kept
            .iter()
            .map(|instance| (*instance, wanted_for(instance.goal.min(goal))));
        self.wanted.extend(verdicts);
        self.want(rest, &[]);
    }

    fn finish(mut self, missing: usize) -> Self {
        self.wanted
            .sort_unstable_by_key(|(instance, _)| instance.id);
        self.missing = u32::try_from(missing).unwrap_or(u32::MAX);
        self
    }
}

/// True when an instance is where its goal wants it, or will be when this plan has been carried out:
/// one that runs and is wanted returns to the table at once.
fn serves(instance: &Instance, goal: InstanceGoal) -> bool {
    let returns = goal == InstanceGoal::Running
        && instance.goal == InstanceGoal::Running
        && instance.seen.state == InstanceState::Running
        && instance.exposure == Exposure::Withdrawn;
    returns || is_met(instance, goal)
}

fn wanted_for(goal: InstanceGoal) -> Wanted {
    match goal {
        InstanceGoal::Running => Wanted::Running,
        InstanceGoal::Registered => Wanted::Registered,
    }
}

fn rank(instance: &Instance, goal: InstanceGoal) -> Rank {
    let leaves = goal == InstanceGoal::Running && instance.exposure == Exposure::Withdrawn;
    let class = match instance.seen.state {
        _ if leaves => 6,
        InstanceState::Running => 0,
        InstanceState::Starting => 1,
        InstanceState::Registered | InstanceState::Stopped => 2,
        InstanceState::Allocated => 3,
        InstanceState::Stopping => 4,
        InstanceState::Failed | InstanceState::Lost => 5,
    };
    (class, instance.since, instance.id)
}
