//! The plan's cases, and its properties in a modelled node.

use std::collections::BTreeMap;

use common::assignment::AssignedInstance;
use common::instance::{Failure, FailureCode};
use common::time::Span;
use proptest::prelude::*;

use super::*;
use crate::failure::failure;
use crate::local::{Event, HeldBuild, StopReason};
use crate::ports::{Ports, Proof};
use crate::samples;

const NOW: Moment = Moment(10_000);
const ONE: InstanceId = InstanceId(1);

const ALL_FREE: Proof = Proof {
    is_free: |_| true,
    is_silent: |_| true,
};

fn check(assigned: Option<AssignedInstance>, held: Held, expected: &[HeartAction]) {
    let local = Local {
        instances: BTreeMap::from([(ONE, held)]),
        ..Local::default()
    };
    let assignment = samples::assignment(assigned.into_iter().collect());
    assert_eq!(plan(&assignment, &local, NOW), expected);
}

fn with(condition: Condition) -> Held {
    let mut held = samples::laid_out(&samples::instance(1));
    held.condition = condition;
    held
}

fn running() -> Condition {
    Condition::Running {
        process: samples::process(7),
        since: Moment(0),
    }
}

fn stopping(kill_at: Moment) -> Condition {
    Condition::Stopping {
        process: samples::process(7),
        kill_at,
        reason: StopReason::NotWanted,
    }
}

fn failed() -> Failure {
    failure(FailureCode::Exited, "it ended")
}

fn registered() -> AssignedInstance {
    AssignedInstance {
        goal: InstanceGoal::Registered,
        ..samples::instance(1)
    }
}

#[test]
fn a_new_instance_is_laid_out_then_launched() {
    let assigned = samples::instance(1);

    check(
        Some(assigned.clone()),
        samples::held(&assigned),
        &[HeartAction::LayOut(ONE)],
    );
    check(
        Some(assigned.clone()),
        samples::laid_out(&assigned),
        &[HeartAction::Launch(ONE)],
    );
}

#[test]
fn an_instance_that_is_to_be_registered_is_laid_out_and_no_more() {
    let assigned = registered();

    check(
        Some(assigned.clone()),
        samples::held(&assigned),
        &[HeartAction::LayOut(ONE)],
    );
    check(Some(assigned.clone()), samples::laid_out(&assigned), &[]);
    check(Some(assigned), with(running()), &[HeartAction::Stop(ONE)]);
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    check(Some(samples::instance(1)), with(running()), &[]);
    let starting = with(Condition::Starting(samples::process(7)));
    check(Some(samples::instance(1)), starting, &[]);
}

#[test]
fn an_unassigned_instance_is_stopped_then_removed() {
    check(None, with(running()), &[HeartAction::Stop(ONE)]);
    check(None, with(stopping(Moment(10_001))), &[]);
    check(None, with(stopping(NOW)), &[HeartAction::Kill(ONE)]);
    check(None, with(Condition::Idle), &[HeartAction::Remove(ONE)]);
}

#[test]
fn an_unassigned_instance_is_removed_at_once_however_long_its_back_off() {
    let mut held = with(Condition::Idle);
    held.entry.failure = Some(failed());
    held.retry_at = Some(Moment(300_000));

    check(None, held.clone(), &[HeartAction::Remove(ONE)]);

    held.remove_again_at = Some(Moment(11_000));
    check(None, held, &[]);
}

#[test]
fn a_failed_instance_waits_for_its_time() {
    let mut held = with(Condition::Idle);
    held.retry_at = Some(Moment(10_001));
    check(Some(samples::instance(1)), held.clone(), &[]);

    held.retry_at = Some(NOW);
    check(
        Some(samples::instance(1)),
        held.clone(),
        &[HeartAction::Launch(ONE)],
    );

    held.entry.is_laid_out = false;
    check(
        Some(samples::instance(1)),
        held,
        &[HeartAction::LayOut(ONE)],
    );
}

#[test]
fn a_process_that_failed_its_check_is_stopped() {
    let failing = Condition::Failing {
        process: samples::process(7),
        failure: failed(),
    };
    check(
        Some(samples::instance(1)),
        with(failing.clone()),
        &[HeartAction::Stop(ONE)],
    );
    check(None, with(failing), &[HeartAction::Stop(ONE)]);
}

#[test]
fn work_that_is_no_longer_wanted_is_given_up() {
    let with_work = |work| {
        let mut held = with(Condition::Idle);
        held.work = Some(work);
        held
    };
    let give_up = [HeartAction::GiveUp(ONE)];

    check(Some(samples::instance(1)), with_work(Work::LayingOut), &[]);
    check(Some(registered()), with_work(Work::LayingOut), &[]);
    check(None, with_work(Work::LayingOut), &give_up);
    check(Some(samples::instance(1)), with_work(Work::Launching), &[]);
    check(Some(registered()), with_work(Work::Launching), &give_up);
    check(None, with_work(Work::Launching), &give_up);
    check(None, with_work(Work::GivingUp), &[]);
    check(None, with_work(Work::Removing), &[]);
}

