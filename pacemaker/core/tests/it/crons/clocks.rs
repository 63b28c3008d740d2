//! Wall clocks that are set forward and back (faults.md, C3 and E5).

use std::collections::BTreeMap;

use common::application::MissedPolicy;
use common::time::Timestamp;

use super::world::{CronWorld, DAY, HOUR, MINUTE, START, cron, with_crons};

fn signed(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds).unwrap()
}

/// Per-minute, hourly and daily, of both policies.
fn world() -> CronWorld {
    let mut world = CronWorld::new(1);
    let crons = [
        ("minute", "* * * * *"),
        ("hour", "0 * * * *"),
        ("day", "0 12 * * *"),
    ]
    .into_iter()
    .flat_map(|(name, runspec)| {
        let skip = cron(&format!("{name}-skip"), runspec);
        let mut once = cron(&format!("{name}-once"), runspec);
        once.missed = MissedPolicy::Once;
        [skip, once]
    })
    .collect();
    world.deploy(&with_crons("hello", crons));
    world.run_for(2 * MINUTE);
    world
}

/// Requests of each cron that are made at this moment.
fn at_once(world: &mut CronWorld) -> BTreeMap<String, usize> {
    let before = world.calls.len();
    world.lead();
    let mut count = BTreeMap::new();
    for call in &world.calls[before..] {
        *count.entry(call.cron.to_string()).or_default() += 1;
    }
    count
}

fn each_slot_is_fired_at_most_once(world: &CronWorld) {
    let twice: Vec<_> = world
        .first_attempts()
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .collect();
    assert_eq!(twice, []);
}

#[test]
fn c3_no_step_of_the_clock_makes_more_than_one_request_of_a_cron() {
    for step in [HOUR, DAY, 3 * HOUR + 7 * MINUTE] {
        for sign in [1, -1] {
            let mut world = world();
            world.step_clock(sign * signed(step));

            let forward = at_once(&mut world);
            world.run_for(10 * MINUTE);
            world.step_clock(-sign * signed(step));
            let back = at_once(&mut world);
            world.run_for(2 * HOUR);

            assert!(forward.values().all(|count| *count <= 1), "{forward:?}");
            assert!(back.values().all(|count| *count <= 1), "{back:?}");
            each_slot_is_fired_at_most_once(&world);
        }
    }
}

#[test]
fn c3_schedule_goes_on_at_once_after_the_clock_was_ahead_for_a_while() {
    for step in [HOUR, DAY, 400 * DAY] {
        let mut world = world();
        world.step_clock(signed(step));
        world.run_for(10 * MINUTE);
        world.step_clock(-signed(step));
        world.calls.clear();

        world.run_for(DAY);

        // What was fired while the clock was ahead is not fired again.
        let ahead = if step > DAY { 0 } else { 11 };
        assert_eq!(world.called("minute-skip").len(), 24 * 60 - ahead);
        assert_eq!(world.called("hour-skip").len(), 24);
        assert_eq!(world.called("day-skip").len(), 1);
        each_slot_is_fired_at_most_once(&world);
    }
}

#[test]
fn c3_slot_that_passed_only_on_a_wrong_clock_is_fired_when_it_comes() {
    let mut world = world();
    // Noon passes on a clock that is a day ahead, and is missed; nothing was fired.
    world.step_clock(signed(DAY));
    world.run_for(10 * MINUTE);
    world.step_clock(-signed(DAY));
    world.calls.clear();

    world.run_for(DAY);

    let noon = START / DAY * DAY + 12 * HOUR;
    assert_eq!(world.called("day-skip"), [noon]);
}

#[test]
fn c3_clock_that_was_behind_fires_nothing_twice_when_it_is_right_again() {
    let mut world = world();
    world.run_for(2 * HOUR);
    world.step_clock(-signed(HOUR));
    world.run_for(30 * MINUTE);
    let before = world.calls.len();

    world.step_clock(signed(HOUR));
    let burst = at_once(&mut world);
    world.run_for(10 * MINUTE);

    assert!(burst.values().all(|count| *count <= 1), "{burst:?}");
    assert!(world.calls.len() > before);
    each_slot_is_fired_at_most_once(&world);
}

#[test]
fn c3_leaders_whose_clocks_are_an_hour_apart_take_turns() {
    let mut world = world();
    for turn in 0..20 {
        world.elect();
        world.offset = if turn % 2 == 0 { signed(HOUR) } else { 0 };
        let burst = at_once(&mut world);
        assert!(burst.values().all(|count| *count <= 1), "{burst:?}");
        world.run_for(3 * MINUTE);
    }
    world.offset = 0;
    world.calls.clear();
    world.run_for(3 * HOUR);

    // An hour of slots was fired ahead of time at most, and then every minute again.
    assert!(world.called("minute-skip").len() >= 100);
    each_slot_is_fired_at_most_once(&world);
}

#[test]
fn c3_small_corrections_of_the_clock_change_nothing() {
    let mut world = world();
    world.calls.clear();
    let first = world.real.0 / MINUTE * MINUTE + MINUTE;
    for turn in 0..60_u64 {
        world.step_clock(if turn % 3 == 0 { -400 } else { 200 });
        world.run_for(MINUTE);
    }

    let called = world.called("minute-skip");

    let expected: Vec<u64> = (0..called.len() as u64)
        .map(|slot| first + slot * MINUTE)
        .collect();
    assert_eq!(called, expected);
    assert!((59..=61).contains(&called.len()));
}

#[test]
fn e5_request_under_way_is_not_doubled_by_a_clock_that_is_set() {
    for step in [HOUR, DAY] {
        for sign in [1, -1] {
            let mut world = CronWorld::new(1);
            let mut slow = cron("slow", "* * * * *");
            slow.retries = 3;
            world.deploy(&with_crons("hello", vec![slow]));
            world.takes = (4 * MINUTE, 4 * MINUTE);
            world.run_for(MINUTE);
            assert_eq!(world.calls.len(), 1);

            world.step_clock(sign * signed(step));
            world.run_for(20 * MINUTE);

            let calls: Vec<(Timestamp, Timestamp)> = world
                .calls
                .iter()
                .map(|call| (call.sent, call.ends))
                .collect();
            assert!(calls.len() >= 4, "the schedule goes on: {calls:?}");
            assert!(
                calls.windows(2).all(|pair| pair[0].1 <= pair[1].0),
                "{calls:?}"
            );
        }
    }
}

#[test]
fn pause_of_three_hours_is_no_storm() {
    let mut world = world();
    world.sleep_for(3 * HOUR);

    let burst = at_once(&mut world);

    let expected: Vec<(&str, usize)> = vec![
        ("web/hour-once", 1),
        ("web/minute-once", 1),
        ("web/minute-skip", 1),
    ];
    let burst: Vec<(&str, usize)> = burst
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    assert_eq!(burst, expected);
    each_slot_is_fired_at_most_once(&world);
}
