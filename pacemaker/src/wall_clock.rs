//! What crons take for the time of day, and nothing else does.
//!
//! The log's time never goes back, and may run ahead of the world for long after a clock was set
//! forward; a cron is due by the wall clock of whoever leads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::time::{Span, Timestamp};

/// A wall clock; clones show the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock {
    /// None: the system's.
    scale: Option<Scale>,
}

#[derive(Clone, Copy, Debug)]
struct Scale {
    start: Timestamp,
    rate: u32,
}

impl WallClock {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock for tests, in which minutes must pass in seconds: up to `start` it is the system's,
    /// and it goes `rate` times as fast from then on. All who are given the same values
    /// agree on the time. Crons alone read it, and measure their timeouts by it.
    #[must_use]
    pub fn scaled(start: Timestamp, rate: u32) -> Self {
        Self {
            scale: Some(Scale {
                start,
                rate: rate.max(1),
            }),
        }
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.at(Timestamp(
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        ))
    }

    /// What it shows when the system's clock shows `real`.
    fn at(self, real: Timestamp) -> Timestamp {
        match self.scale {
            None => real,
            Some(Scale { start, .. }) if real <= start => real,
            Some(Scale { start, rate }) => {
                let passed = real.since(start).0.saturating_mul(u64::from(rate));
                start.after(Span(passed))
            }
        }
    }

    /// How long `span` of this clock takes.
    #[must_use]
    pub fn real(&self, span: Span) -> Duration {
        span.duration() / self.rate()
    }

    /// How far this clock goes in `real`.
    #[must_use]
    pub fn shown(&self, real: Duration) -> Span {
        let shown = real.saturating_mul(self.rate()).as_millis();
        Span(u64::try_from(shown).unwrap_or(u64::MAX))
    }

    fn rate(self) -> u32 {
        self.scale.map_or(1, |scale| scale.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_clock_begins_with_the_worlds_time_and_goes_faster() {
        let clock = WallClock::scaled(Timestamp(60_000), 60);

        assert_eq!(clock.at(Timestamp(50_000)), Timestamp(50_000));
        assert_eq!(clock.at(Timestamp(60_000)), Timestamp(60_000));
        assert_eq!(clock.at(Timestamp(61_000)), Timestamp(120_000));
        assert_eq!(clock.real(Span::seconds(60)), Duration::from_secs(1));
        assert_eq!(clock.shown(Duration::from_secs(1)), Span::seconds(60));
        assert_eq!(WallClock::system().at(Timestamp(7)), Timestamp(7));
    }
}
