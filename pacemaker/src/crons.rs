//! Web crons: records what is due, and makes the requests.
//!
//! ```text
//! state, wall clock ──► CronPlanner ──► DecideCrons ──► the log ──► apply ──► granted runs
//!                                    (only in this term)                        │
//!     the log ◄── ReportCronRuns ◄── what came of it ◄── attempt ◄──────────────┘
//!                 (whoever leads)                        (until SEND_WITHIN, while it leads)
//! ```
//! Every pacemaker runs a [`CronLoop`]. While it leads it asks the core what is due, has that
//! recorded in its own term, and makes an attempt for each run that the record grants. An attempt
//! outlives the leadership; one whose run has ended in the state otherwise is dropped.
//!
//! Never does: decide, send before a record, or send for a record that is not its own.

mod attempt;
mod choice;
mod exchange;
mod in_flight;
pub(crate) mod log;
mod pace;
mod redirect;
mod reports;
mod request;
mod send_by;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::id::NodeId;
use common::time::Timestamp;
use pacemaker_core::command::{Command, CronDecision, CronGrant, CronReport, Outcome};
use pacemaker_core::crons::CronPlanner;
use pacemaker_core::state::State;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::crash_point::{Crash, CrashPoint};
use crate::crons::attempt::{Attempt, Caller};
use crate::crons::choice::Choice;
use crate::crons::in_flight::InFlight;
use crate::crons::log::CronLogs;
use crate::crons::pace::Pace;
use crate::crons::send_by::SendBy;
use crate::metrics::{CronLabel, Metrics};
use crate::raft::{Member, Proposer, Status};
use crate::replica::Replica;
use crate::wall_clock::WallClock;

/// The longest time between two looks, by which a wall clock that was set is noticed.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest time between two comparisons of what is in flight with the state.
const COMPARE_INTERVAL: Duration = Duration::from_millis(100);
/// A pacemaker that was not heard for so long does not report its runs any more.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// The pause after a proposal that failed, or before a start is announced again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long requests under way may take when the pacemaker stops; later they count as lost.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What the loop is made of.
#[derive(Debug)]
pub(crate) struct CronParts {
    pub(crate) proposer: Proposer,
    pub(crate) replica: Arc<Replica>,
    pub(crate) metrics: Metrics,
    pub(crate) wall: WallClock,
    pub(crate) logs: CronLogs,
    pub(crate) crash: Crash,
    /// Of this start of the process; random.
    pub(crate) incarnation: String,
}

/// The loop, before it runs.
#[derive(Debug)]
pub(crate) struct CronLoop {
    proposer: Proposer,
    replica: Arc<Replica>,
    metrics: Metrics,
    wall: WallClock,
    me: NodeId,
    incarnation: String,
    crash: Crash,
    planner: CronPlanner,
    /// Set while this pacemaker leads and has caught up, with the moment since when.
    leading: Option<(Status, Instant)>,
    in_flight: InFlight,
    pace: Pace,
    reports: mpsc::Receiver<CronReport>,
}

impl CronLoop {
    pub(crate) fn new(parts: CronParts) -> Self {
        let me = NodeId(parts.proposer.own());
        let caller = Caller {
            wall: parts.wall,
            choice: Choice::default(),
            logs: parts.logs,
            crash: parts.crash,
        };
        let (in_flight, reports) = InFlight::new(caller, parts.metrics.clone());
        Self {
            proposer: parts.proposer,
            replica: parts.replica,
            metrics: parts.metrics,
            wall: parts.wall,
            me,
            incarnation: parts.incarnation,
            crash: parts.crash,
            planner: CronPlanner::default(),
            leading: None,
            in_flight,
            pace: Pace::new(Instant::now()),
            reports,
        }
    }

