//! What an expression may be, and the pattern that it means.
//!
//! croner reads the fields. What it would read in a way of its own is refused before, and of what
//! it has read only bits are kept.

mod bits;
mod check;
mod wrap;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

use super::calendar::DAY;
use super::pattern::Pattern;

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

/// One of the five fields: what may be in it.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    /// The numbers in words.
    rule: &'static str,
    /// The names of its numbers, from the least on.
    names: &'static [&'static str],
    names_rule: &'static str,
    /// What may stand with a number, or for one.
    letters: &'static [&'static str],
    /// True for the days of the week, whose 7 is Sunday as well.
    of_week: bool,
}

const MINUTE: Field = Field {
    name: "minute",
    least: 0,
    most: 59,
    rule: "minutes are 0 to 59",
    names: &[],
    names_rule: "names are not allowed here",
    letters: &[],
    of_week: false,
};

const FIELDS: [Field; 5] = [
    MINUTE,
    Field {
        name: "hour",
        most: 23,
        rule: "hours are 0 to 23",
        ..MINUTE
    },
    Field {
        name: "day of month",
        least: 1,
        most: 31,
        rule: "days of a month are 1 to 31",
        letters: &["L", "W", "LW"],
        ..MINUTE
    },
    Field {
        name: "month",
        least: 1,
        most: 12,
        rule: "months are 1 to 12",
        names: &[
            "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
        ],
        names_rule: "names of months are JAN to DEC",
        ..MINUTE
    },
    Field {
        name: "day of week",
        most: 7,
        rule: "days of the week are 0 to 7, and both are Sunday",
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
        names_rule: "names of days are SUN to SAT",
        letters: &["L"],
        of_week: true,
        ..MINUTE
    },
];

impl Field {
    /// The number that a text stands for, by itself or as a name.
    fn number(&self, text: &str) -> Option<u32> {
        (self.least..)
            .zip(self.names)
            .find(|(_, name)| name.eq_ignore_ascii_case(text))
            .map(|(number, _)| number)
            .or_else(|| text.parse().ok())
    }

    fn fault(&self, found: &str, reason: impl Into<String>) -> ScheduleError {
        ScheduleError::Field {
            field: self.name,
            found: found.to_owned(),
            reason: reason.into(),
        }
    }
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
    for (text, field) in fields.iter().zip(&FIELDS) {
        check::check(text, field)?;
    }
    let Ok(cron) = read(fields) else {
        return Err(wrong_field(fields));
    };
    let pattern = bits::pattern(fields, &cron);
    match pattern.next_from(FIRST_MINUTE) {
        Some(_) => Ok(pattern),
        None => Err(ScheduleError::NeverFires),
    }
}

/// Lets croner read what it knows; a field that is a period is open for it.
fn read(fields: [&str; 5]) -> Result<Cron, CronError> {
    let plain: Vec<String> = fields
        .into_iter()
        .zip(&FIELDS)
        .map(|(text, field)| match bits::period(text) {
            Some(_) => "*".to_owned(),
            None if field.of_week => wrap::as_lists(&last_sunday_as_zero(text), field),
            None => wrap::as_lists(text, field),
        })
        .collect();
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(&plain.join(" "))
}

/// croner takes 7 for Sunday, but not for the last one of a month.
fn last_sunday_as_zero(weekday: &str) -> String {
    let entries: Vec<&str> = weekday
        .split(',')
        .map(|entry| match entry {
            "7L" | "7l" => "0L",
            "7#L" | "7#l" => "0#L",
            other => other,
        })
        .collect();
    entries.join(",")
}

/// Reads each field with all others open, so that the fault names its field.
fn wrong_field(fields: [&str; 5]) -> ScheduleError {
    for (index, (text, field)) in fields.into_iter().zip(&FIELDS).enumerate() {
        let mut alone = ["*"; 5];
        if let Some(place) = alone.get_mut(index) {
            *place = text;
        }
        if let Err(error) = read(alone) {
            return field.fault(text, error.to_string());
        }
    }
    ScheduleError::FieldCount {
        found: fields.len(),
    }
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

#[cfg(test)]
mod tests;
