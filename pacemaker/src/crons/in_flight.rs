//! The attempts under way at this pacemaker: how many there may be, and when one is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use common::id::{NodeId, RunId};
use common::time::{Span, Timestamp};
use pacemaker_core::command::{CronReport, CronResult};
use pacemaker_core::state::crons::{CronRun, RunPhase};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

use crate::crons::attempt::{Attempt, Caller, Ended, Stop, Stopped};
use crate::crons::reports::{Pending, Reporter};
use crate::metrics::{CronLabel, Metrics};
use crate::replica::Replica;

/// Attempts under way in all: some hundred bytes to some ten kilobytes each.
pub(super) const IN_ALL_MAX: usize = 4_096;
/// As many are tried however few files may be open.
const IN_ALL_MIN: u64 = 16;
/// Open files that are not for crons: the log, connections of clients, packages.
const FILES_RESERVED: u64 = 512;
/// Open files of an attempt: its connection, and its log.
const FILES_EACH: u64 = 2;

/// Of a run that nobody sends.
const NOT_SENT: &str = "not sent: the pacemaker was stopped or deposed while it recorded the run";

/// How long attempts that are ended may take to write their logs.
const LOG_PATIENCE: Duration = Duration::from_millis(500);

/// The attempts under way.
#[derive(Debug)]
pub(super) struct InFlight {
    caller: Caller,
    metrics: Metrics,
    reporter: Reporter,
    tasks: JoinSet<(RunId, u32)>,
    runs: BTreeMap<RunId, Flight>,
    max: u64,
}

#[derive(Debug)]
struct Flight {
    attempt: u32,
    task: AbortHandle,
    /// None once it has been told to end.
    stop: Option<oneshot::Sender<Stop>>,
}

impl Flight {
    /// Ends it; answers what resolves once its connection is closed.
    fn stop(&mut self, why: Stopped) -> Option<oneshot::Receiver<()>> {
        let (closed, is_closed) = oneshot::channel();
        // One that ends by itself at this moment drops what it is told.
        self.stop.take()?.send(Stop { why, closed }).ok();
        Some(is_closed)
    }
}

impl InFlight {
    /// Makes it, and the other end of its reports.
    pub(super) fn new(caller: Caller, metrics: Metrics) -> (Self, mpsc::Receiver<CronReport>) {
        let (reporter, told) = Reporter::new();
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let by_files = files.saturating_sub(FILES_RESERVED) / FILES_EACH;
        let max = by_files.clamp(IN_ALL_MIN, IN_ALL_MAX as u64);
        let in_flight = Self {
            caller,
            metrics,
            reporter,
            tasks: JoinSet::new(),
            runs: BTreeMap::new(),
            max,
        };
        (in_flight, told)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The most that there may be.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, attempt: Attempt) {
        let (run, number) = (attempt.call.run, attempt.call.attempt);
        let (caller, reporter) = (self.caller.clone(), self.reporter.clone());
        let metrics = self.metrics.clone();
        let (stop, stopped) = oneshot::channel();
        self.remove(run, None);
        let task = self.tasks.spawn(async move {
            if let Some(report) = perform(&caller, &metrics, attempt, stopped).await {
                reporter.report(report).await;
            }
            (run, number)
        });
        let flight = Flight {
            attempt: number,
            task,
            stop: Some(stop),
        };
        self.runs.insert(run, flight);
        self.count();
    }

    /// Resolves when an attempt has ended; never while there is none.
    pub(super) async fn one_ended(&mut self) {
        let Some(first) = self.tasks.join_next().await else {
            return std::future::pending().await;
        };
        let mut next = Some(first);
        while let Some(ended) = next {
            self.forget(ended);
            next = self.tasks.try_join_next();
        }
        self.count();
    }

