//! What events do to an instance, one case each.

use std::collections::BTreeMap;

use super::*;
use crate::local::{BACKOFF_FIRST, KILL_MARGIN};
use crate::ports::Ports;
use crate::samples;

const ONE: InstanceId = InstanceId(1);

const ALL_FREE: Proof = Proof {
    is_free: |_| true,
    is_silent: |_| true,
};

const NONE_FREE: Proof = Proof {
    is_free: |_| false,
    is_silent: |_| false,
};

/// A node with one instance that is laid out.
fn node() -> (Local, AssignedInstance) {
    let assigned = samples::instance(1);
    let local = Local {
        instances: BTreeMap::from([(ONE, samples::laid_out(&assigned))]),
        ports: Ports::new(&(100..=109), &[]),
        ..Local::default()
    };
    (local, assigned)
}

fn held(local: &Local) -> &Held {
    &local.instances[&ONE]
}

fn run(local: &Local) -> u64 {
    held(local).entry.runs
}

fn launch(local: &mut Local, assigned: &AssignedInstance, now: Moment) {
    local.begin_launch(assigned, ALL_FREE, now).unwrap();
    let launched = Event::Launched {
        instance: ONE,
        outcome: Ok(samples::process(7)),
    };
    local.apply(launched, now);
}

fn pass(local: &mut Local, now: Moment) {
    let run = run(local);
    local.apply(Event::Passed { instance: ONE, run }, now);
}

fn end(local: &mut Local, code: FailureCode, now: Moment) {
    let run = run(local);
    let ended = Event::Ended {
        was_cut_off: false,
        instance: ONE,
        run,
        failure: failure(code, "it ended"),
    };
    local.apply(ended, now);
}

#[test]
fn a_process_that_crashes_is_started_again_at_once_then_ever_later() {
    let (mut local, assigned) = node();
    let mut waits = Vec::new();
    let mut now = Moment(0);
    for _ in 0..5 {
        launch(&mut local, &assigned, now);
        pass(&mut local, now);
        end(&mut local, FailureCode::Exited, now);
        let retry_at = held(&local).retry_at.unwrap();
        waits.push(retry_at.since(now).0);
        now = retry_at;
    }

    assert_eq!(waits, [0, 1000, 2000, 4000, 8000]);
    assert_eq!(held(&local).entry.restarts, 4);
}

#[test]
fn a_process_that_ran_well_begins_its_back_off_anew() {
    let (mut local, assigned) = node();
    for _ in 0..4 {
        launch(&mut local, &assigned, Moment(0));
        pass(&mut local, Moment(0));
        end(&mut local, FailureCode::Exited, Moment(0));
    }
    launch(&mut local, &assigned, Moment(0));
    pass(&mut local, Moment(0));

    local.settle(Moment(299_999));
    assert_eq!(held(&local).entry.restarts, 4);
    local.settle(Moment(300_000));
    assert_eq!(held(&local).entry.restarts, 0);
    end(&mut local, FailureCode::Exited, Moment(300_001));
    assert_eq!(held(&local).retry_at, Some(Moment(300_001)));
}

#[test]
fn a_failure_is_told_until_the_next_start_passes() {
    let (mut local, assigned) = node();
    launch(&mut local, &assigned, Moment(0));
    end(&mut local, FailureCode::Exited, Moment(0));
    assert_eq!(held(&local).retry_at, Some(Moment(BACKOFF_FIRST.0)));
    assert!(held(&local).entry.failure.is_some());

    launch(&mut local, &assigned, Moment(1000));
    pass(&mut local, Moment(1001));

    assert_eq!(held(&local).entry.failure, None);
    assert_eq!(held(&local).entry.restarts, 1);
}

#[test]
fn a_process_that_was_told_to_end_has_not_failed() {
    let (mut local, assigned) = node();
    launch(&mut local, &assigned, Moment(0));
    pass(&mut local, Moment(0));
    local.begin_stop(ONE, Moment(30_000).after(KILL_MARGIN));

    end(&mut local, FailureCode::Exited, Moment(10));

    let held = held(&local);
    assert_eq!(held.condition, Condition::Idle);
    assert_eq!(held.entry.failure, None);
    assert_eq!(held.retry_at, None);
    assert!(held.entry.needs_startup);
    assert_eq!(held.entry.port, Some(100));
}

