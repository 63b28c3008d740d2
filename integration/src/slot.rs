//! A minute of the wall clock that a whole test waits for once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use common::time::Timestamp;

const MINUTE_MS: u64 = 60_000;
const MINUTES_OF_AN_HOUR: u64 = 60;
const HOURS_OF_A_DAY: u64 = 24;

/// The beginning of a minute, UTC. Crons that name it fire then and not at another minute of the
/// test, however slow the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(Timestamp);

impl Slot {
    /// The first minute that begins at least this far from here.
    ///
    /// # Errors
    /// When the clock stands before 1970.
    pub fn after(preparation: Duration) -> Result<Self> {
        let earliest = now_ms()? + u64::try_from(preparation.as_millis())?;
        Ok(Self(Timestamp(earliest.div_ceil(MINUTE_MS) * MINUTE_MS)))
    }

    /// The minute after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(Timestamp(self.0.0 + MINUTE_MS))
    }

    /// When it begins.
    #[must_use]
    pub fn time(self) -> Timestamp {
        self.0
    }

    /// The expression that fires then, once a day.
    #[must_use]
    pub fn runspec(self) -> String {
        let minutes = self.0.0 / MINUTE_MS;
        let hours = minutes / MINUTES_OF_AN_HOUR;
        format!(
            "{} {} * * *",
            minutes % MINUTES_OF_AN_HOUR,
            hours % HOURS_OF_A_DAY
        )
    }

    /// Waits until `lead` before it begins.
    ///
    /// # Errors
    /// When that has passed: what a test does before its slot took too long.
    pub async fn comes(self, lead: Duration) -> Result<()> {
        let moment = self.0.0 - u64::try_from(lead.as_millis())?;
        let left = moment
            .checked_sub(now_ms()?)
            .context("the test was too slow to be ready for its slot")?;
        passes(Duration::from_millis(left)).await;
        Ok(())
    }

    /// Waits until `lag` after it has begun; at once when that has passed.
    ///
    /// # Errors
    /// When the clock stands before 1970.
    pub async fn has_passed(self, lag: Duration) -> Result<()> {
        let moment = self.0.0 + u64::try_from(lag.as_millis())?;
        passes(Duration::from_millis(moment.saturating_sub(now_ms()?))).await;
        ensure!(now_ms()? >= self.0.0, "the clock was set back");
        Ok(())
    }
}

/// Lets time pass that is the test's input.
async fn passes(time: Duration) {
    tokio::time::timeout(time, std::future::pending::<()>())
        .await
        .ok();
}

fn now_ms() -> Result<u64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands after 1970")?;
    u64::try_from(since.as_millis()).context("the clock stands before the year 500 million")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expression_names_the_minute() {
        // 2026-11-20T14:05:00Z
        let slot = Slot(Timestamp(1_795_183_500_000));

        assert_eq!(slot.0.to_string(), "2026-11-20T14:05:00Z");
        assert_eq!(slot.runspec(), "5 14 * * *");
        assert_eq!(slot.next().runspec(), "6 14 * * *");
    }
}