    /// Runs until `shutdown`; requests under way then have [`STOP_PATIENCE`].
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let (_, none) = mpsc::channel(1);
        let reports = std::mem::replace(&mut self.reports, none);
        let pending = self.in_flight.pending();
        let telling = reports::tell(self.proposer.clone(), reports, pending, shutdown.clone());
        let working = async {
            if shutdown.run_until_cancelled(self.abandon()).await.is_some() {
                self.work(&shutdown).await;
            }
            self.in_flight.end(Instant::now() + STOP_PATIENCE).await;
            // The last sender of reports goes with it.
            drop(self.in_flight);
        };
        tokio::join!(telling, working);
    }

    /// Gives up what this pacemaker ran before its process ended: nobody else can tell.
    async fn abandon(&self) {
        loop {
            let command = Command::Once {
                key: format!("crons-abandoned-{}-{}", self.me, self.incarnation),
                command: Box::new(Command::AbandonCronRuns { runner: self.me }),
            };
            let is_begun = match self.proposer.barrier().await {
                Ok(()) => self.replica.read(State::is_initialized),
                Err(_) => false,
            };
            if is_begun {
                match self.proposer.propose(command).await {
                    Ok(Ok(_)) => return,
                    Ok(Err(rejection)) => {
                        tracing::warn!(%rejection, "earlier cron runs cannot be given up");
                    }
                    Err(error) => tracing::debug!(%error, "earlier cron runs are not given up yet"),
                }
            }
            tokio::time::sleep_until(Instant::now() + RETRY_PAUSE).await;
        }
    }

    async fn work(&mut self, shutdown: &CancellationToken) {
        let mut changes = self.replica.changes();
        let mut deadline = Instant::now();
        let mut compared = Instant::now();
        loop {
            let status = self.proposer.status();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.proposer.leadership_changed(status) => {}
                () = self.in_flight.one_ended() => continue,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep_until(deadline) => {}
            }
            changes.mark_unchanged();
            if compared.elapsed() >= COMPARE_INTERVAL {
                compared = Instant::now();
                let now = self.wall.now();
                self.in_flight.compare(&self.replica, self.me, now).await;
            }
            self.lead().await;
            deadline = self.tick().await;
            if !self.in_flight.is_empty() {
                deadline = deadline.min(compared + COMPARE_INTERVAL);
            }
        }
    }

    /// Notices the beginning and the end of this pacemaker's leadership.
    async fn lead(&mut self) {
        let status = self.proposer.status();
        if self.leading.is_some_and(|(led, _)| led == status) {
            return;
        }
        self.leading = None;
        if !status.is_leader {
            return;
        }
        match self.proposer.barrier_as_leader().await {
            Ok(()) => {
                self.planner = CronPlanner::default();
                self.planner.limit(self.in_flight.max());
                self.leading = Some((status, Instant::now()));
            }
            Err(error) => tracing::debug!(%error, "not leading yet"),
        }
    }

    /// One pass; answers when the next is due though nothing happens.
    async fn tick(&mut self) -> Instant {
        let latest = Instant::now() + TICK_INTERVAL;
        let Some((status, since)) = self.leading else {
            return latest;
        };
        let allowed = match self.pace.allowed(Instant::now()) {
            Ok(allowed) => allowed,
            Err(later) => return later,
        };
        let wall = self.wall.now();
        let gone = self.gone(since);
        let planner = &mut self.planner;
        let me = self.me;
        let mut decisions = self
            .replica
            .read(|state| planner.plan(state, wall, me, &gone));
        if decisions.is_empty() {
            let Some(next) = self.planner.next_deadline() else {
                return latest;
            };
            return latest.min(Instant::now() + self.until(next));
        }
        let begun = keep_allowed(&mut decisions, allowed);
        self.pace.take(begun, Instant::now());
        self.crash.at(CrashPoint::BeforeCronRecord);
        match self.decide(status.term, wall, decisions).await {
            Ok(()) => Instant::now(),
            Err(()) => Instant::now() + RETRY_PAUSE,
        }
    }

    /// How long until the wall clock shows `next`; a moment when it does already, so that what
    /// cannot be done now is no busy loop.
    fn until(&self, next: Timestamp) -> Duration {
        let left = next.since(self.wall.now());
        self.wall.real(left).max(Duration::from_millis(1))
    }

    /// Has decisions recorded, and begins what the record grants: of each decision the attempt that
    /// it asks for, and no later one.
    async fn decide(
        &mut self,
        term: u64,
        wall: Timestamp,
        decisions: Vec<CronDecision>,
    ) -> Result<(), ()> {
        let send_by = SendBy::begin(self.wall, wall);
        let unfired = unfired(&decisions);
        let command = Command::DecideCrons {
            runner: self.me,
            at: wall,
            decisions,
        };
        match self.proposer.propose_as_leader(term, command).await {
            Ok(Ok(Outcome::CronsDecided { grants })) => {
                self.count(unfired);
                self.close_ended(send_by).await;
                for grant in grants.into_iter().flatten() {
                    self.begin(grant, term, send_by);
                }
                Ok(())
            }
            Ok(Ok(outcome)) => {
                tracing::warn!(?outcome, "a decision about crons had an odd outcome");
                Err(())
            }
            Ok(Err(rejection)) => {
                tracing::warn!(%rejection, "a decision about crons was refused");
                Err(())
            }
            Err(error) => {
                tracing::warn!(%error, "a decision about crons could not be proposed");
                Err(())
            }
        }
    }
}

