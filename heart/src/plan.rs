//! Decides what to do next about what should run and what does: pure, and safe to ask again.
//!
//! [`plan`] compares the [`Assignment`] with the [`Local`] and lists [`HeartAction`]s. It remembers
//! nothing: an action whose work is under way shows in `Local`, so that it is not listed again, and
//! one that was lost is listed again at the next tick. It never touches anything.

use std::collections::BTreeMap;

use common::assignment::{AssignedInstance, Assignment, BuildState};
use common::id::{InstanceId, JobId};
use common::instance::InstanceGoal;
use common::time::Span;

use crate::clock::Moment;
use crate::local::{Condition, FENCE_GRACE, Fence, Held, KILL_MARGIN, Local, Work};

/// Something that the heart should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartAction {
    /// Make the instance's directory: fetch, unpack, copy.
    LayOut(InstanceId),
    /// Run the startup commands when they are due, then start the process.
    Launch(InstanceId),
    /// Tell the work under way to give up.
    GiveUp(InstanceId),
    /// Ask the process to end.
    Stop(InstanceId),
    /// Kill what is left of the process.
    Kill(InstanceId),
    /// Delete the instance's directory and forget it.
    Remove(InstanceId),
    /// Carry out a build.
    Build(JobId),
    /// Tell a running build to give up.
    AbortBuild(JobId),
    /// Forget a build that has ended.
    ForgetBuild(JobId),
}

/// What is wanted of an instance, here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Nothing of it may stay.
    Gone,
    /// On disk, without a process.
    LaidOut,
    /// Running.
    Running,
}

/// Lists what to do, in the order of ids, first for instances and then for builds.
#[must_use]
pub fn plan(assignment: &Assignment, local: &Local, now: Moment) -> Vec<HeartAction> {
    let assigned: BTreeMap<InstanceId, &AssignedInstance> = assignment
        .instances
        .iter()
        .map(|instance| (instance.id, instance))
        .collect();
    let instances = local.instances.iter().filter_map(|(id, held)| {
        let wish = wish(assigned.get(id).copied(), held, local.fence);
        plan_instance(*id, held, wish, now)
    });
    instances.chain(plan_builds(assignment, local)).collect()
}

/// When a process that is told to end at `now` is to be killed by the heart itself.
#[must_use]
pub fn kill_at(assignment: &Assignment, local: &Local, id: InstanceId, now: Moment) -> Moment {
    let is_exclusive = assignment
        .instances
        .iter()
        .any(|assigned| assigned.id == id && assigned.exclusive);
    if is_exclusive && local.fence == Fence::Closed {
        return now.after(FENCE_GRACE);
    }
    let grace = local
        .instances
        .get(&id)
        .map_or(Span(0), |held| held.entry.grace);
    now.after(grace).after(KILL_MARGIN)
}

fn wish(assigned: Option<&AssignedInstance>, held: &Held, fence: Fence) -> Wish {
    let Some(assigned) = assigned else {
        return Wish::Gone;
    };
    if assigned.package.digest != held.entry.package.digest {
        return Wish::Gone;
    }
    let is_allowed = match fence {
        Fence::Open => true,
        Fence::Unconfirmed => held.condition != Condition::Idle,
        Fence::Closed => false,
    };
    match assigned.goal {
        InstanceGoal::Registered => Wish::LaidOut,
        InstanceGoal::Running if assigned.exclusive && !is_allowed => Wish::LaidOut,
        InstanceGoal::Running => Wish::Running,
    }
}

fn plan_instance(id: InstanceId, held: &Held, wish: Wish, now: Moment) -> Option<HeartAction> {
    if let Some(work) = held.work {
        let is_wanted = match work {
            Work::LayingOut => wish != Wish::Gone,
            Work::Launching => wish == Wish::Running,
            Work::GivingUp | Work::Removing => true,
        };
        return (!is_wanted).then_some(HeartAction::GiveUp(id));
    }
    match (&held.condition, wish) {
        (Condition::Stopping { kill_at, .. }, _) => {
            (*kill_at <= now).then_some(HeartAction::Kill(id))
        }
        (Condition::Failing { .. }, _)
        | (Condition::Starting(_) | Condition::Running { .. }, Wish::Gone | Wish::LaidOut) => {
            Some(HeartAction::Stop(id))
        }
        (Condition::Starting(_) | Condition::Running { .. }, Wish::Running) => None,
        (Condition::Idle, _) if !held.is_due(now) && wish != Wish::Gone => None,
        (Condition::Idle, Wish::Gone) => held.is_removable(now).then_some(HeartAction::Remove(id)),
        (Condition::Idle, Wish::LaidOut | Wish::Running) if !held.entry.is_laid_out => {
            Some(HeartAction::LayOut(id))
        }
        (Condition::Idle, Wish::LaidOut) => None,
        (Condition::Idle, Wish::Running) => Some(HeartAction::Launch(id)),
    }
}

fn plan_builds<'a>(
    assignment: &'a Assignment,
    local: &'a Local,
) -> impl Iterator<Item = HeartAction> + 'a {
    let begin = assignment
        .builds
        .iter()
        .filter(|build| !local.builds.contains_key(&build.job))
        .map(|build| HeartAction::Build(build.job));
    let end = local.builds.iter().filter_map(|(job, held)| {
        let is_assigned = assignment.builds.iter().any(|build| build.job == *job);
        match held.state {
            _ if is_assigned => None,
            BuildState::Running if held.is_aborted => None,
            BuildState::Running => Some(HeartAction::AbortBuild(*job)),
            BuildState::Succeeded { .. } | BuildState::Failed { .. } => {
                Some(HeartAction::ForgetBuild(*job))
            }
        }
    });
    begin.chain(end)
}

#[cfg(test)]
mod tests;
