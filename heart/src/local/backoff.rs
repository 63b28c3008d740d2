//! How long an instance waits before it is started again.

use common::time::Span;

/// The first wait that is not zero.
pub const BACKOFF_FIRST: Span = Span::seconds(1);
/// No wait is longer.
pub const BACKOFF_LIMIT: Span = Span::seconds(300);
/// Having run for so long, an instance counts as well: its next crash is its first.
pub const WELL_AFTER: Span = Span::seconds(300);

/// The wait before restart number `restarts + 1`: at once, then 1 s doubling to 5 min.
///
/// A process that never passed its start check (or was never started) waits at least the first
/// second: trying the same again at once would only fail again, and its failure would hardly be seen.
#[must_use]
pub fn delay_before_restart(restarts: u32, had_run: bool) -> Span {
    let step = if had_run { restarts } else { restarts.max(1) };
    let Some(doublings) = step.checked_sub(1) else {
        return Span(0);
    };
    // A shift by 63 still fits, and is far beyond the limit.
    let factor = 1_u64 << doublings.min(63);
    Span(BACKOFF_FIRST.0.saturating_mul(factor).min(BACKOFF_LIMIT.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_restarts_at_once_then_waits_twice_as_long_each_time() {
        let waits: Vec<u64> = (0..12)
            .map(|restarts| delay_before_restart(restarts, true).0 / 1000)
            .collect();

        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn a_start_that_failed_is_not_repeated_at_once() {
        assert_eq!(delay_before_restart(0, false), BACKOFF_FIRST);
        assert_eq!(delay_before_restart(1, false), BACKOFF_FIRST);
        assert_eq!(delay_before_restart(2, false), Span::seconds(2));
    }

    #[test]
    fn no_number_of_restarts_passes_the_limit() {
        for restarts in [63, 64, 65, u32::MAX] {
            assert_eq!(delay_before_restart(restarts, true), BACKOFF_LIMIT);
        }
    }
}
