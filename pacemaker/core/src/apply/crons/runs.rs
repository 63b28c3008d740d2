//! Runs of crons: how they begin and end, and how many are kept.

use common::application::{CronKey, Overlap};
use common::id::{ApplicationId, InstanceId, RunId, VersionNumber};
use common::time::{Span, Timestamp};

use super::Slot;
use crate::apply::jobs::head;
use crate::command::CronResult;
use crate::state::State;
use crate::state::crons::{CronRecord, CronRun, RunPhase};
use crate::state::limits::{
    CRON_RUNNING_MAX, CRON_RUNNING_PER_APPLICATION, CRON_RUNS_KEPT, CRON_RUNS_MAX,
    MESSAGE_MAX_BYTES,
};
use crate::transition::Transition;

/// The fewest runs that a cron keeps: the last that ended, and one that goes on.
const SHARE_MIN: usize = 2;

/// How an attempt ended.
pub(super) struct Ending<'a> {
    pub(super) result: CronResult,
    pub(super) at: Timestamp,
    pub(super) duration: Option<Span>,
    pub(super) instance: Option<InstanceId>,
    pub(super) status: Option<u16>,
    pub(super) words: &'a str,
}

impl<'a> Ending<'a> {
    /// Of an attempt of which nothing else is known.
    pub(super) fn without_answer(result: CronResult, at: Timestamp, words: &'a str) -> Self {
        Self {
            result,
            at,
            duration: None,
            instance: None,
            status: None,
            words,
        }
    }
}

/// How many runs of a cron go on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replaceable {
    pub(crate) live: u64,
    /// Those of them that are under way.
    pub(crate) running: u64,
}

impl State {
    /// True when one more request of an application may be under way, once so many have been ended.
    pub(crate) fn has_cron_room(&self, application: ApplicationId, ended: u64) -> bool {
        let index = &self.cron_index;
        let of_application = index.running.get(&application).copied().unwrap_or_default();
        let running = u64::try_from(index.deadlines.len()).unwrap_or(u64::MAX);
        of_application.saturating_sub(ended) < CRON_RUNNING_PER_APPLICATION
            && running.saturating_sub(ended) < CRON_RUNNING_MAX
    }

    /// What a run that replaces those of its cron ends.
    pub(crate) fn replaceable(&self, record: &CronRecord) -> Replaceable {
        let live = record.live.iter();
        let runs = live.filter_map(|run| self.cron_runs.get(run));
        runs.fold(Replaceable::default(), |ended, run| Replaceable {
            live: ended.live.saturating_add(1),
            running: ended
                .running
                .saturating_add(u64::from(run.phase == RunPhase::Running)),
        })
    }

    /// True when a run's next attempt is due and nothing forbids it.
    pub(crate) fn may_claim_cron_run(&self, run: &CronRun, at: Timestamp) -> bool {
        // What was asked for is stamped by the log's time, which may be ahead of the wall clock.
        let is_due = run.phase == RunPhase::Waiting || run.due().is_some_and(|due| due <= at);
        let application = self.applications.get(&run.application);
        let Some(record) = application
            .filter(|application| application.current.is_some())
            .and_then(|application| application.crons.get(&run.cron))
        else {
            return false;
        };
        let is_free = record.policy.is_some_and(|policy| match policy.overlap {
            Overlap::Allow => true,
            Overlap::Forbid | Overlap::Replace => {
                !self.has_running(record) && !record.waits_for_lost(at)
            }
        });
        is_due && is_free && self.has_cron_room(run.application, 0)
    }

    fn has_running(&self, record: &CronRecord) -> bool {
        record
            .live
            .iter()
            .filter_map(|run| self.cron_runs.get(run))
            .any(|run| run.phase == RunPhase::Running)
    }

    /// How many runs each cron may keep.
    fn cron_share(&self) -> usize {
        let crons = usize::try_from(self.cron_index.crons).unwrap_or(usize::MAX);
        CRON_RUNS_MAX
            .checked_div(crons)
            .unwrap_or(CRON_RUNS_KEPT)
            .clamp(SHARE_MIN, CRON_RUNS_KEPT)
    }
}

