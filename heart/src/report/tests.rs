//! What a pacemaker sees of an instance in each of its conditions.

use common::instance::{Failure, FailureCode};

use super::*;
use crate::clock::Moment;
use crate::failure::failure;
use crate::samples;

fn check(held: &Held, goal: Option<InstanceGoal>, expected: InstanceState) {
    assert_eq!(state(held, goal), expected);
}

fn with(condition: Condition) -> Held {
    let mut held = samples::laid_out(&samples::instance(1));
    held.entry.runs = 1;
    held.condition = condition;
    held
}

fn failed(code: FailureCode) -> Failure {
    failure(code, "why")
}

const RUNNING: Option<InstanceGoal> = Some(InstanceGoal::Running);
const REGISTERED: Option<InstanceGoal> = Some(InstanceGoal::Registered);

#[test]
fn an_instance_is_allocated_until_it_is_laid_out() {
    let held = samples::held(&samples::instance(1));
    check(&held, RUNNING, InstanceState::Allocated);

    let laid_out = samples::laid_out(&samples::instance(1));
    check(&laid_out, REGISTERED, InstanceState::Registered);
}

#[test]
fn startup_commands_belong_to_registering() {
    let mut held = samples::laid_out(&samples::instance(1));
    held.work = Some(Work::Launching);
    check(&held, RUNNING, InstanceState::Registered);

    held.entry.needs_startup = false;
    check(&held, RUNNING, InstanceState::Starting);
}

#[test]
fn a_process_starts_runs_and_stops() {
    let process = samples::process(7);
    check(
        &with(Condition::Starting(process.clone())),
        RUNNING,
        InstanceState::Starting,
    );
    let running = Condition::Running {
        process: process.clone(),
        since: Moment(0),
    };
    check(&with(running), RUNNING, InstanceState::Running);
    let stopping = Condition::Stopping {
        process,
        kill_at: Moment(1),
        reason: StopReason::NotWanted,
    };
    check(&with(stopping), REGISTERED, InstanceState::Stopping);
    check(&with(Condition::Idle), REGISTERED, InstanceState::Stopped);
    check(&with(Condition::Idle), None, InstanceState::Stopped);
}

#[test]
fn a_failed_start_is_told_before_its_process_has_ended() {
    let process = samples::process(7);
    let failing = with(Condition::Failing {
        process: process.clone(),
        failure: failed(FailureCode::NotListening),
    });
    check(&failing, RUNNING, InstanceState::Failed);
    let stopping = with(Condition::Stopping {
        process,
        kill_at: Moment(1),
        reason: StopReason::Failed(failed(FailureCode::NotListening)),
    });
    check(&stopping, RUNNING, InstanceState::Failed);

    let report = instance_report(InstanceId(1), &stopping, RUNNING);
    assert_eq!(report.failure, Some(failed(FailureCode::NotListening)));
    assert_eq!(report.pid, Some(8));
}

#[test]
fn a_stranger_on_the_port_is_told_only_when_no_other_port_is_tried() {
    let mut held = with(Condition::Failing {
        process: samples::process(7),
        failure: failed(FailureCode::PortTaken),
    });
    check(&held, RUNNING, InstanceState::Starting);

    held.ports_lost = 2;
    check(&held, RUNNING, InstanceState::Failed);
}

#[test]
fn a_failure_is_told_while_the_next_try_is_awaited() {
    let mut held = with(Condition::Idle);
    held.entry.failure = Some(failed(FailureCode::Exited));

    check(&held, RUNNING, InstanceState::Failed);
    check(&held, REGISTERED, InstanceState::Stopped);
    check(&held, None, InstanceState::Stopped);

    held.entry.is_laid_out = false;
    check(&held, REGISTERED, InstanceState::Failed);
}

#[test]
fn a_snapshot_names_everything_that_is_held() {
    let local = Local {
        instances: [1, 2]
            .map(|id| (InstanceId(id), samples::held(&samples::instance(id))))
            .into(),
        ..Local::default()
    };
    let assignment = samples::assignment(vec![samples::instance(1)]);

    let snapshot = Snapshot::of(Some(&assignment), &local);

    let states: Vec<_> = snapshot
        .instances
        .iter()
        .map(|report| (report.id.0, report.state))
        .collect();
    assert_eq!(
        states,
        [(1, InstanceState::Allocated), (2, InstanceState::Stopped)]
    );
    assert_eq!(snapshot.assignment, Generation(1));
}
