//! Time zones: which local minutes are due when.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "instants stay within the calendar's years and offsets within a day or so, in milliseconds"
)]

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

use super::calendar;

const MINUTE_MS: i64 = 60_000;

/// The most that a clock is ever set back: zones have changed their side of the date line.
const REPEATED_MAX_MS: i64 = 26 * 60 * MINUTE_MS;

/// Clock changes that are looked at for the end of one gap: real ones lie months apart.
const CHANGES_MAX: usize = 8;

/// The longest name that is looked up: none of the database has a quarter of it.
const NAME_MAX_BYTES: usize = 256;

/// A time zone by its IANA name, such as `Europe/Paris`.
///
/// What the name means comes with the binary, so that it is the same on every node of one release.
/// A name that was accepted stays what it is when it is read back, also by a release that does not
/// know it: there nothing is ever due in it.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
pub struct Zone {
    name: String,
    time_zone: Option<TimeZone>,
}

/// A text is no time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no time zone of the IANA database has this name")]
pub struct ZoneError;

impl Zone {
    /// Finds a zone by its name, whose case does not matter.
    ///
    /// # Errors
    /// When the database has no such zone.
    pub fn parse(text: &str) -> Result<Self, ZoneError> {
        let time_zone = look_up(text).ok_or(ZoneError)?;
        Ok(Self {
            name: time_zone.iana_name().unwrap_or(text).to_owned(),
            time_zone: Some(time_zone),
        })
    }

    /// UTC, which has no clock changes.
    #[must_use]
    pub fn utc() -> Self {
        Self {
            name: "UTC".to_owned(),
            time_zone: Some(TimeZone::UTC),
        }
    }

    /// The name as the database writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// False for a zone that another release accepted and this one does not know.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.time_zone.is_some()
    }

    /// The names of all zones.
    pub fn names() -> impl Iterator<Item = String> {
        let names: Vec<String> = TimeZoneDatabase::bundled()
            .available()
            .map(|name| name.as_str().to_owned())
            .collect();
        names.into_iter()
    }

    /// The local time of an instant with its offset from UTC, as RFC 3339 writes it.
    #[must_use]
    pub fn rfc3339(&self, time: Timestamp) -> String {
        self.local(time, "%Y-%m-%dT%H:%M:%S%:z")
    }

    /// The local time of an instant for people, such as `Fri 2026-11-20 14:05 +01:00`.
    #[must_use]
    pub fn in_words(&self, time: Timestamp) -> String {
        self.local(time, "%a %Y-%m-%d %H:%M %:z")
    }

    fn local(&self, time: Timestamp, format: &str) -> String {
        let zoned = self
            .time_zone
            .as_ref()
            .and_then(|time_zone| Some(instant(time)?.to_zoned(time_zone.clone())));
        zoned.map_or_else(
            || time.to_string(),
            |zoned| zoned.strftime(format).to_string(),
        )
    }

    /// The first local minute that is due after `after`: all that the clock has shown until then,
    /// or has gone past, are due by then.
    pub(super) fn first_minute_due_after(&self, after: Timestamp) -> Option<i64> {
        let time_zone = self.time_zone.as_ref()?;
        let now = instant(after)?;
        let now_ms = now.as_millisecond();
        if let Ok(offset) = time_zone.to_fixed_offset() {
            let local_ms = now_ms + offset_ms(offset);
            return Some(local_ms.div_euclid(MINUTE_MS) + 1);
        }
        // The change itself counts when it is now.
        let next_ms = jiff::Timestamp::from_millisecond(now_ms + 1).ok()?;
        let Some(change) = time_zone.preceding(next_ms).next() else {
            let local_ms = now_ms + offset_ms(time_zone.to_offset(now));
            return Some(local_ms.div_euclid(MINUTE_MS) + 1);
        };
        let local_ms = now_ms + offset_ms(change.offset());
        let minute = local_ms.div_euclid(MINUTE_MS) + 1;
        let change_ms = change.timestamp().as_millisecond();
        if now_ms - change_ms > REPEATED_MAX_MS {
            return Some(minute);
        }
        let before = jiff::Timestamp::from_millisecond(change_ms - 1).ok()?;
        // What the clock would have shown next when it was set back: until it is past that again,
        // everything is a repetition.
        let reached_ms = change_ms + offset_ms(time_zone.to_offset(before));
        let reached = reached_ms.div_euclid(MINUTE_MS) + i64::from(reached_ms % MINUTE_MS != 0);
        Some(minute.max(reached))
    }

    /// The first instant at which the clock shows this local minute or a later one.
    pub(super) fn due(&self, minute: i64) -> Option<Timestamp> {
        let time_zone = self.time_zone.as_ref()?;
        let local_ms = minute * MINUTE_MS;
        if let Ok(offset) = time_zone.to_fixed_offset() {
            return timestamp(local_ms - offset_ms(offset));
        }
        let local = calendar::date_time(minute)?;
        match time_zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => timestamp(local_ms - offset_ms(offset)),
            AmbiguousOffset::Fold { before, after: _ } => timestamp(local_ms - offset_ms(before)),
            AmbiguousOffset::Gap { before: _, after } => {
                let inside = local_ms - offset_ms(after);
                let start = jiff::Timestamp::from_millisecond(inside).ok()?;
                time_zone
                    .following(start)
                    .take(CHANGES_MAX)
                    .map(|change| (change.timestamp().as_millisecond(), change.offset()))
                    .find(|(change_ms, offset)| change_ms + offset_ms(*offset) > local_ms)
                    .and_then(|(change_ms, _)| timestamp(change_ms))
            }
        }
    }
}

fn look_up(name: &str) -> Option<TimeZone> {
    if name.len() > NAME_MAX_BYTES {
        return None;
    }
    let time_zone = TimeZoneDatabase::bundled().get(name).ok()?;
    (!time_zone.is_unknown()).then_some(time_zone)
}

fn offset_ms(offset: jiff::tz::Offset) -> i64 {
    i64::from(offset.seconds()) * 1000
}

fn instant(time: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(i64::try_from(time.0).ok()?).ok()
}

/// None before 1970 and after the calendar's end.
fn timestamp(ms: i64) -> Option<Timestamp> {
    jiff::Timestamp::from_millisecond(ms).ok()?;
    u64::try_from(ms).ok().map(Timestamp)
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl PartialOrd for Zone {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Zone {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Zone").field(&self.name).finish()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl From<String> for Zone {
    fn from(name: String) -> Self {
        let time_zone = look_up(&name);
        Self { name, time_zone }
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}