impl Transition<'_> {
    /// A run with the next number that waits; it is not in the state yet.
    pub(super) fn new_run(
        &mut self,
        application: ApplicationId,
        cron: &CronKey,
        version: VersionNumber,
        scheduled: Timestamp,
    ) -> CronRun {
        let counter = &mut self.state.counters.cron_run;
        *counter = counter.saturating_add(1);
        CronRun {
            id: RunId(*counter),
            application,
            cron: cron.clone(),
            version,
            scheduled,
            last_scheduled: scheduled,
            count: 1,
            is_manual: false,
            phase: RunPhase::Waiting,
            attempts: 0,
            begun: None,
            started: None,
            retries: 0,
            timeout: Span(0),
            runner: None,
            result: None,
            ended: None,
            duration: None,
            instance: None,
            status: None,
            words: String::new(),
        }
    }

    pub(super) fn insert_run(&mut self, run: CronRun) {
        let id = run.id;
        let (application, cron) = (run.application, run.cron.clone());
        let is_live = !run.phase.is_final();
        if let Some(record) = self.cron(application, &cron) {
            record.runs.insert(id);
            if is_live {
                record.live.insert(id);
            }
        }
        self.state.cron_index.insert(&run);
        self.state.cron_runs.insert(id, run);
        self.prune_runs(application, &cron);
    }

    /// Changes a run and what finds it.
    pub(super) fn change_run(&mut self, id: RunId, change: impl FnOnce(&mut CronRun)) {
        let Some(run) = self.state.cron_runs.get_mut(&id) else {
            return;
        };
        self.state.cron_index.remove(run);
        change(run);
        self.state.cron_index.insert(run);
    }

    /// A record for slots that were not run; the newest stands for more when it is of the same kind.
    pub(super) fn note_slots(
        &mut self,
        slot: Slot<'_>,
        last: Timestamp,
        count: u64,
        (phase, words): (RunPhase, &str),
    ) {
        let application = self.state.applications.get(&slot.application);
        let found = application.and_then(|application| {
            let record = application.crons.get(slot.cron)?;
            Some((application.crons_version?, record.runs.last().copied()))
        });
        let Some((version, newest)) = found else {
            return;
        };
        let newest = newest.and_then(|run| self.state.cron_runs.get_mut(&run));
        if let Some(run) = newest.filter(|run| run.phase == phase && run.version == version) {
            run.count = run.count.saturating_add(count);
            run.last_scheduled = run.last_scheduled.max(last);
            words.clone_into(&mut run.words);
            return;
        }
        let mut run = self.new_run(slot.application, slot.cron, version, slot.scheduled);
        run.phase = phase;
        run.count = count;
        run.last_scheduled = last;
        words.clone_into(&mut run.words);
        self.insert_run(run);
    }

    /// An attempt has ended; another follows when the manifest allows it.
    pub(super) fn end_attempt(&mut self, id: RunId, ending: &Ending<'_>) {
        let Some(run) = self.state.cron_runs.get(&id) else {
            return;
        };
        let was_final = run.phase.is_final();
        let was_lost = run.result == Some(CronResult::Lost);
        // It may have been sent some time after it began.
        let lost_until = run.deadline();
        let (application, cron) = (run.application, run.cron.clone());
        let next = self.next_attempt(run, ending).filter(|_| !was_final);
        let phase = next.map_or_else(|| ending.result.into(), |until| RunPhase::Backoff { until });
        self.change_run(id, |run| {
            run.phase = phase;
            run.result = Some(ending.result);
            run.ended = Some(ending.at);
            run.duration = ending.duration;
            run.instance = ending.instance;
            run.status = ending.status;
            run.words = head(ending.words, MESSAGE_MAX_BYTES);
        });
        let Some(record) = self.cron(application, &cron) else {
            return;
        };
        if ending.result == CronResult::Lost {
            record.lost_until = Some(lost_until.max(record.lost_until.unwrap_or_default()));
        } else if was_lost {
            record.lost_until = None;
        }
        if phase.is_final() {
            record.live.remove(&id);
            if ending.result == CronResult::Succeeded {
                record.failures = 0;
            } else if !was_final {
                record.failures = record.failures.saturating_add(1);
            }
        }
    }

    /// When an attempt that ended so is followed by another.
    fn next_attempt(&self, run: &CronRun, ending: &Ending<'_>) -> Option<Timestamp> {
        let application = self.state.applications.get(&run.application)?;
        application.current?;
        let record = application.crons.get(&run.cron)?;
        let policy = record.policy?;
        let is_stopped = record.suspended && !run.is_manual;
        let is_last = run.attempts > run.retries.min(policy.retries);
        if ending.result == CronResult::Succeeded || is_last || is_stopped {
            return None;
        }
        let until = ending.at.after(run.backoff());
        let may_go_on = ending.result == CronResult::Lost && policy.overlap != Overlap::Allow;
        // The lost request may still be answered; its successor waits until it cannot.
        Some(if may_go_on {
            until.max(run.deadline())
        } else {
            until
        })
    }

    /// Ends a run that backs off or waits without another attempt.
    pub(super) fn end_without_attempt(&mut self, id: RunId, why: &str) {
        let now = self.now();
        let Some(run) = self.state.cron_runs.get(&id) else {
            return;
        };
        let (application, cron) = (run.application, run.cron.clone());
        self.change_run(id, |run| {
            run.phase = run.result.unwrap_or(CronResult::Failed).into();
            run.ended.get_or_insert(now);
            let words = if run.words.is_empty() {
                format!("not run: {why}")
            } else {
                format!("{}; not tried again: {why}", run.words)
            };
            run.words = head(&words, MESSAGE_MAX_BYTES);
        });
        if let Some(record) = self.cron(application, &cron) {
            record.live.remove(&id);
            record.failures = record.failures.saturating_add(1);
        }
    }

    /// Ends what goes on of a cron, because a new run takes its place.
    pub(super) fn replace_runs(
        &mut self,
        application: ApplicationId,
        cron: &CronKey,
        at: Timestamp,
    ) {
        let Some(record) = self.cron(application, cron) else {
            return;
        };
        for id in std::mem::take(&mut record.live) {
            self.change_run(id, |run| {
                run.phase = RunPhase::Replaced;
                run.ended = Some(at);
                "replaced: the next run began before it had ended".clone_into(&mut run.words);
            });
        }
    }

    fn prune_runs(&mut self, application: ApplicationId, cron: &CronKey) {
        let share = self.state.cron_share();
        while let Some(record) = self.cron(application, cron)
            && let Some(id) = record.surplus(share)
        {
            record.runs.remove(&id);
            self.state.cron_runs.remove(&id);
        }
        while self.state.cron_runs.len() > CRON_RUNS_MAX {
            let oldest = self
                .state
                .cron_runs
                .values()
                .find(|run| run.phase.is_final())
                .map(|run| run.id);
            let Some(run) = oldest.and_then(|id| self.state.cron_runs.remove(&id)) else {
                break;
            };
            if let Some(record) = self.cron(run.application, &run.cron) {
                record.runs.remove(&run.id);
            }
        }
    }
}
