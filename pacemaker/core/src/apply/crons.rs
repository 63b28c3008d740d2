//! Web crons: what a leader decides about slots and runs, each decision checked again.
//!
//! Nothing here asks a schedule: when a slot lies follows from the time zones of whoever decides,
//! and two releases may know different ones. What is kept is what was decided.

mod people;
mod reports;
mod runs;
mod versions;

use common::application::{CronKey, Overlap};
use common::id::{ApplicationId, NodeId, RunId, VersionNumber};
use common::time::Timestamp;

use self::runs::Ending;
pub(crate) use self::runs::Replaceable;
use crate::apply::reject;
use crate::command::{
    CronDecision, CronGrant, CronResult, Outcome, Rejection, RejectionCode, SkipReason,
};
use crate::state::crons::RunPhase;
use crate::state::limits::{
    CRON_CLOCK_SLACK, CRON_DECISIONS_MAX, CRON_GRACE, CRON_LIVE_MAX, CRON_LIVE_PER_CRON,
    CRON_MISSED_COUNTED,
};
use crate::transition::Transition;

const NO_ROOM: &str =
    "not run: as many requests were under way as may be, until its next time came";

/// A leader's decisions, and when it took them.
#[derive(Clone, Copy)]
pub(super) struct Deciding<'a> {
    pub(super) runner: NodeId,
    pub(super) at: Timestamp,
    pub(super) decisions: &'a [CronDecision],
}

/// A slot of a cron.
#[derive(Clone, Copy)]
struct Slot<'a> {
    application: ApplicationId,
    cron: &'a CronKey,
    /// Up to where the cron's slots were decided when this one was decided about.
    after: Timestamp,
    scheduled: Timestamp,
}

