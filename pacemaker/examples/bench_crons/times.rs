//! Clocks, pauses and percentiles.

use std::time::{Duration, Instant, SystemTime};

use crate::Fallible;

/// A percentile of sorted times.
pub(crate) fn part(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

pub(crate) fn ratio(one: &[Duration], other: &[Duration]) -> f64 {
    part(one, 99).as_secs_f64() / part(other, 99).as_secs_f64()
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

pub(crate) async fn wait_until(time: u64) {
    pause(Duration::from_millis(time.saturating_sub(now()))).await;
}

pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep_until((Instant::now() + time).into()).await;
}

/// An idempotency key that nobody has used.
pub(crate) fn key() -> Fallible<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
