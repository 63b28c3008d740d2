//! Waiting for a level: the one place where tests let time pass.

use std::time::Duration;

use anyhow::{Result, bail};

/// Seconds that tests wait before they give up; slow machines set more.
pub const PATIENCE_VARIABLE: &str = "PM_TEST_PATIENCE";

/// The patience unless told otherwise: far longer than anything should take on two busy cores.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long tests wait.
#[must_use]
pub fn patience() -> Duration {
    std::env::var(PATIENCE_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(DEFAULT_PATIENCE, Duration::from_secs)
}

/// Looks again and again until `look` gives something, and gives that.
///
/// # Errors
/// When it has not within the patience: names `level`.
pub async fn eventually<T, Looking: Future<Output = Option<T>>>(
    level: &str,
    mut look: impl FnMut() -> Looking,
) -> Result<T> {
    let deadline = tokio::time::Instant::now() + patience();
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    loop {
        if let Some(seen) = look().await {
            return Ok(seen);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("not within {} s: {level}", patience().as_secs());
        }
        interval.tick().await;
    }
}