#[test]
fn an_instance_with_other_code_is_replaced() {
    let mut assigned = samples::instance(1);
    assigned.package = samples::package("other");

    check(
        Some(assigned.clone()),
        with(running()),
        &[HeartAction::Stop(ONE)],
    );
    check(
        Some(assigned),
        with(Condition::Idle),
        &[HeartAction::Remove(ONE)],
    );
}

#[test]
fn exclusive_instances_obey_the_fence() {
    let mut exclusive = samples::instance(1);
    exclusive.exclusive = true;
    let check = |fence, held: Held, expected: &[HeartAction]| {
        let mut local = Local {
            instances: BTreeMap::from([(ONE, held)]),
            ..Local::default()
        };
        local.fence = fence;
        let assignment = samples::assignment(vec![exclusive.clone()]);
        assert_eq!(plan(&assignment, &local, NOW), expected);
    };

    check(
        Fence::Open,
        with(Condition::Idle),
        &[HeartAction::Launch(ONE)],
    );
    check(Fence::Unconfirmed, with(Condition::Idle), &[]);
    check(Fence::Unconfirmed, with(running()), &[]);
    check(Fence::Closed, with(running()), &[HeartAction::Stop(ONE)]);
    check(Fence::Closed, with(Condition::Idle), &[]);
}

#[test]
fn the_grace_of_the_manifest_holds_but_behind_a_closed_fence() {
    let mut exclusive = samples::instance(1);
    exclusive.exclusive = true;
    exclusive.stop.grace = Span::seconds(30);
    let mut local = Local {
        instances: BTreeMap::from([(ONE, samples::held(&exclusive))]),
        ..Local::default()
    };
    let assignment = samples::assignment(vec![exclusive]);

    assert_eq!(kill_at(&assignment, &local, ONE, NOW), Moment(55_000));
    local.fence = Fence::Closed;
    assert_eq!(kill_at(&assignment, &local, ONE, NOW), Moment(11_000));
}

#[test]
fn builds_begin_once_and_are_given_up_or_forgotten() {
    let job = JobId(3);
    let mut assignment = samples::assignment(Vec::new());
    assignment.builds = vec![samples::build(3)];
    let mut local = Local::default();
    assert_eq!(plan(&assignment, &local, NOW), [HeartAction::Build(job)]);

    let mut build = HeldBuild {
        state: BuildState::Running,
        is_aborted: false,
    };
    local.builds.insert(job, build.clone());
    assert_eq!(plan(&assignment, &local, NOW), []);

    assignment.builds.clear();
    assert_eq!(
        plan(&assignment, &local, NOW),
        [HeartAction::AbortBuild(job)]
    );
    build.is_aborted = true;
    local.builds.insert(job, build.clone());
    assert_eq!(plan(&assignment, &local, NOW), []);
    build.state = BuildState::Failed { failure: failed() };
    local.builds.insert(job, build);
    assert_eq!(
        plan(&assignment, &local, NOW),
        [HeartAction::ForgetBuild(job)]
    );
}

