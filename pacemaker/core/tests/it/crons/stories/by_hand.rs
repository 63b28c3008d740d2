//! What a person does to a cron: asks for a run, suspends it, resumes it.

use common::api::CronRunState;
use common::time::Timestamp;
use pacemaker_core::command::{Outcome, RejectionCode};
use pacemaker_core::state::crons::RunPhase;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, START, cron, with_crons};

#[test]
fn run_that_is_asked_for_begins_at_once_and_overlap_is_heeded() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "@yearly")]));
    world.takes = (10 * SECOND, 10 * SECOND);

    let Ok(Outcome::CronRun(run)) = world.start_run(application, "tick") else {
        panic!("a run");
    };
    let view = world.state.cron_run_view(run).unwrap();
    assert_eq!(view.state, CronRunState::Waiting);
    world.run_for(SECOND);
    let refused = world.start_run(application, "tick").unwrap_err();
    world.run_for(10 * SECOND);

    assert_eq!(refused.code, RejectionCode::Busy);
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.calls[0].sent, Timestamp(START));
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
    let unknown = world.start_run(application, "tock").unwrap_err();
    assert_eq!(unknown.code, RejectionCode::CronNotFound);
    assert!(unknown.message.contains("`web/tick`"), "{unknown}");
}

#[test]
fn suspended_cron_runs_only_when_it_is_asked_to_and_goes_on_from_the_next_slot() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(MINUTE);

    world.suspend(application, "tick");
    world.run_for(10 * MINUTE);
    world.start_run(application, "tick").unwrap();
    world.run_for(SECOND);
    world.resume(application, "tick");
    world.run_for(MINUTE);

    let first = START + 30 * SECOND;
    let manual: Vec<bool> = world.calls.iter().map(|call| call.is_manual).collect();
    assert_eq!(manual, [false, true, false]);
    assert_eq!(world.calls[2].scheduled, Timestamp(first + 11 * MINUTE));
    assert_eq!(
        world.phases(application, "tick"),
        [RunPhase::Succeeded; 3],
        "nothing was missed"
    );
}

#[test]
fn suspended_cron_is_not_tried_again() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 5;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.run_for(HOUR - 25 * SECOND);

    world.suspend(application, "tick");
    world.run_for(HOUR);

    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("suspended"), "{run:?}");
}

#[test]
fn run_that_was_asked_for_and_that_nobody_began_in_time_is_not_made() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "@yearly")]));
    world.start_run(application, "tick").unwrap();

    world.sleep_for(72 * HOUR);
    world.kill_leader();
    world.run_for(SECOND);

    assert_eq!(world.calls.len(), 0);
    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("not run"), "{run:?}");
}
