//! An expression as bits: the next local minute that matches it, without looking at each.
//!
//! It knows no time zone: a minute is counted from 1970-01-01T00:00 in local time, as if every day
//! had 24 hours.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "minutes stay within the calendar's years and periods within 32 bits, of which every sum and product fits 64 bits"
)]

use super::calendar::{DAY, HOUR, LAST_MINUTE, Month};

/// Jumps that a search makes before it gives up. An expression without a period needs at most two
/// a month, and is due within 40 years if ever. One with periods (`%n`) makes one or two a day: what
/// is not due within years of days that match is not worth the time of whoever asks.
const STEPS_MAX: u32 = 2000;

/// Which minutes match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) minutes: Unit,
    pub(super) hours: Unit,
    pub(super) days: Days,
    pub(super) months: Unit,
}

impl Pattern {
    /// The first minute from `from` on that matches, `from` itself included; none when the search
    /// gives up or the calendar ends.
    pub(super) fn next_from(&self, from: i64) -> Option<i64> {
        let mut minute = from;
        for _ in 0..STEPS_MAX {
            if minute > LAST_MINUTE {
                return None;
            }
            let earliest = self.earliest(minute);
            if earliest == minute {
                return Some(minute);
            }
            minute = earliest;
        }
        None
    }

    /// The minute itself when it matches; else a later one, before which none matches.
    fn earliest(&self, minute: i64) -> i64 {
        let day = minute.div_euclid(DAY);
        let month = Month::of_day(day);
        let next_month = self.months.next(month.index);
        if next_month != month.index {
            return Month::numbered(next_month).first_day * DAY;
        }
        let next_day = self.days.next(day, month);
        if next_day != day {
            return next_day * DAY;
        }
        let hour = minute.div_euclid(HOUR);
        let next_hour = self.hours.next(hour);
        if next_hour != hour {
            return next_hour * HOUR;
        }
        self.minutes.next(minute)
    }
}

/// Which values of a unit match, of those that are counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Those whose bit is set, of each `cycle` values in a row; some bit below `cycle` is set.
    Cycle { mask: u64, cycle: i64 },
    /// The multiples of a number that is at least 1.
    Every(i64),
}

impl Unit {
    /// The first value from `value` on that matches.
    fn next(self, value: i64) -> i64 {
        match self {
            Self::Cycle { mask, cycle } => {
                let position = value.rem_euclid(cycle);
                let rest = mask >> position;
                if rest == 0 {
                    value - position + cycle + i64::from(mask.trailing_zeros())
                } else {
                    value + i64::from(rest.trailing_zeros())
                }
            }
            Self::Every(period) => match value.rem_euclid(period) {
                0 => value,
                past => value - past + period,
            },
        }
    }
}

/// Kinds of months: four lengths, each beginning on one of seven days of the week.
pub(super) const MONTH_KINDS: usize = 28;

/// The length of the shortest month.
pub(super) const SHORTEST_MONTH: i64 = 28;

/// Which days match: those of the table, and those of either period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Days {
    /// For each kind of month, which of its days match; the lowest bit is the first, and those past
    /// its end say nothing. Ordered by length, then by the day of the week of the first.
    pub(super) by_month: [u32; MONTH_KINDS],
    /// Every n-th day since 1970, by the day of the month and by the day of the week.
    pub(super) every: [Option<i64>; 2],
}

impl Days {
    /// The first day from `day` on that matches, or the first after `month` when none is left in it.
    fn next(&self, day: i64, month: Month) -> i64 {
        let end = month.end_day();
        let kind = usize::try_from((month.days - SHORTEST_MONTH) * 7 + month.first_weekday());
        let days = kind
            .ok()
            .and_then(|kind| self.by_month.get(kind))
            .copied()
            .unwrap_or_default();
        let rest = days >> (day - month.first_day);
        let listed = if rest == 0 {
            end
        } else {
            day + i64::from(rest.trailing_zeros())
        };
        let counted = self.every.iter().flatten();
        counted
            .map(|period| Unit::Every(*period).next(day))
            .fold(listed, i64::min)
            .min(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_find_the_first_value_that_matches() {
        let quarters = Unit::Cycle {
            mask: 1 | 1 << 15 | 1 << 30 | 1 << 45,
            cycle: 60,
        };
        for (value, expected) in [(0, 0), (1, 15), (45, 45), (46, 60), (-1, 0), (-60, -60)] {
            assert_eq!(quarters.next(value), expected, "{value}");
        }
        for (value, expected) in [(0, 0), (1, 7), (7, 7), (8, 14), (-1, 0), (-8, -7)] {
            assert_eq!(Unit::Every(7).next(value), expected, "{value}");
        }
    }
}
