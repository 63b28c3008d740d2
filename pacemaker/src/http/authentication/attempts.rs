//! How often somebody may be wrong.
//!
//! Secrets have 128 bits at least, so that guessing is hopeless; this keeps guesses from costing more
//! than a hash. Only wrong ones count, over all who ask: whoever has the right secret is never kept
//! out, and nothing is remembered of anyone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::RETRY_AFTER;

use crate::http::error::{Answer, Failure};

/// Wrong attempts that may come at once: a fleet of machines with the same old token.
const AT_ONCE: u32 = 200;
/// Then one in this time.
const EVERY: Duration = Duration::from_millis(50);

/// Counts wrong attempts.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// When all wrong attempts are forgotten; each moves it by [`EVERY`].
    forgotten: Mutex<Instant>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            forgotten: Mutex::new(Instant::now()),
        }
    }
}

impl Attempts {
    /// Counts one, and refuses it when there were too many.
    pub(crate) fn take(&self) -> Answer<()> {
        if self.take_at(Instant::now()) {
            return Ok(());
        }
        Err(Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_attempts",
            "There were too many wrong attempts.",
            "The token is not known, nor were many before it. Check it, and try again later.",
        )
        .with_header(RETRY_AFTER, 1))
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut forgotten = self
            .forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let from = (*forgotten).max(now);
        if from.saturating_duration_since(now) >= EVERY * AT_ONCE {
            return false;
        }
        *forgotten = from + EVERY;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wrong_attempts_are_refused_for_a_while() {
        let attempts = Attempts::default();
        let start = Instant::now() + EVERY;

        let taken = (0..1_000).filter(|_| attempts.take_at(start)).count();
        assert_eq!(taken, AT_ONCE as usize);
        assert!(!attempts.take_at(start));
        assert!(attempts.take_at(start + EVERY));
        assert!(!attempts.take_at(start + EVERY));
        assert!(attempts.take_at(start + EVERY * AT_ONCE * 2));
    }
}