impl Transition<'_> {
    /// Carries out decisions one by one; the answer says which runs begin an attempt.
    pub(super) fn decide_crons(&mut self, deciding: Deciding<'_>) -> Result<Outcome, Rejection> {
        if deciding.decisions.len() > CRON_DECISIONS_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("a command has at most {CRON_DECISIONS_MAX} decisions about crons"),
            ));
        }
        let mut grants: Vec<Option<CronGrant>> = deciding
            .decisions
            .iter()
            .map(|decision| self.decide(deciding, decision))
            .collect();
        for grant in &mut grants {
            // One that was claimed may have been replaced by a slot of the same command.
            let runs = &self.state.cron_runs;
            let is_under_way = |grant: &CronGrant| {
                let run = runs.get(&grant.run);
                run.is_some_and(|run| run.is_running(grant.attempt))
            };
            *grant = grant.filter(is_under_way);
        }
        Ok(Outcome::CronsDecided { grants })
    }

    fn decide(&mut self, deciding: Deciding<'_>, decision: &CronDecision) -> Option<CronGrant> {
        let at = deciding.at;
        match decision {
            CronDecision::Fire {
                application,
                cron,
                version,
                after,
                scheduled,
            } => {
                let slot = Slot {
                    application: *application,
                    cron,
                    after: *after,
                    scheduled: *scheduled,
                };
                self.fire(deciding, slot, *version)
            }
            CronDecision::Skip {
                application,
                cron,
                after,
                scheduled,
                reason,
            } => {
                let slot = Slot {
                    application: *application,
                    cron,
                    after: *after,
                    scheduled: *scheduled,
                };
                self.skip(at, slot, *reason)
            }
            CronDecision::Miss {
                application,
                cron,
                after,
                first,
                last,
                count,
                had_no_room,
            } => {
                let slot = Slot {
                    application: *application,
                    cron,
                    after: *after,
                    scheduled: *first,
                };
                let phase = if *had_no_room {
                    RunPhase::Skipped(SkipReason::NoRoom)
                } else {
                    RunPhase::Missed
                };
                self.miss(at, slot, (*last, *count), phase)
            }
            CronDecision::Claim { run } => self.claim(deciding, *run),
            CronDecision::Lose { run, attempt } => self.give_up(at, *run, *attempt),
            CronDecision::Rewind {
                application,
                cron,
                from,
                to,
            } => self.rewind(*application, cron, *from, *to),
        }
    }

    /// A slot's run begins with its first attempt.
    fn fire(
        &mut self,
        deciding: Deciding<'_>,
        slot: Slot<'_>,
        version: VersionNumber,
    ) -> Option<CronGrant> {
        let application = self.state.applications.get(&slot.application)?;
        let record = application.crons.get(slot.cron)?;
        let policy = record.policy?;
        let replaced = match policy.overlap {
            Overlap::Replace => self.state.replaceable(record),
            Overlap::Allow | Overlap::Forbid => Replaceable::default(),
        };
        let live = self.state.cron_index.live.saturating_sub(replaced.live);
        let is_open = record.considered == slot.after
            && record.is_open(slot.scheduled)
            && slot.scheduled <= deciding.at;
        if application.current != Some(version)
            || record.suspended
            || !is_open
            || record.is_taken(deciding.at)
            || !self.state.has_cron_room(slot.application, replaced.running)
            || live >= CRON_LIVE_MAX
        {
            return None;
        }
        if policy.overlap == Overlap::Replace {
            self.replace_runs(slot.application, slot.cron, deciding.at);
        }
        let mut run = self.new_run(slot.application, slot.cron, version, slot.scheduled);
        run.phase = RunPhase::Running;
        run.attempts = 1;
        run.begun = Some(deciding.at);
        run.started = Some(deciding.at);
        run.retries = policy.retries;
        run.timeout = policy.timeout;
        run.runner = Some(deciding.runner);
        let grant = CronGrant {
            run: run.id,
            attempt: run.attempts,
        };
        if let Some(record) = self.cron(slot.application, slot.cron) {
            record.fire(slot.scheduled);
        }
        self.insert_run(run);
        Some(grant)
    }

    /// A slot is decided without a run.
    fn skip(&mut self, at: Timestamp, slot: Slot<'_>, reason: SkipReason) -> Option<CronGrant> {
        let too_many = format!(
            "not run: {CRON_LIVE_PER_CRON} runs of it were going on, the most that one cron may have"
        );
        let words = match reason {
            SkipReason::TooMany => too_many.as_str(),
            SkipReason::NoRoom => NO_ROOM,
            SkipReason::Overlap => {
                "not run: the run before it was still going on, or its lost request may have been"
            }
            SkipReason::NoCurrentVersion => "not run: no version was current",
        };
        self.pass(at, slot, slot.scheduled)?;
        self.note_slots(slot, slot.scheduled, 1, (RunPhase::Skipped(reason), words));
        None
    }

    /// Slots passed undecided.
    fn miss(
        &mut self,
        at: Timestamp,
        slot: Slot<'_>,
        (last, count): (Timestamp, u64),
        phase: RunPhase,
    ) -> Option<CronGrant> {
        let words = if phase != RunPhase::Missed {
            NO_ROOM
        } else if count >= CRON_MISSED_COUNTED {
            "not run: no pacemaker led the cluster in time; slots after the first 1,000 are not counted"
        } else {
            "not run: no pacemaker led the cluster in time"
        };
        if count == 0 {
            return None;
        }
        self.pass(at, slot, last)?;
        self.note_slots(slot, last, count, (phase, words));
        None
    }

    /// Slots up to `last` are decided, when none of them was before.
    fn pass(&mut self, at: Timestamp, slot: Slot<'_>, last: Timestamp) -> Option<()> {
        let record = self.cron(slot.application, slot.cron)?;
        record.policy?;
        let is_open = record.considered == slot.after
            && record.is_open(slot.scheduled)
            && (slot.scheduled..=at).contains(&last);
        if record.suspended || !is_open {
            return None;
        }
        record.considered = last;
        record.is_unseen = false;
        Some(())
    }

    /// The next attempt of a run begins, with what the current version says.
    fn claim(&mut self, deciding: Deciding<'_>, id: RunId) -> Option<CronGrant> {
        let run = self.state.cron_runs.get(&id)?;
        if !self.state.may_claim_cron_run(run, deciding.at) {
            return None;
        }
        let application = self.state.applications.get(&run.application)?;
        let version = application.current?;
        let timeout = application.crons.get(&run.cron)?.policy?.timeout;
        let attempt = run.attempts.saturating_add(1);
        self.change_run(id, |run| {
            run.phase = RunPhase::Running;
            run.attempts = attempt;
            run.begun.get_or_insert(deciding.at);
            run.started = Some(deciding.at);
            run.timeout = timeout;
            run.version = version;
            run.runner = Some(deciding.runner);
            run.result = None;
            run.ended = None;
            run.duration = None;
        });
        Some(CronGrant { run: id, attempt })
    }

    /// An attempt counts as lost, or one that nobody began in time is not made.
    fn give_up(&mut self, at: Timestamp, id: RunId, attempt: u32) -> Option<CronGrant> {
        let run = self.state.cron_runs.get(&id)?;
        let is_overdue = run.due().is_some_and(|due| at.since(due) > CRON_GRACE);
        if is_overdue && run.attempts == attempt {
            self.end_without_attempt(id, "no pacemaker led the cluster in time");
            return None;
        }
        if !run.is_running(attempt) {
            return None;
        }
        let runner = run.runner.map(|runner| runner.to_string());
        let words = format!(
            "nobody knows what became of it: pacemaker {}, which made the request, is gone or did not tell in time",
            runner.unwrap_or_default()
        );
        self.end_attempt(id, &Ending::without_answer(CronResult::Lost, at, &words));
        None
    }

    /// What a cron has stamped ahead of a clock that was set back is brought back.
    fn rewind(
        &mut self,
        application: ApplicationId,
        cron: &CronKey,
        from: Timestamp,
        to: Timestamp,
    ) -> Option<CronGrant> {
        let record = self.cron(application, cron)?;
        if record.considered != from {
            return None;
        }
        let slack = to.after(CRON_CLOCK_SLACK);
        if record.is_ahead_of(to) {
            record.considered = to;
        }
        record.is_unseen = false;
        let timeout = record.policy.map(|policy| policy.timeout);
        let farthest = slack.after(timeout.unwrap_or_default());
        record.lost_until = record.lost_until.filter(|until| *until <= farthest);
        let live: Vec<RunId> = record.live.iter().copied().collect();
        for id in live {
            self.change_run(id, |run| {
                if run.is_ahead_of(to) {
                    run.started = run.started.map(|started| started.min(to));
                    if let RunPhase::Backoff { until } = &mut run.phase {
                        *until = to;
                    }
                }
            });
        }
        None
    }
}