impl CronLoop {
    /// Waits until the connections of the runs that were replaced are closed: what takes their place
    /// begins after that.
    async fn close_ended(&mut self, send_by: SendBy) {
        let closed = self.in_flight.drop_ended(&self.replica, self.me);
        let closing = async {
            for one in closed {
                // It answers by being dropped.
                one.await.unwrap_or_default();
            }
        };
        if tokio::time::timeout(send_by.left(), closing).await.is_err() {
            tracing::warn!("the request of a replaced cron run is not closed yet");
        }
    }

    /// Begins the attempt that a record of this leader has granted.
    fn begin(&mut self, grant: CronGrant, term: u64, send_by: SendBy) {
        let me = self.me;
        let granted = self.replica.read(|state| {
            let call = state.cron_call(grant, me)?;
            let targets = state.cron_targets(call.application, &call.cron);
            Some((call, targets, state.cron_run(grant.run)?.is_manual))
        });
        let Some((call, targets, is_manual)) = granted else {
            // This leader may have heard of its record long after others have led.
            tracing::debug!(?grant, "a cron run has ended or goes on elsewhere");
            return;
        };
        tracing::debug!(
            run = %grant.run, application = %call.application, cron = %call.cron, attempt = call.attempt,
            scheduled = %call.scheduled, "a cron is run"
        );
        let proposer = self.proposer.clone();
        let may_send = move || {
            let status = proposer.status();
            status.is_leader && status.term == term && proposer.leads_a_majority()
        };
        let (metrics, wall) = (self.metrics.clone(), self.wall);
        let is_first = !is_manual && call.attempt == 1;
        let due = is_first.then_some(call.scheduled);
        let sending = move || {
            if let Some(due) = due {
                let late = wall.real(wall.now().since(due));
                metrics.cron_lateness_seconds.observe(late.as_secs_f64());
            }
        };
        let attempt = Attempt {
            call,
            targets,
            send_by,
            may_send: Arc::new(may_send),
            sending: Arc::new(sending),
        };
        self.in_flight.begin(attempt);
    }

    /// Counts slots that were not run; those that are run are counted when they end.
    fn count(&self, unfired: [(&'static str, u64); 2]) {
        for (outcome, count) in unfired {
            let label = CronLabel { outcome };
            self.metrics.cron_runs.get_or_create(&label).inc_by(count);
        }
    }

    /// The pacemakers that will not report their runs any more, as far as a leader can tell.
    fn gone(&self, leading_since: Instant) -> BTreeSet<NodeId> {
        let group = self.proposer.group();
        let runners: Vec<NodeId> = self.replica.read(|state| state.cron_runners().collect());
        let led = leading_since.elapsed();
        let gone = runners.into_iter().filter(|runner| {
            let silence = silence_of(*runner, &group.members, led);
            *runner != self.me && silence > GONE_AFTER
        });
        gone.collect()
    }
}

/// How long a pacemaker was not heard; one that is not in the group has been silent for as long as
/// this leader leads.
fn silence_of(runner: NodeId, members: &[Member], led: Duration) -> Duration {
    let mut members = members.iter();
    let member = members.find(|member| member.number == runner.0);
    member.and_then(|member| member.heard).unwrap_or(led)
}

/// Leaves out the requests that must wait, which the next plan asks for again; answers how many
/// are left.
fn keep_allowed(decisions: &mut Vec<CronDecision>, allowed: usize) -> usize {
    let mut begun = 0;
    decisions.retain(|decision| match decision {
        CronDecision::Fire { .. } | CronDecision::Claim { .. } => {
            let is_allowed = begun < allowed;
            begun += usize::from(is_allowed);
            is_allowed
        }
        CronDecision::Skip { .. }
        | CronDecision::Miss { .. }
        | CronDecision::Lose { .. }
        | CronDecision::Rewind { .. } => true,
    });
    begun
}

/// How many slots are skipped, and how many were missed.
fn unfired(decisions: &[CronDecision]) -> [(&'static str, u64); 2] {
    let (mut skipped, mut missed) = (0, 0);
    for decision in decisions {
        match decision {
            CronDecision::Skip { .. } => skipped += 1,
            CronDecision::Miss {
                count, had_no_room, ..
            } => {
                let counted = if *had_no_room {
                    &mut skipped
                } else {
                    &mut missed
                };
                *counted += count;
            }
            CronDecision::Fire { .. }
            | CronDecision::Claim { .. }
            | CronDecision::Lose { .. }
            | CronDecision::Rewind { .. } => {}
        }
    }
    [("skipped", skipped), ("missed", missed)]
}

#[cfg(test)]
mod tests;
