//! How fast requests are begun: a burst at once, and then so many a second that a stampede of crons
//! leaves room for the API and for the log.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two requests of a stampede: some 3,500 a second, so that the most crons that a cell
/// can have are begun within the 30 s in which a slot is fired late, and no sooner: it is the API and
/// the other applications that would wait.
const EACH: Duration = Duration::from_micros(280);
/// Requests that need not wait after a pause.
const BURST: u32 = 1_024;
/// The fewest that are worth an entry of the log while there are more: few, so that a question to the
/// API that comes in between waits for no more than a few milliseconds of work.
const WORTH: u32 = 16;

/// Lets requests begin, in order.
#[derive(Debug)]
pub(super) struct Pace {
    /// When a full burst is allowed again.
    full_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// How many may begin now, or when it is worth to ask again.
    pub(super) fn allowed(&self, now: Instant) -> Result<usize, Instant> {
        let taken = self.full_at.saturating_duration_since(now);
        let free = (EACH * BURST).saturating_sub(taken);
        let count = usize::try_from(free.as_micros() / EACH.as_micros()).unwrap_or(usize::MAX);
        if free >= EACH * WORTH {
            Ok(count)
        } else {
            Err(now + (EACH * WORTH).saturating_sub(free))
        }
    }

    /// So many have begun.
    pub(super) fn take(&mut self, count: usize, now: Instant) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(now) + EACH.saturating_mul(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_free_and_the_rest_is_paced() {
        let start = Instant::now();
        let mut pace = Pace::new(start);

        assert_eq!(pace.allowed(start), Ok(1_024));
        pace.take(512, start);
        assert_eq!(pace.allowed(start), Ok(512));
        pace.take(512, start);
        let later = pace.allowed(start).unwrap_err();
        assert_eq!(later, start + EACH * WORTH);
        assert_eq!(pace.allowed(later), Ok(16));
        pace.take(16, later);
        let second = start + Duration::from_secs(1);
        assert_eq!(pace.allowed(second), Ok(1_024), "no more than a burst");
    }
}
