//! What an expression may be, and the pattern that it means.
//!
//! croner reads the fields. What it would read in a way of its own is refused before, and of what
//! it has read only bits are kept.

use std::ops::RangeInclusive;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::{Weekday, days_in_month};
use croner::{Cron, CronComponent};

use super::calendar::DAY;
use super::pattern::{Days, MONTH_KINDS, Pattern, Unit};

/// The longest expression: every minute of an hour and every hour of a day, listed, fits.
pub const EXPRESSION_MAX_BYTES: usize = 512;

/// Nicknames with the fields that they stand for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

const FIELDS: [&str; 5] = ["minute", "hour", "day of month", "month", "day of week"];

/// What the numbers of each field may be, and the same in words.
const RANGES: [(RangeInclusive<u32>, &str); 5] = [
    (0..=59, "minutes are 0 to 59"),
    (0..=23, "hours are 0 to 23"),
    (1..=31, "days of a month are 1 to 31"),
    (1..=12, "months are 1 to 12"),
    (0..=7, "days of the week are 0 to 7, and both are Sunday"),
];

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It is longer than [`EXPRESSION_MAX_BYTES`].
    #[error("it has more than {EXPRESSION_MAX_BYTES} bytes")]
    TooLong,
    /// It begins with `@` and is not a nickname.
    #[error("this nickname is not known")]
    UnknownNickname,
    /// It does not have five fields.
    #[error("it has {found} fields, and 5 are needed")]
    FieldCount {
        /// How many it has.
        found: usize,
    },
    /// A field cannot be read.
    #[error("the {field} `{found}` is not allowed: {reason}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What it says.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing matches, such as February 30.
    #[error("it never fires: no time of any year matches it")]
    NeverFires,
}

/// Where the search for a first match begins: 2000-01-01. At 1970-01-01 every period matches once.
const FIRST_MINUTE: i64 = 10_957 * DAY;

/// Reads an expression that fires some time.
pub(super) fn parse(text: &str) -> Result<Pattern, ScheduleError> {
    if text.len() > EXPRESSION_MAX_BYTES {
        return Err(ScheduleError::TooLong);
    }
    let expanded = expand_nickname(text.trim())?;
    let fields: Vec<&str> = expanded.split_whitespace().collect();
    let Ok(fields) = <[&str; 5]>::try_from(fields.as_slice()) else {
        return Err(ScheduleError::FieldCount {
            found: fields.len(),
        });
    };
    for ((field, name), (range, rule)) in fields.iter().zip(FIELDS).zip(RANGES) {
        check_field(field, name)?;
        check_numbers(field, name, &range, rule)?;
    }
    // croner has no `%n`.
    let plain = fields.map(|field| if period(field).is_some() { "*" } else { field });
    let Ok(cron) = read(plain) else {
        return Err(wrong_field(plain));
    };
    let pattern = pattern(fields, &cron);
    match pattern.next_from(FIRST_MINUTE) {
        Some(_) => Ok(pattern),
        None => Err(ScheduleError::NeverFires),
    }
}

/// Lets croner read five fields without periods.
fn read([minute, hour, day, month, weekday]: [&str; 5]) -> Result<Cron, CronError> {
    // croner takes 7 for Sunday, but not for the last one of a month.
    let weekday: Vec<&str> = weekday
        .split(',')
        .map(|entry| match entry {
            "7L" | "7l" => "0L",
            "7#L" | "7#l" => "0#L",
            other => other,
        })
        .collect();
    let weekday = weekday.join(",");
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(&format!("{minute} {hour} {day} {month} {weekday}"))
}

/// What may be written in place of five fields.
pub(super) fn nicknames() -> impl Iterator<Item = &'static str> {
    NICKNAMES.into_iter().map(|(nickname, _)| nickname)
}

fn expand_nickname(text: &str) -> Result<&str, ScheduleError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    NICKNAMES
        .iter()
        .find(|(nickname, _)| nickname.eq_ignore_ascii_case(text))
        .map(|(_, fields)| *fields)
        .ok_or(ScheduleError::UnknownNickname)
}

