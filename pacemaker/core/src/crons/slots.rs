//! Which slots of a cron are due: the newest may run, those before it were missed.

use common::time::Timestamp;

use crate::state::crons::CronRecord;
use crate::state::limits::CRON_MISSED_COUNTED;

/// The first distance at which the newest of very many slots is looked for, doubled until one is
/// found: no slots lie nearer together.
const NEAREST_MS: u64 = 60_000;

/// Slots that are due at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// All but the newest.
    pub(super) older: Option<Missed>,
    /// The one that may still run.
    pub(super) newest: Timestamp,
}

/// Slots that are not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: u64,
}

impl Missed {
    /// These and one more.
    pub(super) fn and(older: Option<Self>, newest: Timestamp) -> Self {
        older.map_or(
            Self {
                first: newest,
                last: newest,
                count: 1,
            },
            |older| Self {
                first: older.first,
                last: newest,
                count: older.count.saturating_add(1).min(CRON_MISSED_COUNTED),
            },
        )
    }
}

/// The next slot that people can expect.
pub(super) fn next_open(
    record: &CronRecord,
    wall: Timestamp,
    next: impl FnMut(Timestamp) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let after = if record.is_ahead_of(wall) {
        wall
    } else {
        wall.max(record.considered)
    };
    next_unfired(record, after, next)
}

/// The first slot after a time that has not been fired, as it may have been when the wall clock
/// was ahead.
pub(super) fn next_unfired(
    record: &CronRecord,
    after: Timestamp,
    mut next: impl FnMut(Timestamp) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let mut slot = next(after)?;
    while let Some(last) = record.fired_until(slot) {
        slot = next(last)?;
    }
    Some(slot)
}

/// All slots from `first`, which is due, to the wall clock; each is asked for, up to a number, and
/// then the newest is looked for from the other side.
pub(super) fn due(
    record: &CronRecord,
    first: Timestamp,
    wall: Timestamp,
    mut next: impl FnMut(Timestamp) -> Option<Timestamp>,
) -> Due {
    let mut older: Option<Missed> = None;
    let mut newest = first;
    let mut due_after = |after| next_unfired(record, after, &mut next).filter(|slot| *slot <= wall);
    while let Some(slot) = due_after(newest) {
        let missed = Missed::and(older, newest);
        older = Some(missed);
        newest = slot;
        if missed.count == CRON_MISSED_COUNTED {
            let last = newest_of_many(newest, wall, &mut due_after);
            older = Some(Missed {
                last: last.before,
                ..missed
            });
            newest = last.slot;
            break;
        }
    }
    Due { older, newest }
}

/// The newest slot and the one before it.
struct Last {
    before: Timestamp,
    slot: Timestamp,
}

fn newest_of_many(
    known: Timestamp,
    wall: Timestamp,
    mut due_after: impl FnMut(Timestamp) -> Option<Timestamp>,
) -> Last {
    let mut distance = NEAREST_MS;
    let mut last = Last {
        before: known,
        slot: known,
    };
    while let Some(start) = wall
        .0
        .checked_sub(distance)
        .filter(|start| *start > known.0)
    {
        let mut found = 0_u32;
        let mut after = Timestamp(start);
        while let Some(slot) = due_after(after) {
            last = Last {
                before: if found == 0 { known } else { last.slot },
                slot,
            };
            found = found.saturating_add(1);
            after = slot;
        }
        if found > 1 {
            break;
        }
        distance = distance.saturating_mul(2);
    }
    if last.slot > known {
        return last;
    }
    // All of them lie near to the one that is known.
    let mut last = Last {
        before: known,
        slot: known,
    };
    while let Some(slot) = due_after(last.slot) {
        last = Last {
            before: last.slot,
            slot,
        };
    }
    last
}

#[cfg(test)]
mod tests {
    use common::cron::{Schedule, Zone};

    use super::*;

    const MINUTE: u64 = 60_000;

    fn due_of(expression: &str, considered: u64, wall: u64) -> Option<Due> {
        let record = CronRecord::from_now(Timestamp(considered));
        let schedule = Schedule::parse(expression).unwrap();
        let next = |after| schedule.next_after(after, &Zone::utc());
        let first = next_unfired(&record, record.considered, next)?;
        (first <= Timestamp(wall)).then(|| due(&record, first, Timestamp(wall), next))
    }

    #[test]
    fn nothing_is_due_before_the_first_slot() {
        assert_eq!(due_of("* * * * *", 10 * MINUTE, 11 * MINUTE - 1), None);
    }

    #[test]
    fn one_slot_is_due_alone() {
        let due = due_of("* * * * *", 10 * MINUTE, 11 * MINUTE).unwrap();

        assert_eq!(due.newest, Timestamp(11 * MINUTE));
        assert_eq!(due.older, None);
    }

    #[test]
    fn slots_before_the_newest_are_counted() {
        let due = due_of("* * * * *", 10 * MINUTE, 20 * MINUTE + 5).unwrap();

        assert_eq!(due.newest, Timestamp(20 * MINUTE));
        assert_eq!(
            due.older,
            Some(Missed {
                first: Timestamp(11 * MINUTE),
                last: Timestamp(19 * MINUTE),
                count: 9,
            })
        );
    }

    #[test]
    fn newest_of_a_year_of_slots_is_found_without_asking_for_each() {
        let year = 365 * 24 * 60 * MINUTE;
        let mut asked = 0_u32;
        let record = CronRecord::from_now(Timestamp(0));
        let schedule = Schedule::parse("* * * * *").unwrap();

        let due = due(&record, Timestamp(MINUTE), Timestamp(year + 7), |after| {
            asked += 1;
            schedule.next_after(after, &Zone::utc())
        });

        assert_eq!(due.newest, Timestamp(year));
        let older = due.older.unwrap();
        assert_eq!(older.first, Timestamp(MINUTE));
        assert_eq!(older.last, Timestamp(year - MINUTE));
        assert_eq!(older.count, CRON_MISSED_COUNTED);
        assert!(asked < 1_100, "{asked}");
    }

    #[test]
    fn newest_of_slots_that_lie_far_back_is_found() {
        // Every minute, but only of the first of January.
        let due = due_of("* * 1 1 *", 0, 300 * 24 * 60 * MINUTE).unwrap();

        assert_eq!(due.newest, Timestamp((24 * 60 - 1) * MINUTE));
    }

    #[test]
    fn fired_slots_are_passed_over() {
        let mut record = CronRecord::from_now(Timestamp(0));
        for minute in [5, 6, 7] {
            record.fire(Timestamp(minute * MINUTE));
        }
        record.considered = Timestamp(3 * MINUTE);
        let next = |after: Timestamp| Some(Timestamp((after.0 / MINUTE + 1) * MINUTE));

        let slot = |after| next_unfired(&record, Timestamp(after), next).unwrap().0 / MINUTE;

        assert_eq!(slot(3 * MINUTE), 4);
        assert_eq!(slot(4 * MINUTE), 8);
    }
}
