//! How many requests are under way at once, and who waits while there are too many.

use common::application::Overlap;
use pacemaker_core::command::SkipReason;
use pacemaker_core::state::crons::RunPhase;
use pacemaker_core::state::limits::CRON_RUNNING_PER_APPLICATION;

use crate::crons::world::{Call, CronWorld, HOUR, MINUTE, SECOND, START, cron, with_crons};

#[test]
fn application_has_only_so_many_requests_under_way() {
    let mut world = CronWorld::new(1);
    let crons = (0..100)
        .map(|number| cron(&format!("c{number:02}"), "0 * * * *"))
        .collect();
    world.deploy(&with_crons("many", crons));
    world.deploy(&with_crons("other", vec![cron("tick", "0 * * * *")]));
    world.takes = (5 * SECOND, 5 * SECOND);

    world.run_for(HOUR - 30 * SECOND);

    let room = usize::try_from(CRON_RUNNING_PER_APPLICATION).unwrap();
    assert_eq!(world.calls.len(), room + 1);
    assert_eq!(world.called("tick").len(), 1);
    world.run_for(10 * SECOND);
    assert_eq!(world.calls.len(), 101);
}

#[test]
fn slots_that_wait_for_room_are_run_when_there_is_some() {
    let mut world = CronWorld::new(1);
    let crons = (0..100).map(|number| cron(&format!("c{number:02}"), "0 * * * *"));
    world.deploy(&with_crons("many", crons.collect()));
    world.takes = (60 * SECOND, 60 * SECOND);

    world.run_for(HOUR + 2 * MINUTE);

    assert_eq!(world.calls.len(), 100);
    assert_eq!(world.first_attempts().len(), 100);
}

#[test]
fn slot_that_has_no_room_until_the_next_comes_is_skipped_and_says_so() {
    let mut world = CronWorld::new(1);
    let room = usize::try_from(CRON_RUNNING_PER_APPLICATION).unwrap();
    let mut crons: Vec<_> = (0..room)
        .map(|number| cron(&format!("c{number:02}"), "0 1 * * *"))
        .collect();
    crons.push(cron("tick", "0-4 1 * * *"));
    let application = world.deploy(&with_crons("many", crons));
    world.takes = (200 * SECOND, 200 * SECOND);

    world.run_for(HOUR + 10 * MINUTE);

    let first = START + HOUR - 30 * SECOND;
    assert_eq!(world.called("tick"), [first + 3 * MINUTE]);
    let runs = world.runs(application, "tick");
    let phases: Vec<_> = runs.iter().map(|run| (run.phase, run.count)).collect();
    assert_eq!(
        phases,
        [
            (RunPhase::Skipped(SkipReason::NoRoom), 3),
            (RunPhase::Succeeded, 1),
            (RunPhase::Skipped(SkipReason::Overlap), 1)
        ]
    );
    assert!(runs[0].words.contains("as many requests"), "{runs:?}");
}

#[test]
fn run_that_is_replaced_makes_room_for_its_successor() {
    let mut world = CronWorld::new(1);
    let room = usize::try_from(CRON_RUNNING_PER_APPLICATION).unwrap();
    let crons = (0..room).map(|number| {
        let mut hung = cron(&format!("c{number:02}"), "*/2 * * * *");
        hung.overlap = Overlap::Replace;
        hung
    });
    world.deploy(&with_crons("hung", crons.collect()));
    world.takes = (300 * SECOND, 300 * SECOND);

    world.run_for(4 * MINUTE);

    assert_eq!(world.calls.len(), 2 * room);
    let on_time = |call: &Call| call.sent == call.scheduled;
    assert!(world.calls.iter().all(on_time), "{:?}", world.calls);
}

#[test]
fn application_leaves_room_for_others() {
    let mut world = CronWorld::new(1);
    let crons = (0..20).map(|number| cron(&format!("c{number:02}"), "0 * * * *"));
    world.deploy(&with_crons("many", crons.collect()));
    world.deploy(&with_crons("other", vec![cron("tick", "2 * * * *")]));
    world.takes = (299 * SECOND, 299 * SECOND);
    world.limit(10);

    world.run_for(HOUR + 2 * MINUTE);

    // That is once before the others begin, and once beside them.
    assert_eq!(world.called("tick").len(), 2);
    assert_eq!(world.calls.len(), 2 + 5);
}
