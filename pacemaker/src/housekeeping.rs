//! What goes on in the background of a pacemaker, besides leading.
//!
//! The packages are kept complete, sound and free of garbage; logs of jobs and of
//! cron runs that have left the state are removed; those who follow a log hear that its job has ended.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::http::Api;
use crate::job_log::JobLogs;
use crate::replica::Replica;

/// Time between two sweeps; a log may outlive its job by this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps house until `shutdown`.
pub(crate) async fn run(api: Arc<Api>, job_logs: JobLogs, shutdown: CancellationToken) {
    tokio::join!(
        api.packages.run(
            Arc::clone(&api.replica),
            api.proposer.clone(),
            shutdown.clone()
        ),
        sweep(&api, &job_logs, &shutdown),
        tell_ends(&api.replica, &job_logs, &shutdown),
    );
}

/// Removes the logs of jobs and of cron runs that are not kept.
async fn sweep(api: &Api, job_logs: &JobLogs, shutdown: &CancellationToken) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        // Before the log has been caught up with, a young job looks like one that is gone.
        if let Err(error) = api.proposer.barrier().await {
            tracing::debug!(%error, "logs are not swept before the log has been caught up with");
            continue;
        }
        let (replica, job_logs) = (Arc::clone(&api.replica), job_logs.clone());
        let cron_logs = api.cron_logs.clone();
        let swept = tokio::task::spawn_blocking(move || {
            job_logs.sweep(SystemTime::now(), |job| {
                replica.read(|state| state.job(job).is_some())
            })?;
            cron_logs.sweep(|run| replica.read(|state| state.cron_run(run).is_some()))
        })
        .await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "removing old logs failed"),
            Err(error) => tracing::error!(%error, "removing old logs panicked"),
        }
    }
}

/// Wakes those who follow logs of jobs that have ended: a log's end has no bytes of its own.
async fn tell_ends(replica: &Replica, job_logs: &JobLogs, shutdown: &CancellationToken) {
    let mut changes = replica.changes();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
        replica.read(|state| {
            job_logs.wake_ended(|job| state.job(job).is_none_or(|job| job.state.is_final()));
        });
    }
}