#[test]
fn a_check_that_fails_is_the_reason_even_though_the_process_then_ends() {
    let (mut local, assigned) = node();
    launch(&mut local, &assigned, Moment(0));
    let run = run(&local);
    local.apply(
        Event::CheckFailed {
            instance: ONE,
            run,
            failure: failure(FailureCode::NotListening, "silent"),
        },
        Moment(20_000),
    );
    local.begin_stop(ONE, Moment(50_000));
    end(&mut local, FailureCode::Exited, Moment(20_010));

    let found = held(&local).entry.failure.clone().unwrap();
    assert_eq!(found.code, FailureCode::NotListening);
    assert_eq!(held(&local).retry_at, Some(Moment(21_010)));
}

#[test]
fn a_port_that_a_stranger_holds_is_changed_and_only_the_third_counts() {
    let (mut local, assigned) = node();
    let mut ports = Vec::new();
    for _ in 0..PORT_TRIES {
        launch(&mut local, &assigned, Moment(0));
        ports.push(held(&local).entry.port.unwrap());
        assert_eq!(held(&local).entry.failure, None);
        end(&mut local, FailureCode::PortTaken, Moment(0));
        assert_eq!(held(&local).entry.port, None);
    }

    assert_eq!(ports, [100, 101, 102]);
    let found = held(&local).entry.failure.clone().unwrap();
    assert_eq!(found.code, FailureCode::PortTaken);
    assert_eq!(held(&local).retry_at, Some(Moment(1000)));
}

#[test]
fn a_range_without_a_free_port_is_a_failure() {
    let (mut local, assigned) = node();

    let refused = local.begin_launch(&assigned, NONE_FREE, Moment(5));

    assert!(refused.is_err());
    let held = held(&local);
    let found = held.entry.failure.clone().unwrap();
    assert_eq!(found.code, FailureCode::NoPort);
    assert_eq!(held.work, None);
    assert_eq!(held.retry_at, Some(Moment(1005)));
}

#[test]
fn a_standalone_instance_gets_no_port() {
    let (mut local, mut assigned) = node();
    assigned.standalone = true;

    launch(&mut local, &assigned, Moment(0));

    assert_eq!(held(&local).entry.port, None);
}

#[test]
fn an_event_of_an_earlier_run_changes_nothing() {
    let (mut local, assigned) = node();
    launch(&mut local, &assigned, Moment(0));
    end(&mut local, FailureCode::Exited, Moment(0));
    launch(&mut local, &assigned, Moment(1000));
    let before = local.clone();

    for event in [
        Event::Passed {
            instance: ONE,
            run: 1,
        },
        Event::Ended {
            was_cut_off: false,
            instance: ONE,
            run: 1,
            failure: failure(FailureCode::Exited, "late"),
        },
        Event::Passed {
            instance: InstanceId(9),
            run: 1,
        },
    ] {
        local.apply(event, Moment(1001));
    }

    assert_eq!(local, before);
}

#[test]
fn a_removed_instance_gives_its_port_back() {
    let (mut local, assigned) = node();
    launch(&mut local, &assigned, Moment(0));
    end(&mut local, FailureCode::Exited, Moment(0));
    let free = local.ports.free_count();

    local.begin_remove(ONE);
    local.apply(
        Event::Removed {
            instance: ONE,
            is_gone: false,
        },
        Moment(5),
    );
    assert!(!held(&local).is_removable(Moment(6)));
    assert!(held(&local).is_removable(Moment(1005)));
    local.begin_remove(ONE);
    local.apply(
        Event::Removed {
            instance: ONE,
            is_gone: true,
        },
        Moment(1005),
    );

    assert!(local.instances.is_empty());
    assert_eq!(local.ports.free_count(), free + 1);
}

#[test]
fn work_that_was_given_up_is_no_failure() {
    let (mut local, assigned) = node();
    local.begin_launch(&assigned, ALL_FREE, Moment(0)).unwrap();
    local.begin_giving_up(ONE);
    local.apply(
        Event::Launched {
            instance: ONE,
            outcome: Err(failure(FailureCode::Aborted, "given up")),
        },
        Moment(1),
    );

    assert_eq!(held(&local).entry.failure, None);
    assert_eq!(held(&local).work, None);
}

#[test]
fn being_registered_forgives_failures() {
    let (mut local, mut assigned) = node();
    launch(&mut local, &assigned, Moment(0));
    end(&mut local, FailureCode::Exited, Moment(0));
    assigned.goal = InstanceGoal::Registered;

    local.meet(&samples::assignment(vec![assigned]), "boot");

    assert_eq!(held(&local).entry.failure, None);
    assert_eq!(held(&local).retry_at, None);
    assert_eq!(held(&local).entry.restarts, 0);
}
