//! Attempts that fail: when they are made again, and when a cron is shown as failing.

use pacemaker_core::state::crons::RunPhase;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, cron, with_crons};

#[test]
fn failed_attempts_are_tried_again_after_a_delay_that_doubles() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 8;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.takes = (0, 0);

    world.run_for(HOUR + 30 * MINUTE);

    let sent: Vec<u64> = world.calls.iter().map(|call| call.sent.0).collect();
    let delays: Vec<u64> = sent
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) / SECOND)
        .collect();
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
    let run = &world.runs(application, "tick")[0];
    assert_eq!((run.phase, run.attempts), (RunPhase::Failed, 9));
    assert!(!run.words.is_empty());
}

#[test]
fn cron_that_fails_three_times_in_a_row_is_shown_until_it_succeeds() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.failures = 1;
    world.run_for(2 * MINUTE);
    assert_eq!(world.state.failing_crons(), []);

    world.run_for(MINUTE);

    let failing = world.state.failing_crons();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0].0, application);
    assert_eq!(failing[0].1.cron, "web/tick");
    assert_eq!(failing[0].1.failures, 3);
    let view = world.state.application_view(application, 80).unwrap();
    assert_eq!(view.failing_crons, [failing[0].1.clone()]);
    world.failures = 0;
    world.run_for(MINUTE);
    assert_eq!(world.state.failing_crons(), []);
}

#[test]
fn retry_that_nobody_began_in_time_is_not_made() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 10;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.run_for(HOUR - 20 * SECOND);
    let made = world.calls.len();

    world.sleep_for(72 * HOUR - MINUTE);
    world.kill_leader();
    world.run_for(SECOND);

    assert_eq!(world.calls.len(), made);
    let run = &world.runs(application, "tick")[0];
    assert_eq!(run.phase, RunPhase::Failed);
    assert!(run.words.contains("not tried again"), "{run:?}");
}
