//! What came of attempts, on its way into the log: gathered, and told until a leader has it.
//!
//! A report is a fact. Whoever leads takes it, so that the outcome of a deposed leader's request
//! still arrives; one that is told twice is refused the second time, singly.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::id::{NodeId, RunId};
use pacemaker_core::command::{Command, CronReport, Outcome};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::crons::in_flight::IN_ALL_MAX;
use crate::raft::Proposer;

/// Reports of one entry of the log.
const REPORTS_MAX: usize = 512;
/// How long the first report of several waits for the others: an entry of the log costs much more
/// than a report in it, and while requests are being sent it takes their processors. Nobody waits for
/// an outcome to be recorded but the next slot, which is seconds away.
const GATHER: Duration = Duration::from_millis(20);
/// The pause after a report that nobody took.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long a pacemaker that stops tries to tell what it still knows. What it does not get told, it
/// gives up at its next start.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Gives out reports; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    reports: mpsc::Sender<CronReport>,
    pending: Pending,
}

/// The attempts whose outcome is known here, and perhaps nowhere else yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<Mutex<BTreeSet<(RunId, u32)>>>);

impl Reporter {
    /// Makes it, and what [`tell`] needs.
    pub(super) fn new() -> (Self, mpsc::Receiver<CronReport>) {
        let (reports, told) = mpsc::channel(IN_ALL_MAX);
        let reporter = Self {
            reports,
            pending: Pending::default(),
        };
        (reporter, told)
    }

    /// Has a report told.
    pub(super) async fn report(&self, report: CronReport) {
        let run = report.run;
        self.pending.of().insert((run, report.attempt));
        if self.reports.send(report).await.is_err() {
            tracing::debug!(%run, "the outcome of a cron run is not told: the pacemaker stops");
        }
    }

    /// What is not told yet.
    pub(super) fn pending(&self) -> Pending {
        self.pending.clone()
    }
}

impl Pending {
    /// True when a report of this attempt is on its way.
    pub(super) fn has(&self, run: RunId, attempt: u32) -> bool {
        self.of().contains(&(run, attempt))
    }

    fn told(&self, attempts: &[(RunId, u32)]) {
        let mut pending = self.of();
        for attempt in attempts {
            pending.remove(attempt);
        }
    }

    fn of(&self) -> MutexGuard<'_, BTreeSet<(RunId, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells reports until their senders are gone; soon after `shutdown` at the latest.
pub(super) async fn tell(
    proposer: Proposer,
    mut reports: mpsc::Receiver<CronReport>,
    pending: Pending,
    shutdown: CancellationToken,
) {
    let telling = async {
        let mut batch = Vec::new();
        while reports.recv_many(&mut batch, REPORTS_MAX).await > 0 {
            gather(&mut reports, &mut batch).await;
            let told: Vec<_> = batch
                .iter()
                .map(|report| (report.run, report.attempt))
                .collect();
            tell_batch(&proposer, std::mem::take(&mut batch)).await;
            pending.told(&told);
        }
    };
    tokio::select! {
        () = telling => {}
        () = past(shutdown) => tracing::warn!("the outcome of a cron run was not told in time"),
    }
}

/// Adds to a batch what comes within [`GATHER`], as far as an entry takes it.
async fn gather(reports: &mut mpsc::Receiver<CronReport>, batch: &mut Vec<CronReport>) {
    let deadline = Instant::now() + GATHER;
    while batch.len() < REPORTS_MAX {
        let room = REPORTS_MAX - batch.len();
        match tokio::time::timeout_at(deadline, reports.recv_many(batch, room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn past(shutdown: CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep_until(Instant::now() + 2 * STOP_PATIENCE).await;
}

async fn tell_batch(proposer: &Proposer, reports: Vec<CronReport>) {
    let count = reports.len();
    let command = Command::ReportCronRuns {
        runner: NodeId(proposer.own()),
        reports,
    };
    loop {
        match proposer.propose(command.clone()).await {
            Ok(Ok(Outcome::CronRunsReported { stale })) => {
                for run in stale {
                    tracing::debug!(%run, "a report of a cron run came too late");
                }
                return;
            }
            Ok(Ok(outcome)) => {
                tracing::warn!(?outcome, "reports of cron runs had an odd outcome");
                return;
            }
            Ok(Err(rejection)) => {
                tracing::warn!(%rejection, count, "reports of cron runs were refused");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, count, "reports of cron runs are told again");
                tokio::time::sleep_until(Instant::now() + RETRY_PAUSE).await;
            }
        }
    }
}
