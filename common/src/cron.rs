//! When a web cron fires: the expression of a manifest, checked.
//!
//! Owns what an expression may be. When the next slot lies belongs here as well, and arrives with
//! the firing of crons.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::Weekday;

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

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// The calendar repeats after this many years, weekdays and leap days included, between two
/// centuries that skip a leap day.
const CALENDAR_YEARS: std::ops::Range<i16> = 2000..2028;

/// An expression that fires some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    expression: String,
}

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
    /// No day of any year matches, such as February 30.
    #[error("it never fires: no day of any year matches it")]
    NeverFires,
}

impl Schedule {
    /// Checks an expression: five fields with lists, ranges, steps, and names, or a nickname.
    ///
    /// Also what expressions of 2013 may have: `L`, `W`, `#`, and `%n` (every n-th since 1970).
    ///
    /// # Errors
    /// Says which field is wrong and why.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > EXPRESSION_MAX_BYTES {
            return Err(ScheduleError::TooLong);
        }
        let text = text.trim();
        let expanded = expand_nickname(text)?;
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(ScheduleError::FieldCount {
                found: fields.len(),
            });
        }
        for (field, name) in fields.iter().zip(FIELDS) {
            check_field(field, name)?;
        }
        // croner has no `%n`; on which days it fires is decided by the other fields.
        let plain: Vec<&str> = fields
            .iter()
            .map(|field| if field.starts_with('%') { "*" } else { field })
            .collect();
        for (index, name) in FIELDS.into_iter().enumerate() {
            check_alone(&plain, index, name)?;
        }
        let cron = parser()
            .parse(&plain.join(" "))
            .map_err(|_| ScheduleError::FieldCount { found: plain.len() })?;
        if !fires(&cron) {
            return Err(ScheduleError::NeverFires);
        }
        Ok(Self {
            expression: text.to_owned(),
        })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.expression
    }
}

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
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

/// Parses one field with all others open, so that the fault names its field.
fn check_alone(fields: &[&str], index: usize, name: &'static str) -> Result<(), ScheduleError> {
    let alone: Vec<&str> = fields
        .iter()
        .enumerate()
        .map(|(other, field)| if other == index { *field } else { "*" })
        .collect();
    match parser().parse(&alone.join(" ")) {
        Ok(_) => Ok(()),
        Err(error) => Err(ScheduleError::Field {
            field: name,
            found: alone.get(index).copied().unwrap_or_default().to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// True when some day of the calendar matches; every hour and minute has some.
fn fires(cron: &Cron) -> bool {
    CALENDAR_YEARS.into_iter().any(|year| {
        (1..=12_i8)
            .filter(|month| matches_month(cron, *month))
            .any(|month| month_fires(cron, year, month))
    })
}

fn matches_month(cron: &Cron, month: i8) -> bool {
    u32::try_from(month).is_ok_and(|month| cron.pattern.month_match(month).unwrap_or(false))
}

fn month_fires(cron: &Cron, year: i16, month: i8) -> bool {
    let Ok(first) = jiff::civil::Date::new(year, month, 1) else {
        return false;
    };
    (1..=first.days_in_month()).any(|day| {
        let Ok(date) = jiff::civil::Date::new(year, month, day) else {
            return false;
        };
        let number = |value: i8| u32::try_from(value).unwrap_or_default();
        let weekday =
            Weekday::from_days_from_sunday(number(date.weekday().to_sunday_zero_offset()));
        cron.pattern
            .day_match(i32::from(year), number(month), number(day), weekday)
            .unwrap_or(false)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_of_every_form_are_accepted() {
        for text in [
            "* * * * *",
            "*/5 * * * *",
            "0,15,30-45/5 0-6 1,15 jan-mar,Dec MON-fri",
            "0 0 29 2 *",
            "0 0 31 1-2 *",
            "0 0 30 2 mon",
            "0 0 L * *",
            "0 0 15W * *",
            "0 0 * * MON#2",
            "0 0 * 2 MON#5",
            "0 0 * * 5L",
            "0 0 * * 7",
            "0 0 ? * *",
            "%7 * * * *",
            "  @hourly ",
            "@daily",
            "@midnight",
            "@weekly",
            "@monthly",
            "@yearly",
            "@annually",
        ] {
            assert_eq!(
                Schedule::parse(text).as_ref().map(Schedule::as_str),
                Ok(text.trim())
            );
        }
    }

    #[test]
    fn expressions_that_mean_nothing_are_refused() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "1,,2 * * * *",
            "-1 * * * *",
            "a * * * *",
            "* * * FOO *",
            "* * * JANFEB *",
            "* * * MON *",
            "* * * * JAN",
            "* * * * MONDAY",
            "* * * * +MON",
            "%0 * * * *",
            "%x * * * *",
            "@never",
            "@reboot",
            "99999999999999999999 * * * *",
            "*/99999999999 * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn expression_that_never_fires_is_refused() {
        for text in [
            "0 0 31 2 *",
            "0 0 30 2 *",
            "0 0 31 4,6,9,11 *",
            "0 0 31 FEB ?",
        ] {
            assert_eq!(
                Schedule::parse(text),
                Err(ScheduleError::NeverFires),
                "{text}"
            );
        }
    }

    #[test]
    fn fault_names_the_field() {
        let message = Schedule::parse("* 24 * * *").unwrap_err().to_string();

        assert!(message.contains("the hour `24`"), "{message}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[-0-9*,/#?%@LWa-z ]{0,40}") {
            drop(Schedule::parse(&text));
        }
    }
}
