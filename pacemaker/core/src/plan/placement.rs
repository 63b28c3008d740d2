//! Where instances are, against where they are wanted: place, start, withdraw, stop, remove.

use common::application::InstanceTypeSpec;
use common::instance::InstanceGoal;
use common::job::StepName;
use common::time::Timestamp;

use super::candidates::{Candidates, Order};
use super::{Release, Wishes};
use crate::action::Action;
use crate::desire::{TypeDesire, Wanted};
use crate::state::State;
use crate::state::records::{Application, Exposure, Instance, JobRecord, Version};

/// Plans for an application of which nothing else is wished in this tick; true when it is as wanted
/// and stays so until it changes.
pub(super) fn plan(
    wishes: &mut Wishes<'_>,
    application: &Application,
    candidates: &mut Candidates,
) -> bool {
    let before = wishes.actions.len();
    presume_stopped(wishes, application);
    if wishes.actions.len() > before {
        return false;
    }
    let mut is_at_rest = application.switch.is_none() && !is_building(wishes, application);
    for version in application.versions.values() {
        for spec in &version.spec.instance_types {
            is_at_rest &= plan_type(wishes, application, version, spec, candidates);
        }
    }
    is_at_rest
}

fn is_building(wishes: &Wishes<'_>, application: &Application) -> bool {
    let job = wishes.state.running_job(application);
    job.and_then(JobRecord::step) == Some(StepName::Prepare)
}

/// When instances that left the table may be stopped though requests are in flight, and lost ones
/// presumed to be.
pub(super) fn deadlines(
    state: &State,
    application: &Application,
    elected: Timestamp,
) -> impl Iterator<Item = Timestamp> {
    let limit = state.settings().drain_limit;
    application
        .versions
        .values()
        .flat_map(|version| &version.instances)
        .filter_map(|id| state.instances.get(id))
        .filter_map(move |instance| {
            if let Some(since) = instance.draining_since.filter(|_| instance.assigned) {
                return Some(since.after(limit));
            }
            presumed_stopped_at(state, instance, elected)
        })
}

/// When a lost instance of an exclusive type that is not wanted to run can have no process.
///
/// All of the wait is counted by one leader with a clock that stood still for nobody: what a leader
/// before it counted, or a clock that has been set since, says nothing about the time that has passed.
fn presumed_stopped_at(
    state: &State,
    instance: &Instance,
    elected: Timestamp,
) -> Option<Timestamp> {
    state
        .may_still_run_until(instance, elected)
        .filter(|_| !instance.wants_process())
}

/// Lost instances that were removed are in nobody's desire, but a successor may wait for them.
fn presume_stopped(wishes: &mut Wishes<'_>, application: &Application) {
    let (state, elected) = (wishes.state, wishes.sightings.elected);
    let is_exclusive = |spec: &InstanceTypeSpec| spec.exclusive;
    for version in application.versions.values() {
        if !version.spec.instance_types.iter().any(is_exclusive) {
            continue;
        }
        for instance in version
            .instances
            .iter()
            .filter_map(|id| state.instances.get(id))
        {
            if presumed_stopped_at(state, instance, elected).is_some_and(|at| wishes.now >= at) {
                wishes.wish(Action::PresumeStopped {
                    instance: instance.id,
                    generation: instance.generation,
                });
            }
        }
    }
}

/// Plans for one type of one version; true when it is as wanted and stays so until it changes.
fn plan_type(
    wishes: &mut Wishes<'_>,
    application: &Application,
    version: &Version,
    spec: &InstanceTypeSpec,
    candidates: &mut Candidates,
) -> bool {
    let state = wishes.state;
    let desire = state.desire(application, version, spec);
    move_instances(wishes, spec, &desire);
    place_missing(wishes, application, version, spec, &desire, candidates);
    let are_gone = !spec.exclusive
        || version
            .instances
            .iter()
            .filter_map(|id| state.instances.get(id))
            .all(|instance| instance.assigned || instance.quiet);
    are_gone
        && desire.missing == 0
        && !desire.is_moving
        && desire
            .wanted
            .iter()
            .all(|(instance, wanted)| is_told(instance, *wanted))
}

/// True when an instance has been told what is wanted of it.
fn is_told(instance: &Instance, wanted: Wanted) -> bool {
    match wanted {
        Wanted::Running => {
            instance.goal == InstanceGoal::Running && instance.exposure != Exposure::Withdrawn
        }
        Wanted::Registered => instance.goal == InstanceGoal::Registered,
        Wanted::Gone => false,
    }
}

fn move_instances(wishes: &mut Wishes<'_>, spec: &InstanceTypeSpec, desire: &TypeDesire<'_>) {
    for (instance, wanted) in &desire.wanted {
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
    desire: &TypeDesire<'_>,
    candidates: &mut Candidates,
) {
    let state = wishes.state;
    let missing = usize::try_from(desire.missing).unwrap_or(usize::MAX);
    let count = missing.min(wishes.room());
    if version.package.is_none() || count == 0 {
        return;
    }
    let present = desire.wanted.iter().map(|(instance, _)| instance.node);
    let order = Order {
        spec,
        present: present.collect(),
        worn: &desire.worn,
        count,
    };
    for node in candidates.choose(state, wishes.sightings, &order) {
        wishes.wish(Action::Place {
            application: application.id,
            version: version.number,
            instance_type: spec.name.clone(),
            node,
        });
    }
}
