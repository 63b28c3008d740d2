//! Leaders that die or are deposed between a slot and its outcome (faults.md, C1 and C2).

use common::time::Span;
use pacemaker_core::command::{Command, CronGrant, CronReport, CronResult, Outcome};
use pacemaker_core::state::crons::RunPhase;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, START, cron, with_crons};

#[test]
fn c1_slot_whose_leader_dies_before_the_record_is_fired_by_the_next() {
    let mut world = CronWorld::new(1);
    world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(20 * SECOND);
    world.sleep_for(11 * SECOND);
    assert!(world.decisions().is_some());

    world.kill_leader();
    world.run_for(30 * SECOND);

    assert_eq!(world.called("tick"), [START + 30 * SECOND]);
}

#[test]
fn c1_slot_whose_leader_dies_after_the_record_is_not_fired_again_and_says_so() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(20 * SECOND);
    world.sleep_for(11 * SECOND);
    let command = world.decisions().unwrap();
    assert_eq!(world.commit(&command).len(), 1);

    world.kill_leader();
    world.run_for(20 * SECOND);

    assert_eq!(world.called("tick"), Vec::<u64>::new());
    let runs = world.runs(application, "tick");
    assert_eq!(runs[0].phase, RunPhase::Lost);
    assert!(runs[0].words.contains("nobody knows"), "{runs:?}");
}

#[test]
fn c1_retries_make_it_at_least_once_with_the_same_run() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 2;
    tick.timeout = Span::seconds(10);
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.takes = (5 * SECOND, 5 * SECOND);
    world.run_for(HOUR - 28 * SECOND);
    assert_eq!(world.calls.len(), 1);

    world.kill_leader();
    world.run_for(MINUTE);

    let attempts: Vec<_> = world
        .calls
        .iter()
        .map(|call| (call.run, call.attempt))
        .collect();
    let run = world.calls[0].run;
    assert_eq!(attempts, [(run, 1), (run, 2)]);
    // The first request may have gone on until its timeout.
    assert!(world.calls[1].sent >= world.calls[0].sent.after(Span::seconds(10)));
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
}

#[test]
fn c1_outcome_that_a_deposed_leader_tells_counts() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "0 * * * *")]));
    world.takes = (20 * SECOND, 20 * SECOND);
    world.run_for(HOUR - 25 * SECOND);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Running]);

    world.elect();
    world.run_for(MINUTE);

    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
}

#[test]
fn c2_decision_of_a_deposed_leader_does_nothing() {
    let mut world = CronWorld::new(1);
    world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(20 * SECOND);
    world.sleep_for(11 * SECOND);
    let stale = world.decisions().unwrap();
    world.elect();
    world.run_for(SECOND);

    let granted = world.commit(&stale);

    assert_eq!(granted, []);
    assert_eq!(world.called("tick").len(), 1);
}

#[test]
fn c2_grant_that_its_leader_hears_of_after_others_have_led_is_nothing_to_it() {
    let mut world = CronWorld::new(1);
    let mut tick = cron("tick", "0 * * * *");
    tick.retries = 2;
    tick.timeout = Span::seconds(20);
    let application = world.deploy(&with_crons("hello", vec![tick]));
    world.run_for(HOUR - 31 * SECOND);
    world.sleep_for(2 * SECOND);
    let command = world.decisions().unwrap();
    let grants = world.commit(&command);
    let deposed = world.leader;

    world.kill_leader();
    world.takes = (10 * SECOND, 10 * SECOND);
    world.run_for(25 * SECOND);

    let run = world.runs(application, "tick")[0].clone();
    assert_eq!((run.phase, run.attempts), (RunPhase::Running, 2));
    assert_eq!(world.state.cron_call(grants[0], deposed), None);
    let present = CronGrant {
        run: run.id,
        attempt: 2,
    };
    assert_eq!(world.state.cron_call(present, deposed), None);
    assert!(world.state.cron_call(present, world.leader).is_some());
    let reports = [1, 2].map(|attempt| CronReport {
        run: run.id,
        attempt,
        instance: None,
        status: None,
        ended: world.wall(),
        duration: Span(0),
        result: CronResult::Lost,
        words: "not sent".to_owned(),
    });
    let command = Command::ReportCronRuns {
        runner: deposed,
        reports: reports.to_vec(),
    };
    let stale = vec![run.id; 2];
    let outcome = world.apply(&command);
    assert_eq!(outcome, Ok(Outcome::CronRunsReported { stale }));
    world.run_for(10 * SECOND);
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded]);
    assert_eq!(world.calls.len(), 1);
}
