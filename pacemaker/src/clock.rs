//! The time that goes into the log: the wall clock as far as it can be believed.
//!
//! A wall clock that is set back would stand still for the log, whose time never goes backwards,
//! and with it everything that waits for a time: no node would ever count as silent. So time goes
//! on from where it was, by the monotonic clock, until the wall clock has caught up.

use std::time::Instant;

use common::time::{Span, Timestamp};

/// A clock that never goes back and never stands still.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// A time that was right, and when it was.
    anchor: Option<(Instant, Timestamp)>,
}

impl Clock {
    /// The time at `instant`, when the wall clock says `wall` and the log has come to `floor`.
    pub(crate) fn read(
        &mut self,
        instant: Instant,
        wall: Timestamp,
        floor: Timestamp,
    ) -> Timestamp {
        let told = wall.max(floor);
        let carried = self.anchor.map(|(since, time)| {
            let passed = instant.saturating_duration_since(since).as_millis();
            time.after(Span(u64::try_from(passed).unwrap_or(u64::MAX)))
        });
        match carried {
            Some(carried) if carried >= told => carried,
            Some(_) | None => {
                self.anchor = Some((instant, told));
                told
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_goes_on_though_the_wall_clock_is_set_back() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let mut at = |passed, wall, floor| {
            let instant = start + Duration::from_millis(passed);
            clock.read(instant, Timestamp(wall), Timestamp(floor)).0
        };

        assert_eq!(at(0, 10_000, 0), 10_000);
        assert_eq!(at(100, 10_100, 0), 10_100);
        assert_eq!(at(200, 50_000, 10_100), 50_000, "set forward");
        assert_eq!(at(300, 10_300, 50_000), 50_100, "set back");
        assert_eq!(at(1_300, 11_300, 50_000), 51_100, "and it goes on");
        assert_eq!(at(1_400, 11_400, 90_000), 90_000, "the log is ahead");
        assert_eq!(at(1_500, 11_500, 90_000), 90_100);
    }

    #[test]
    fn time_goes_on_however_often_it_is_asked_for() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let floor = Timestamp(1_000);

        let last = (0..=10_000)
            .map(|step| {
                clock.read(
                    start + Duration::from_micros(100 * step),
                    Timestamp(0),
                    floor,
                )
            })
            .last();

        assert_eq!(last, Some(Timestamp(2_000)));
    }
}