    fn forget(&mut self, ended: Result<(RunId, u32), JoinError>) {
        match ended {
            Ok((run, attempt)) => self.remove(run, Some(attempt)),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "an attempt of a cron run panicked");
                }
                let finished = |flight: &Flight| flight.task.is_finished();
                let over = self.runs.iter().filter(|(_, flight)| finished(flight));
                for run in over.map(|(run, _)| *run).collect::<Vec<_>>() {
                    self.remove(run, None);
                }
            }
        }
    }

    /// What is on its way into the log.
    pub(super) fn pending(&self) -> Pending {
        self.reporter.pending()
    }

    /// Compares with the state: drops the attempts whose runs were replaced or go on elsewhere, and
    /// reports as lost what this pacemaker should be making and is not, because it did not hear in
    /// time that it was recorded. What counts as lost and is still under way goes on: its outcome is
    /// better than none.
    pub(super) async fn compare(&mut self, replica: &Replica, me: NodeId, now: Timestamp) {
        self.drop_ended(replica, me);
        let pending = self.pending();
        let orphans = replica.read(|state| {
            let is_known = |run: &CronRun| {
                self.runs.contains_key(&run.id) || pending.has(run.id, run.attempts)
            };
            let orphans = state.cron_runs_of(me).filter(|run| !is_known(run));
            let orphans = orphans.map(|run| (run.id, run.attempts));
            orphans.collect::<Vec<_>>()
        });
        for (run, attempt) in orphans {
            tracing::info!(%run, attempt, "a cron run was recorded too late to be sent");
            self.report_lost((run, attempt), now, NOT_SENT).await;
        }
    }

    /// Drops the attempts whose runs were replaced or go on elsewhere; answers what resolves once
    /// their connections are closed.
    pub(super) fn drop_ended(
        &mut self,
        replica: &Replica,
        me: NodeId,
    ) -> Vec<oneshot::Receiver<()>> {
        let flights = self.runs.iter_mut();
        let over = replica.read(|state| {
            let over = flights.filter_map(|(run, flight)| {
                let record = state.cron_run(*run);
                let why = why_ended(record, flight.attempt, me)?;
                Some((*run, why, flight))
            });
            over.collect::<Vec<_>>()
        });
        let closed = over.into_iter().filter_map(|(run, why, flight)| {
            let closed = flight.stop(why)?;
            tracing::info!(%run, words = why.words(), "the request of a cron run is dropped");
            Some(closed)
        });
        closed.collect()
    }

    /// Waits for the attempts under way until `deadline`, drops the others and reports them.
    pub(super) async fn end(&mut self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, self.all_ended())
            .await
            .is_ok()
        {
            return;
        }
        tracing::warn!(count = self.runs.len(), "requests of crons were dropped");
        for flight in self.runs.values_mut() {
            flight.stop(Stopped::Shutdown);
        }
        let written = Instant::now() + LOG_PATIENCE;
        if tokio::time::timeout_at(written, self.all_ended())
            .await
            .is_ok()
        {
            return;
        }
        self.tasks.shutdown().await;
        let now = self.caller.wall.now();
        let words = Stopped::Shutdown.words();
        for (run, flight) in std::mem::take(&mut self.runs) {
            self.report_lost((run, flight.attempt), now, words).await;
        }
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.forget(ended);
        }
    }

    async fn report_lost(&self, (run, attempt): (RunId, u32), now: Timestamp, words: &str) {
        let report = CronReport {
            run,
            attempt,
            instance: None,
            status: None,
            ended: now,
            duration: Span(0),
            result: CronResult::Lost,
            words: words.to_owned(),
        };
        self.reporter.report(report).await;
    }

    /// Forgets a run's attempt, that one or any, and ends it.
    fn remove(&mut self, run: RunId, attempt: Option<u32>) {
        let is_meant = |flight: &Flight| attempt.is_none_or(|attempt| attempt == flight.attempt);
        if !self.runs.get(&run).is_some_and(is_meant) {
            return;
        }
        if let Some(flight) = self.runs.remove(&run) {
            flight.task.abort();
        }
    }

    fn count(&self) {
        let count = i64::try_from(self.runs.len()).unwrap_or(i64::MAX);
        self.metrics.crons_in_flight.set(count);
    }
}

/// Why an attempt under way is to be dropped, by what the state says of its run.
fn why_ended(run: Option<&CronRun>, attempt: u32, me: NodeId) -> Option<Stopped> {
    let run = run.filter(|run| run.attempts == attempt && run.runner == Some(me));
    match run.map(|run| run.phase) {
        None => Some(Stopped::Superseded),
        Some(RunPhase::Replaced) => Some(Stopped::Replaced),
        Some(_) => None,
    }
}

/// What an outcome is called in the metrics.
fn label_of(ended: &Ended) -> CronLabel {
    let outcome = match (ended.stopped, ended.result) {
        (Some(Stopped::Replaced), _) => "replaced",
        (_, CronResult::Succeeded) => "succeeded",
        (_, CronResult::Failed) => "failed",
        (_, CronResult::TimedOut) => "timed_out",
        (_, CronResult::Lost) => "lost",
    };
    CronLabel { outcome }
}

/// Makes an attempt; answers its report, none when the state has ended it already.
async fn perform(
    caller: &Caller,
    metrics: &Metrics,
    attempt: Attempt,
    stop: oneshot::Receiver<Stop>,
) -> Option<CronReport> {
    let started = Instant::now();
    let ended = caller.make(&attempt, stop).await;
    let call = &attempt.call;
    let duration = caller.wall.shown(started.elapsed());
    let label = label_of(&ended);
    let outcome = label.outcome;
    metrics.cron_runs.get_or_create(&label).inc();
    if matches!(ended.stopped, Some(Stopped::Replaced | Stopped::Superseded)) {
        return None;
    }
    // What went well is of interest to its application, not to whoever runs the cluster.
    match ended.result {
        CronResult::Succeeded => tracing::debug!(
            run = %call.run, attempt = call.attempt, application = %call.application,
            cron = %call.cron, words = ended.words, "a cron run has succeeded"
        ),
        CronResult::Failed | CronResult::TimedOut | CronResult::Lost => tracing::info!(
            run = %call.run, attempt = call.attempt, application = %call.application,
            cron = %call.cron, scheduled = %call.scheduled,
            instance = ended.instance.map(|instance| instance.0), status = ended.status,
            duration_ms = duration.0, outcome, words = ended.words, "a cron run has failed"
        ),
    }
    Some(CronReport {
        run: call.run,
        attempt: call.attempt,
        instance: ended.instance,
        status: ended.status,
        ended: caller.wall.now(),
        duration,
        result: ended.result,
        words: ended.words,
    })
}