/// A node whose tasks do what they are told, or fail, at the test's choice.
struct Model {
    assignment: Assignment,
    local: Local,
    now: Moment,
    next_pid: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            assignment: samples::assignment(Vec::new()),
            local: Local {
                ports: Ports::new(&(100..=120), &[]),
                ..Local::default()
            },
            now: Moment(0),
            next_pid: 10,
        }
    }

    /// Carries out the plan: notes what begins; returns how often each instance was named.
    fn act(&mut self) -> BTreeMap<InstanceId, usize> {
        let mut named = BTreeMap::new();
        self.local.meet(&self.assignment, "boot");
        for action in plan(&self.assignment, &self.local, self.now) {
            let id = match action {
                HeartAction::LayOut(id) => {
                    self.local.begin_lay_out(id);
                    id
                }
                HeartAction::Launch(id) => {
                    let assigned = self.assignment.instances.iter().find(|one| one.id == id);
                    let started = self
                        .local
                        .begin_launch(assigned.unwrap(), ALL_FREE, self.now);
                    assert!(started.is_ok());
                    id
                }
                HeartAction::GiveUp(id) => {
                    self.local.begin_giving_up(id);
                    id
                }
                HeartAction::Stop(id) | HeartAction::Kill(id) => {
                    let at = kill_at(&self.assignment, &self.local, id, self.now);
                    self.local.begin_stop(id, at);
                    id
                }
                HeartAction::Remove(id) => {
                    self.local.begin_remove(id);
                    id
                }
                HeartAction::Build(_)
                | HeartAction::AbortBuild(_)
                | HeartAction::ForgetBuild(_) => {
                    unreachable!("the model has no builds")
                }
            };
            *named.entry(id).or_default() += 1;
        }
        named
    }

    /// Ends the work of an instance, well or not; or something happens to its process.
    fn happen(&mut self, instance: InstanceId, is_well: bool) {
        let Some(held) = self.local.instances.get(&instance) else {
            return;
        };
        let run = held.entry.runs;
        let outcome = if is_well { Ok(()) } else { Err(failed()) };
        self.next_pid += 2;
        let process = samples::process(self.next_pid);
        let event = match (held.work, &held.condition) {
            (Some(Work::LayingOut), _) => Event::LaidOut { instance, outcome },
            (Some(Work::Launching), _) => Event::Launched {
                instance,
                outcome: outcome.map(|()| process),
            },
            (Some(Work::GivingUp), _) if held.entry.is_laid_out => Event::Launched {
                instance,
                outcome: outcome
                    .map(|()| process)
                    .map_err(|_| failure(FailureCode::Aborted, "given up")),
            },
            (Some(Work::GivingUp), _) => Event::LaidOut {
                instance,
                outcome: outcome.map_err(|_| failure(FailureCode::Aborted, "given up")),
            },
            (Some(Work::Removing), _) => Event::Removed {
                instance,
                is_gone: is_well,
            },
            (None, Condition::Idle) => return,
            (None, Condition::Starting(_)) if is_well => Event::Passed { instance, run },
            (None, Condition::Starting(_)) => Event::CheckFailed {
                instance,
                run,
                failure: failure(FailureCode::PortTaken, "taken"),
            },
            (None, _) => Event::Ended {
                was_cut_off: false,
                instance,
                run,
                failure: failed(),
            },
        };
        self.local.apply(event, self.now);
    }

    fn converge(&mut self) {
        for _ in 0..1000 {
            self.act();
            let ids: Vec<InstanceId> = self.local.instances.keys().copied().collect();
            for id in ids {
                let is_up = matches!(
                    self.local.instances[&id].condition,
                    Condition::Running { .. }
                );
                if !is_up {
                    self.happen(id, true);
                }
            }
            if let Some(deadline) = self.local.next_deadline(self.now) {
                self.now = deadline;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Assign(Vec<(u64, bool)>),
    Happen(u64, bool),
    Wait(u64),
    Fence(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => prop::collection::btree_map(1_u64..6, any::<bool>(), 0..6)
            .prop_map(|instances| Step::Assign(instances.into_iter().collect())),
        8 => (1_u64..6, any::<bool>()).prop_map(|(id, is_well)| Step::Happen(id, is_well)),
        2 => (0_u64..400_000).prop_map(Step::Wait),
        1 => (0_u8..3).prop_map(Step::Fence),
    ]
}

fn take(model: &mut Model, step: &Step) {
    match step {
        Step::Assign(instances) => {
            model.assignment.instances = instances
                .iter()
                .map(|(id, is_running)| AssignedInstance {
                    goal: if *is_running {
                        InstanceGoal::Running
                    } else {
                        InstanceGoal::Registered
                    },
                    exclusive: id % 2 == 0,
                    ..samples::instance(*id)
                })
                .collect();
        }
        Step::Happen(id, is_well) => model.happen(InstanceId(*id), *is_well),
        Step::Wait(span) => model.now = model.now.after(Span(*span)),
        Step::Fence(choice) => {
            model.local.fence =
                [Fence::Open, Fence::Unconfirmed, Fence::Closed][usize::from(*choice)];
        }
    }
    model.local.settle(model.now);
}

proptest! {
    #[test]
    fn no_instance_is_named_twice_and_no_port_shared(steps in prop::collection::vec(step(), 0..200)) {
        let mut model = Model::new();
        for step in &steps {
            take(&mut model, step);
            for (id, count) in model.act() {
                prop_assert_eq!(count, 1, "{:?}", id);
            }
            let mut ports: Vec<u16> = model
                .local
                .instances
                .values()
                .filter_map(|held| held.entry.port)
                .collect();
            let count = ports.len();
            ports.sort_unstable();
            ports.dedup();
            prop_assert_eq!(ports.len(), count);
        }
    }

    #[test]
    fn a_plan_that_is_carried_out_is_not_made_again(steps in prop::collection::vec(step(), 0..200)) {
        let mut model = Model::new();
        for step in &steps {
            take(&mut model, step);
            model.act();
            prop_assert_eq!(plan(&model.assignment, &model.local, model.now), []);
        }
    }

    #[test]
    fn a_node_converges_once_nothing_fails_any_more(steps in prop::collection::vec(step(), 0..200)) {
        let mut model = Model::new();
        for step in &steps {
            take(&mut model, step);
            model.act();
        }
        model.local.fence = Fence::Open;

        model.converge();

        let ids: Vec<InstanceId> = model.local.instances.keys().copied().collect();
        let assigned: Vec<InstanceId> =
            model.assignment.instances.iter().map(|one| one.id).collect();
        prop_assert_eq!(ids, assigned);
        for one in &model.assignment.instances {
            let held = &model.local.instances[&one.id];
            let is_running = matches!(held.condition, Condition::Running { .. });
            prop_assert_eq!(is_running, one.goal == InstanceGoal::Running);
            prop_assert!(held.entry.is_laid_out);
        }
        let held = model.local.instances.values().filter(|held| held.entry.port.is_some());
        prop_assert_eq!(held.count() + model.local.ports.free_count(), 21);
    }
}
