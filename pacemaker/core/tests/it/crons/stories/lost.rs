//! Requests whose outcome nobody tells, and reports that come too late.

use common::application::Overlap;
use common::id::NodeId;
use common::time::Span;
use pacemaker_core::command::{
    Command, CronReport, CronResult, Outcome, RejectionCode, SkipReason,
};
use pacemaker_core::state::crons::RunPhase;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, cron, with_crons};

#[test]
fn lost_request_keeps_the_next_run_away_until_it_cannot_go_on() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.run_for(40 * SECOND);

    world.kill_leader();
    world.run_for(11 * MINUTE);

    let calls: Vec<_> = world
        .calls
        .iter()
        .map(|call| (call.sent, call.ends))
        .collect();
    assert!(
        calls.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{calls:?}"
    );
    assert_eq!(calls.len(), 3);
    let phases = world.phases(application, "tick");
    assert_eq!(
        phases[..2],
        [RunPhase::Lost, RunPhase::Skipped(SkipReason::Overlap)]
    );
}

#[test]
fn lost_request_is_not_replaced_while_it_may_go_on() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "* * * * *");
    tick.overlap = Overlap::Replace;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.run_for(40 * SECOND);

    world.kill_leader();
    world.run_for(3 * MINUTE);
    let refused = world.start_run(application, "tick").unwrap_err();
    assert_eq!(refused.code, RejectionCode::Busy);
    world.run_for(3 * MINUTE);

    let [first, second, ..] = &world.calls[..] else {
        panic!("{:?}", world.calls);
    };
    assert!(first.ends <= second.sent, "{:?}", world.calls);
    let phases = world.phases(application, "tick");
    assert_eq!(
        phases[..2],
        [RunPhase::Lost, RunPhase::Skipped(SkipReason::Overlap)]
    );
}

#[test]
fn run_that_is_asked_for_waits_for_a_lost_request_also_where_the_log_is_ahead() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.run_for(HOUR - 20 * SECOND);
    world.kill_leader();
    world.run_for(SECOND);
    world.step_clock(10 * 60_000);
    world.upload_again();
    world.step_clock(-10 * 60_000);

    world.start_run(application, "tick").unwrap();
    world.run_for(10 * MINUTE);

    let [first, second] = &world.calls[..] else {
        panic!("{:?}", world.calls);
    };
    assert!(first.ends <= second.sent, "{:?}", world.calls);
}

#[test]
fn request_that_was_sent_late_and_lost_is_waited_for_from_when_it_was_sent() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 1;
    world.deploy(&with_crons("hello", vec![tick]));
    world.takes = (300 * SECOND, 300 * SECOND);
    world.run_for(HOUR - 31 * SECOND);
    world.sleep_for(SECOND);
    let command = world.decisions().unwrap();
    let grants = world.commit(&command);
    world.sleep_for(2 * SECOND);
    world.send(grants[0]);

    world.kill_leader();
    world.run_for(6 * MINUTE);

    let [first, second] = &world.calls[..] else {
        panic!("{:?}", world.calls);
    };
    assert!(first.ends <= second.sent, "{:?}", world.calls);
}

#[test]
fn pacemaker_that_starts_again_gives_up_what_it_ran() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.takes = (MINUTE, MINUTE);
    world.run_for(HOUR);

    world.start_again(NodeId(1));

    assert_eq!(world.phases(application, "tick"), [RunPhase::Lost]);
    // Its late answer is still the truth.
    world.run_for(2 * MINUTE);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
}

#[test]
fn report_of_another_attempt_is_refused_alone() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "* * * * *");
    tick.retries = 1;
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.failures = 1;
    world.takes = (SECOND, SECOND);
    world.run_for(32 * SECOND + 500);
    let run = world.runs(application, "tick")[0].id;
    let report = |attempt, result| CronReport {
        run,
        attempt,
        instance: None,
        status: Some(200),
        ended: world.wall(),
        duration: Span(1),
        result,
        words: "answered 200".to_owned(),
    };
    let reports = vec![
        report(1, CronResult::Succeeded),
        report(3, CronResult::Succeeded),
        report(2, CronResult::Succeeded),
        report(2, CronResult::Failed),
    ];

    let outcome = world.apply(&Command::ReportCronRuns {
        runner: world.leader,
        reports,
    });

    let stale = vec![run; 3];
    assert_eq!(outcome, Ok(Outcome::CronRunsReported { stale }));
    let run = &world.runs(application, "tick")[0];
    assert_eq!(
        (run.phase, run.attempts, run.status),
        (RunPhase::Succeeded, 2, Some(200))
    );
}

#[test]
fn attempt_that_nobody_reports_is_given_up_after_its_timeout_though_its_pacemaker_lives() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.run_for(HOUR - 31 * SECOND);
    world.sleep_for(2 * SECOND);
    let command = world.decisions().unwrap();
    world.commit(&command);

    world.run_for(4 * MINUTE);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Running]);
    world.run_for(8 * MINUTE);

    assert_eq!(world.phases(application, "tick"), [RunPhase::Lost]);
}
