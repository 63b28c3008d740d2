//! Slots that come while an earlier run of the same cron goes on.

use common::application::Overlap;
use common::time::{Span, Timestamp};
use pacemaker_core::command::SkipReason;
use pacemaker_core::state::crons::RunPhase;

use crate::crons::world::{CronWorld, HOUR, MINUTE, SECOND, START, cron, with_crons};

#[test]
fn forbidden_overlap_skips_slots_in_one_record() {
    let mut world = CronWorld::new(1);
    let application = world.deploy(&with_crons("hello", vec![cron("slow", "* * * * *")]));
    world.takes = (200 * SECOND, 200 * SECOND);

    world.run_for(5 * MINUTE);

    let first = START + 30 * SECOND;
    assert_eq!(world.called("slow"), [first, first + 4 * MINUTE]);
    let runs = world.runs(application, "slow");
    assert_eq!(runs[1].phase, RunPhase::Skipped(SkipReason::Overlap));
    assert_eq!(runs[1].count, 3);
    assert_eq!(runs[1].last_scheduled, Timestamp(first + 3 * MINUTE));
}

#[test]
fn allowed_overlap_runs_beside_and_replaced_runs_end() {
    let mut world = CronWorld::new(1);
    let mut allow = cron("allow", "* * * * *");
    allow.overlap = Overlap::Allow;
    let mut replace = cron("replace", "* * * * *");
    replace.overlap = Overlap::Replace;
    let application = world.deploy(&with_crons("hello", vec![allow, replace]));
    world.takes = (150 * SECOND, 150 * SECOND);

    world.run_for(2 * MINUTE + 10 * SECOND);

    assert_eq!(world.phases(application, "allow"), [RunPhase::Running; 2]);
    let replaced = world.phases(application, "replace");
    assert_eq!(replaced, [RunPhase::Replaced, RunPhase::Running]);
    let first = world.runs(application, "replace")[0].clone();
    assert!(!world.state.cron_run(first.id).unwrap().is_running(1));
    assert!(first.words.contains("replaced"), "{first:?}");
}

#[test]
fn cron_that_overlaps_itself_too_often_is_skipped_in_its_own_words() {
    let mut world = CronWorld::new(1);
    let mut slow = cron("slow", "* * * * *");
    slow.overlap = Overlap::Allow;
    slow.timeout = Span::seconds(2 * 3600);
    let application = world.deploy(&with_crons("hello", vec![slow]));
    world.takes = (2 * HOUR, 2 * HOUR);

    world.run_for(HOUR + 10 * MINUTE);

    let runs = world.runs(application, "slow");
    let newest = runs.last().unwrap();
    assert_eq!(newest.phase, RunPhase::Skipped(SkipReason::TooMany));
    assert!(newest.words.contains("64 runs of it"), "{newest:?}");
}
