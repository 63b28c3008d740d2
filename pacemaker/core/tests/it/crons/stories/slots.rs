//! When a slot is fired, what becomes of those that nobody fired, and what is kept of them.

use common::application::MissedPolicy;
use common::time::Timestamp;
use pacemaker_core::state::crons::RunPhase;
use pacemaker_core::state::limits::CRON_RUNS_KEPT;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, START, cron, key, with_crons};

#[test]
fn cron_is_called_at_each_slot_from_the_first_after_its_version_became_current() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));

    world.run_for(3 * MINUTE);

    let first = START + 30 * SECOND;
    assert_eq!(
        world.called("tick"),
        [first, first + MINUTE, first + 2 * MINUTE]
    );
    assert!(world.calls.iter().all(|call| call.sent == call.scheduled));
    assert_eq!(world.phases(application, "tick"), [RunPhase::Succeeded; 3]);
    let crons = world.state.crons(application, world.wall()).unwrap();
    assert_eq!(crons[0].next, Some(Timestamp(first + 3 * MINUTE)));
    assert_eq!(crons[0].last.as_ref().unwrap().attempts, 1);
}

#[test]
fn c4_slots_that_no_leader_saw_are_one_record_and_the_schedule_goes_on() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    world.run_for(MINUTE);
    world.calls.clear();

    world.sleep_for(3 * HOUR);
    world.kill_leader();
    world.run_for(2 * MINUTE);

    // The newest of them was half a minute old: as if it were on time.
    let runs = world.runs(application, "tick");
    assert_eq!(runs[1].phase, RunPhase::Missed);
    assert_eq!(runs[1].count, 179);
    assert_eq!(runs[1].scheduled, Timestamp(START + 90 * SECOND));
    let newest = START + 30 * SECOND + 3 * HOUR;
    assert_eq!(
        world.called("tick"),
        [newest, newest + MINUTE, newest + 2 * MINUTE]
    );
}

#[test]
fn c4_one_run_makes_up_for_all_missed_slots_where_the_manifest_says_once() {
    let mut world = CronWorld::new(1);
    let mut once = cron("once", "*/10 * * * *");
    once.missed = MissedPolicy::Once;
    let crons = vec![once, cron("skip", "*/10 * * * *")];
    let application = world.deploy(&with_crons("hello", crons));
    world.run_for(MINUTE);

    world.sleep_for(3 * HOUR);
    world.kill_leader();
    world.run_for(MINUTE);

    assert_eq!(world.called("once"), [START - 30 * SECOND + 3 * HOUR]);
    assert_eq!(world.called("skip"), Vec::<u64>::new());
    let missed = |name: &str| world.runs(application, name)[0].count;
    assert_eq!((missed("once"), missed("skip")), (17, 18));
}

#[test]
fn first_slot_is_not_lost_where_the_log_is_ahead_of_the_wall_clock() {
    let mut world = CronWorld::new(1);
    // The clock was 50 s ahead when the log was written last, and was corrected.
    world.step_clock(50_000);
    world.upload_again();
    world.step_clock(-50_000);
    let application = world.deploy(&with_crons("hello", vec![cron("tick", "* * * * *")]));
    let first = START + 30 * SECOND;

    world.run_for(40 * SECOND);

    assert_eq!(world.called("tick"), [first]);
    world.suspend(application, "tick");
    world.step_clock(50_000);
    world.upload_again();
    world.step_clock(-50_000);
    world.resume(application, "tick");
    world.run_for(MINUTE);
    assert_eq!(world.called("tick"), [first, first + MINUTE]);
}

#[test]
fn history_of_a_cron_is_bounded_and_paged() {
    let mut world = CronWorld::new(1);
    let crons = vec![cron("tick", "* * * * *"), cron("hour", "0 * * * *")];
    let application = world.deploy(&with_crons("hello", crons));

    world.run_for(3 * HOUR);

    assert_eq!(world.runs(application, "tick").len(), CRON_RUNS_KEPT);
    let tick = key("tick");
    let page = world.state.cron_runs(application, Some(&tick), None, 20);
    let next = world
        .state
        .cron_runs(application, Some(&tick), Some(page[19].id), 100);
    assert_eq!((page.len(), next.len()), (20, 30));
    assert!(
        page.iter()
            .chain(&next)
            .is_sorted_by(|one, next| one.id > next.id)
    );
    let all = world.state.cron_runs(application, None, None, 100);
    assert_eq!(all.len(), 53);
    assert_eq!(world.state.find_crons(application, "tick"), [tick]);
}
