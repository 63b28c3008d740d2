//! Which refusals of peers are worth a line in the log.
//!
//! A peer that is refused asks again, for as long as it runs. Once a minute is enough to find it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines about the same refusal.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Members and codes that are remembered; more than any group has, and a bound on who makes numbers up.
const REMEMBERED_MAX: usize = 256;

/// What has been said of refusals.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    said: Mutex<BTreeMap<(u64, &'static str), Instant>>,
}

impl Refusals {
    /// True when a refusal of this member with this code is to be said.
    pub(crate) fn is_news(&self, member: u64, code: &'static str, now: Instant) -> bool {
        // A panic elsewhere leaves the map whole.
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < SAID_EVERY;
        if said.get(&(member, code)).is_some_and(is_recent) {
            return false;
        }
        if said.len() >= REMEMBERED_MAX {
            said.retain(|_, at| is_recent(at));
        }
        if said.len() < REMEMBERED_MAX {
            said.insert((member, code), now);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_once_a_minute_and_each_on_its_own() {
        let refusals = Refusals::default();
        let start = Instant::now();

        assert!(refusals.is_news(4, "member_removed", start));
        assert!(refusals.is_news(4, "log_lost", start));
        assert!(refusals.is_news(5, "member_removed", start));
        let later = start + SAID_EVERY - Duration::from_millis(1);
        assert!(!refusals.is_news(4, "member_removed", later));
        assert!(refusals.is_news(4, "member_removed", start + SAID_EVERY));
    }

    #[test]
    fn numbers_that_are_made_up_are_forgotten_and_never_said_without_end() {
        let refusals = Refusals::default();
        let start = Instant::now();

        let said = (0..10_000).filter(|member| refusals.is_news(*member, "not_a_member", start));

        assert_eq!(said.count(), REMEMBERED_MAX);
        assert!(refusals.is_news(10_001, "not_a_member", start + SAID_EVERY));
    }
}