/// Refuses what croner would read in a way of its own: it replaces names wherever they stand.
fn check_field(field: &str, name: &'static str) -> Result<(), ScheduleError> {
    let fault = |reason: &str| {
        Err(ScheduleError::Field {
            field: name,
            found: field.to_owned(),
            reason: reason.to_owned(),
        })
    };
    if let Some(period) = field.strip_prefix('%') {
        return match period.parse::<u32>() {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => fault("`%` is followed by a number from 1"),
        };
    }
    if field.split(',').any(str::is_empty) {
        return fault("a list has an empty entry");
    }
    if name == "day of week"
        && field
            .split(',')
            .any(|entry| entry.eq_ignore_ascii_case("L"))
    {
        return fault("`L` follows the number of a day here, such as 5L for the last Friday");
    }
    for word in field.split(|character: char| !character.is_ascii_alphabetic()) {
        let word = word.to_ascii_uppercase();
        let is_known = match name {
            "month" => MONTHS.contains(&word.as_str()),
            "day of week" => word == "L" || WEEKDAYS.contains(&word.as_str()),
            "day of month" => matches!(word.as_str(), "L" | "W" | "LW"),
            _ => false,
        };
        if !word.is_empty() && !is_known {
            return fault(match name {
                "month" => "names of months are JAN to DEC",
                "day of week" => "names of days are SUN to SAT",
                _ => "names are not allowed here",
            });
        }
    }
    let allowed = |character: char| {
        character.is_ascii_alphanumeric()
            || "*,-/".contains(character)
            || character == '#' && name == "day of week"
            || character == '?' && name.starts_with("day")
    };
    if field.chars().all(allowed) {
        return Ok(());
    }
    fault("it has a character that means nothing here")
}

/// Refuses steps and numbers with words that croner has not.
fn check_numbers(
    field: &str,
    name: &'static str,
    range: &RangeInclusive<u32>,
    rule: &str,
) -> Result<(), ScheduleError> {
    let is_wrong = |digits: &str, range: &RangeInclusive<u32>| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number && !digits.parse().is_ok_and(|number| range.contains(&number))
    };
    let reason = field.split(',').find_map(|entry| {
        let (body, step) = entry.split_once('/').unwrap_or((entry, "1"));
        let body = body.split('#').next().unwrap_or_default();
        if is_wrong(step, &(1..=u32::MAX)) {
            return Some("a step is a number from 1");
        }
        body.split('-')
            .any(|number| is_wrong(number.trim_end_matches(char::is_alphabetic), range))
            .then_some(rule)
    });
    match reason {
        None => Ok(()),
        Some(reason) => Err(ScheduleError::Field {
            field: name,
            found: field.to_owned(),
            reason: reason.to_owned(),
        }),
    }
}

/// The n of `%n`.
fn period(field: &str) -> Option<i64> {
    field
        .strip_prefix('%')
        .and_then(|period| period.parse::<u32>().ok())
        .map(i64::from)
}

/// Reads each field with all others open, so that the fault names its field.
fn wrong_field(fields: [&str; 5]) -> ScheduleError {
    for (index, name) in FIELDS.into_iter().enumerate() {
        let mut alone = ["*"; 5];
        let (Some(place), Some(field)) = (alone.get_mut(index), fields.get(index)) else {
            continue;
        };
        *place = field;
        if let Err(error) = read(alone) {
            return ScheduleError::Field {
                field: name,
                found: (*field).to_owned(),
                reason: error.to_string(),
            };
        }
    }
    ScheduleError::FieldCount {
        found: fields.len(),
    }
}

/// The bits of what croner has read, and the periods that it has not.
fn pattern([minute, hour, day, month, weekday]: [&str; 5], cron: &Cron) -> Pattern {
    let unit = |field: &str, component: &CronComponent, first: u16, cycle: i64| match period(field)
    {
        Some(period) => Unit::Every(period),
        None => Unit::Cycle {
            mask: mask(component, first),
            cycle,
        },
    };
    let read = &cron.pattern;
    let every = [period(day), period(weekday)];
    // A field of days that is open adds nothing to one that is not.
    let is_open =
        |field: &str, period: Option<i64>| field == "*" || field == "?" || period.is_some();
    let adds_nothing = every.iter().any(Option::is_some)
        && is_open(day, period(day))
        && is_open(weekday, period(weekday));
    Pattern {
        minutes: unit(minute, &read.minutes, 0, 60),
        hours: unit(hour, &read.hours, 0, 24),
        days: Days {
            by_month: if adds_nothing {
                [0; MONTH_KINDS]
            } else {
                days_by_month(cron)
            },
            every,
        },
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
    let kinds = LENGTHS
        .into_iter()
        .flat_map(|(year, month)| (0..7).map(move |weekday| (year, month, weekday)));
    let mut table = [0; MONTH_KINDS];
    for ((year, month, first_weekday), days) in kinds.zip(&mut table) {
        let first = Weekday::from_days_from_sunday(first_weekday);
        *days = (0..days_in_month(year, month))
            .zip(successive(first))
            .filter(|(day, weekday)| {
                let day = day.saturating_add(1);
                cron.pattern
                    .day_match(year, month, day, *weekday)
                    .unwrap_or(false)
            })
            .filter_map(|(day, _)| 1_u32.checked_shl(day))
            .fold(0, |days, bit| days | bit);
    }
    table
}

/// The day of the week, and those of the days after it.
fn successive(first: Weekday) -> impl Iterator<Item = Weekday> {
    std::iter::successors(Some(first), |weekday| Some(weekday.shift(1)))
}

#[cfg(test)]
mod tests;
