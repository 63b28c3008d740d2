//! What croner has read as bits, and the periods that it does not know.

use croner::time::{Weekday, days_in_month};
use croner::{Cron, CronComponent};

use super::super::pattern::{Days, MONTH_KINDS, Pattern, Unit};

/// The n of `%n`.
pub(super) fn period(field: &str) -> Option<i64> {
    field
        .strip_prefix('%')
        .and_then(|period| period.parse::<u32>().ok())
        .map(i64::from)
}

/// The bits of what croner has read, and the periods that it has not.
pub(super) fn pattern([minute, hour, day, month, weekday]: [&str; 5], cron: &Cron) -> Pattern {
    let unit = |field: &str, component: &CronComponent, first: u16, cycle: i64| match period(field)
    {
        Some(period) => Unit::Every(period),
        None => Unit::Cycle {
            mask: mask(component, first),
            cycle,
        },
    };
    let read = &cron.pattern;
    let is_open = |field: &str| matches!(field, "*" | "?") || period(field).is_some();
    let every = [period(day), period(weekday)];
    // A field of days that is open adds nothing to one that is not.
    let by_month = if !is_open(day) || !is_open(weekday) {
        days_by_month(cron)
    } else if every.iter().any(Option::is_some) {
        [0; MONTH_KINDS]
    } else {
        [u32::MAX; MONTH_KINDS]
    };
    Pattern {
        minutes: unit(minute, &read.minutes, 0, 60),
        hours: unit(hour, &read.hours, 0, 24),
        days: Days { by_month, every },
        months: unit(month, &read.months, 1, 12),
    }
}

/// The values of a field as bits, `first` as the lowest.
fn mask(component: &CronComponent, first: u16) -> u64 {
    component
        .values()
        .into_iter()
        .filter_map(|value| 1_u64.checked_shl(u32::from(value.checked_sub(first)?)))
        .fold(0, |mask, bit| mask | bit)
}

/// Months of every length, the shortest first, as year and month.
const LENGTHS: [(i32, u32); 4] = [(2023, 2), (2024, 2), (2023, 4), (2023, 1)];

/// Asks croner about each day of each kind of month.
fn days_by_month(cron: &Cron) -> [u32; MONTH_KINDS] {
    let [.., longest] = LENGTHS;
    let read = &cron.pattern;
    // Only what is counted from the end of a month depends on where that is.
    let depends_on_length = read.days.has_modifiers() || read.days_of_week.has_modifiers();
    let weekdays = || successive(Weekday::Sunday).take(7);
    if depends_on_length {
        let kinds = LENGTHS
            .into_iter()
            .flat_map(|month| weekdays().map(move |day| (month, day)));
        table(kinds.map(|(month, first)| month_days(cron, month, first)))
    } else {
        let rows: Vec<u32> = weekdays()
            .map(|first| month_days(cron, longest, first))
            .collect();
        table(rows.into_iter().cycle())
    }
}

fn table(rows: impl Iterator<Item = u32>) -> [u32; MONTH_KINDS] {
    let mut table = [0; MONTH_KINDS];
    for (place, row) in table.iter_mut().zip(rows) {
        *place = row;
    }
    table
}

/// The days of a month that match, when its first is this day of the week.
fn month_days(cron: &Cron, (year, month): (i32, u32), first: Weekday) -> u32 {
    (0..days_in_month(year, month))
        .zip(successive(first))
        .filter(|(day, weekday)| {
            let day = day.saturating_add(1);
            let matches = cron.pattern.day_match(year, month, day, *weekday);
            matches.unwrap_or(false)
        })
        .filter_map(|(day, _)| 1_u32.checked_shl(day))
        .fold(0, |days, bit| days | bit)
}

/// The day of the week, and those of the days after it.
fn successive(first: Weekday) -> impl Iterator<Item = Weekday> {
    std::iter::successors(Some(first), |weekday| Some(weekday.shift(1)))
}
