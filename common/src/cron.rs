//! When a web cron fires: an expression, a time zone, and the slots that they make.
//!
//! A slot is an instant. One rule makes them, whatever the expression: a local time that matches
//! is due at the first instant at which the zone's clock shows it or a later time. So a time that
//! a clock change skips is due at the first instant after the gap, together with all others that
//! it skips and with what is due there anyway; a time that a clock change repeats is due at its
//! first occurrence only.
//!
//! ```text
//! text ── expression ──> Pattern ── next_from ──> local minute ── Zone ──> Timestamp
//! ```

mod calendar;
mod expression;
mod pattern;
mod zone;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

pub use expression::{EXPRESSION_MAX_BYTES, ScheduleError};
pub use zone::{Zone, ZoneError};

use pattern::Pattern;

/// An expression that fires some time, ready to be asked when.
///
/// One that was accepted stays what it is when it is read back, also by a release that reads it
/// otherwise or not at all: there nothing is ever due by it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
pub struct Schedule {
    expression: String,
    /// None for what this release cannot read.
    pattern: Option<Pattern>,
}

impl Schedule {
    /// Checks an expression: five fields with lists, ranges, steps, and names, or a nickname.
    ///
    /// Also what expressions of 2013 may have: `L`, `W`, `#`, and `%n`, which is every n-th minute,
    /// hour, day or month since 1970 in local time (days for a day of the week too, as in 2013).
    ///
    /// # Errors
    /// Says which field is wrong and why.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let pattern = expression::parse(text)?;
        Ok(Self {
            expression: text.trim().to_owned(),
            pattern: Some(pattern),
        })
    }

    /// False for an expression that another release accepted and this one cannot read.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.pattern.is_some()
    }

    /// What may be written in place of five fields, such as `@hourly`.
    pub fn nicknames() -> impl Iterator<Item = &'static str> {
        expression::nicknames()
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.expression
    }

    /// The first slot after `after`, not `after` itself, where `zone` has the local time.
    ///
    /// None when there is no more: the expression or the zone is not known to this release, or a
    /// period since 1970 (`%n`) is so long that the search gives up, or the calendar ends.
    #[must_use]
    pub fn next_after(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let pattern = self.pattern.as_ref()?;
        let mut minute = zone.first_minute_due_after(after)?;
        // The first match is the answer, but for rules of clock changes that nobody has made yet.
        for _ in 0..LOOKS_MAX {
            minute = pattern.next_from(minute)?;
            let slot = zone.due(minute)?;
            if slot > after {
                return Some(slot);
            }
            minute = minute.saturating_add(1);
        }
        None
    }
}

/// Local minutes that match and are looked at until one is due after the time that was asked for.
const LOOKS_MAX: u32 = 64;

/// The expression alone.
impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.expression).finish()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

impl From<String> for Schedule {
    fn from(expression: String) -> Self {
        let pattern = expression::parse(&expression).ok();
        Self {
            expression,
            pattern,
        }
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.expression
    }
}
