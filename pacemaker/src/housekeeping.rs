//! Removes what nobody refers to any more: today the logs of jobs that have left the state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::job_log::JobLogs;
use crate::replica::Replica;

/// Time between two sweeps; a log may outlive its job by this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Sweeps until `shutdown`. Must not run before the state has caught up with the log.
pub(crate) async fn run(replica: Arc<Replica>, job_logs: JobLogs, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        let (replica, job_logs) = (Arc::clone(&replica), job_logs.clone());
        let swept = tokio::task::spawn_blocking(move || {
            job_logs.sweep(|job| replica.read(|state| state.job(job).is_some()))
        })
        .await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "removing old job logs failed"),
            Err(error) => tracing::error!(%error, "removing old job logs panicked"),
        }
    }
}
