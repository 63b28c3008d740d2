//! When a certificate is renewed, when a renewal that failed is tried again, and how loudly it is
//! said: pure, told the time and the chance.
//!
//! ```text
//! signed ───────── half of its life ──spread──┬───────────── three quarters ───────────── end
//!                                              renewed here    failures are errors from here on
//! ```

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use common::time::{Span, Timestamp};

/// The nodes that were started at the same moment renew over this part of what is left at half of a
/// certificate's life: three hours for a day's certificate.
const SPREAD: u64 = 4;
/// The first pause after a renewal that failed; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, before chance lengthens it by up to a half.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Attempts that fail between two warnings, once the pause is the longest: ten minutes.
const ATTEMPTS_PER_WARNING: u32 = 10;
/// The first failures are all said: they tell what is wrong.
const SAID_AT_FIRST: u32 = 3;

/// A certificate's times, and chance that is another for each certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// Half of its life has passed.
    half: Timestamp,
    /// It ends.
    end: Timestamp,
    chance: u64,
}

/// How loudly a failure is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loudness {
    /// It was said a while ago, and there is time.
    Quiet,
    /// Somebody may want to know.
    Warning,
    /// Somebody must look: soon, or already, this node is not talked to any more.
    Error,
}

impl Life {
    /// Of a certificate; its own text is the chance, as no two are the same.
    pub(super) fn new(half: Timestamp, end: Timestamp, certificate: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        certificate.hash(&mut hasher);
        Self {
            half,
            end,
            chance: hasher.finish(),
        }
    }

    /// When it is to be renewed.
    pub(super) fn renewal(self) -> Timestamp {
        let spread = self.end.since(self.half).0 / SPREAD;
        self.half.after(Span(self.chance % spread.max(1)))
    }

    /// How long to wait after so many failures in a row.
    pub(super) fn pause(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        // So that nodes that were refused together do not come again together.
        let percent = u32::try_from(self.chance % 50).unwrap_or(0);
        pause + pause * percent / 100
    }

    /// How loudly the failure is said that is so many in a row.
    pub(super) fn loudness(self, failures: u32, now: Timestamp) -> Loudness {
        let left = self.end.since(now);
        if left.0 <= self.end.since(self.half).0 / 2 {
            Loudness::Error
        } else if failures <= SAID_AT_FIRST || failures.is_multiple_of(ATTEMPTS_PER_WARNING) {
            Loudness::Warning
        } else {
            Loudness::Quiet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn of_a_day(certificate: &str) -> Life {
        Life::new(Timestamp(12 * HOUR), Timestamp(24 * HOUR), certificate)
    }

    #[test]
    fn nodes_of_one_moment_renew_spread_over_three_hours() {
        let times: Vec<u64> = (0..1_000)
            .map(|node| of_a_day(&format!("certificate {node}")).renewal().0)
            .collect();

        assert!(times.iter().all(|at| (12 * HOUR..15 * HOUR).contains(at)));
        for quarter in 0..12 {
            let begin = 12 * HOUR + quarter * HOUR / 4;
            let within = begin..begin + HOUR / 4;
            let count = times.iter().filter(|at| within.contains(at)).count();
            assert!((40..140).contains(&count), "{count} in quarter {quarter}");
        }
        // The same certificate always has the same time: a restart does not move it.
        assert_eq!(of_a_day("one").renewal(), of_a_day("one").renewal());
    }

    #[test]
    fn pauses_grow_and_differ_and_are_bounded() {
        let life = of_a_day("one");
        assert!(life.pause(1) >= FIRST_PAUSE && life.pause(1) < FIRST_PAUSE * 2);
        assert!(life.pause(4) >= life.pause(3));
        assert!(life.pause(u32::MAX) < LONGEST_PAUSE * 2);
        let differ: std::collections::BTreeSet<Duration> = (0..40)
            .map(|node| of_a_day(&node.to_string()).pause(7))
            .collect();
        assert!(differ.len() > 10, "{differ:?}");
    }

    #[test]
    fn failures_are_warnings_now_and_then_and_errors_near_the_end() {
        let life = of_a_day("one");
        let early = Timestamp(13 * HOUR);
        let said: Vec<u32> = (1..=40)
            .filter(|failures| life.loudness(*failures, early) == Loudness::Warning)
            .collect();
        assert_eq!(said, [1, 2, 3, 10, 20, 30, 40]);
        for late in [18 * HOUR, 23 * HOUR, 30 * HOUR] {
            assert_eq!(life.loudness(17, Timestamp(late)), Loudness::Error);
        }
    }

    #[test]
    fn a_certificate_without_a_life_is_renewed_at_once() {
        let life = Life::new(Timestamp(5), Timestamp(5), "one");
        assert_eq!(life.renewal(), Timestamp(5));
        assert_eq!(life.loudness(1, Timestamp(5)), Loudness::Error);
    }
}
