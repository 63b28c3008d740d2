//! Crons and their runs as people and programs see them.

use std::ops::Bound;

use common::api::{
    CRON_FAILURES_SHOWN, CronRunState, CronRunView, CronTrigger, CronView, FailingCron,
};
use common::application::{CronKey, CronSpec, MissedPolicy, Overlap};
use common::id::{ApplicationId, RunId};
use common::time::Timestamp;

use super::calls::cron_spec;
use super::slots::next_open;
use crate::state::State;
use crate::state::crons::{CronRecord, CronRun, RunPhase};
use crate::state::records::Application;

impl State {
    /// A run, its slot or slots, and where it is.
    #[must_use]
    pub fn cron_run(&self, run: RunId) -> Option<&CronRun> {
        self.cron_runs.get(&run)
    }

    /// The runs whose present attempt a pacemaker makes, or should: what it does not know of them
    /// when it has been deposed, it reports as lost.
    pub fn cron_runs_of(&self, runner: common::id::NodeId) -> impl Iterator<Item = &CronRun> {
        self.cron_index
            .runners
            .get(&runner)
            .into_iter()
            .flatten()
            .filter_map(|run| self.cron_runs.get(run))
    }

    /// The pacemakers that make requests now, or should.
    pub fn cron_runners(&self) -> impl Iterator<Item = common::id::NodeId> {
        self.cron_index.runners.keys().copied()
    }

    /// How many requests of crons are under way, in the whole cluster.
    #[must_use]
    pub fn cron_runs_under_way(&self) -> usize {
        self.cron_index.deadlines.len()
    }

    /// A run as the API shows it.
    #[must_use]
    pub fn cron_run_view(&self, run: RunId) -> Option<CronRunView> {
        Some(run_view(self.cron_runs.get(&run)?))
    }

    /// The crons that a text names: `TYPE/NAME`, or a name alone of every type that has it.
    #[must_use]
    pub fn find_crons(&self, application: ApplicationId, text: &str) -> Vec<CronKey> {
        let Some(application) = self.applications.get(&application) else {
            return Vec::new();
        };
        if let Ok(key) = text.parse::<CronKey>()
            && application.crons.contains_key(&key)
        {
            return vec![key];
        }
        let named = |key: &&CronKey| key.name.as_str() == text;
        let is_wanted = |record: &CronRecord| record.policy.is_some();
        let current = application.crons.iter();
        let mut found: Vec<CronKey> = current
            .filter(|(key, record)| named(key) && is_wanted(record))
            .map(|(key, _)| key.clone())
            .collect();
        if found.is_empty() {
            found = application.crons.keys().filter(named).cloned().collect();
        }
        found
    }

    /// The crons of the current version, in the order of their names; none for an unknown
    /// application. `wall` is the wall clock, after which the next slot lies.
    #[must_use]
    pub fn crons(&self, application: ApplicationId, wall: Timestamp) -> Option<Vec<CronView>> {
        let application = self.applications.get(&application)?;
        let number = application.crons_version.or(application.current);
        let version = number.and_then(|number| application.versions.get(&number));
        let crons = application.crons.iter().filter_map(|(key, record)| {
            let spec = cron_spec(version?, key)?;
            record.policy?;
            Some(self.cron_view(application, key, (record, spec), wall))
        });
        Some(crons.collect())
    }

    fn cron_view(
        &self,
        application: &Application,
        key: &CronKey,
        (record, spec): (&CronRecord, &CronSpec),
        wall: Timestamp,
    ) -> CronView {
        let is_fired = application.current.is_some() && !record.suspended;
        let next = || {
            next_open(record, wall, |after| {
                spec.runspec.next_after(after, &spec.timezone)
            })
        };
        CronView {
            instance_type: key.instance_type.clone(),
            name: key.name.to_string(),
            runspec: spec.runspec.to_string(),
            timezone: spec.timezone.to_string(),
            method: spec.method.to_string(),
            uri: spec.uri.clone(),
            suspended: record.suspended,
            next: is_fired.then(next).flatten(),
            running: record.live.iter().copied().collect(),
            last: record.runs.last().and_then(|run| self.cron_run_view(*run)),
            failures: record.failures,
            timeout: spec.timeout,
            overlap: match spec.overlap {
                Overlap::Allow => "allow",
                Overlap::Forbid => "forbid",
                Overlap::Replace => "replace",
            }
            .to_owned(),
            missed: match spec.missed {
                MissedPolicy::Skip => "skip",
                MissedPolicy::Once => "once",
            }
            .to_owned(),
            retries: spec.retries,
        }
    }

    /// Runs of an application, or of one of its crons, newest first, with numbers below `before`.
    #[must_use]
    pub fn cron_runs(
        &self,
        application: ApplicationId,
        cron: Option<&CronKey>,
        before: Option<RunId>,
        limit: usize,
    ) -> Vec<CronRunView> {
        let Some(application) = self.applications.get(&application) else {
            return Vec::new();
        };
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let mut newest: Vec<RunId> = application
            .crons
            .iter()
            .filter(|(key, _)| cron.is_none_or(|cron| cron == *key))
            .flat_map(|(_, record)| {
                let runs = record.runs.range((Bound::Unbounded, end));
                runs.rev().take(limit).copied()
            })
            .collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(limit);
        newest
            .into_iter()
            .filter_map(|run| self.cron_run_view(run))
            .collect()
    }

    /// Every cron of a current version that has failed so often in a row that people are to see it.
    #[must_use]
    pub fn failing_crons(&self) -> Vec<(ApplicationId, FailingCron)> {
        self.applications
            .values()
            .flat_map(|application| {
                let failing = self.failing_crons_of(application).into_iter();
                failing.map(|cron| (application.id, cron))
            })
            .collect()
    }

    pub(crate) fn failing_crons_of(&self, application: &Application) -> Vec<FailingCron> {
        let crons = application.crons.iter();
        crons
            .filter(|(_, record)| record.policy.is_some() && record.failures >= CRON_FAILURES_SHOWN)
            .map(|(key, record)| FailingCron {
                cron: key.to_string(),
                failures: record.failures,
                outcome: self.last_words(record),
            })
            .collect()
    }

    pub(super) fn last_words(&self, record: &CronRecord) -> String {
        let mut runs = record.runs.iter().rev();
        runs.find_map(|run| self.cron_runs.get(run).filter(|run| has_failed(run.phase)))
            .map(|run| run.words.clone())
            .unwrap_or_default()
    }
}

fn has_failed(phase: RunPhase) -> bool {
    matches!(
        phase,
        RunPhase::Failed | RunPhase::TimedOut | RunPhase::Lost
    )
}

fn run_view(run: &CronRun) -> CronRunView {
    CronRunView {
        id: run.id,
        application: run.application,
        cron: run.cron.to_string(),
        version: Some(run.version),
        scheduled: run.scheduled,
        trigger: if run.is_manual {
            CronTrigger::Manual
        } else {
            CronTrigger::Schedule
        },
        state: match run.phase {
            RunPhase::Waiting => CronRunState::Waiting,
            RunPhase::Running => CronRunState::Running,
            RunPhase::Backoff { .. } => CronRunState::Backoff,
            RunPhase::Succeeded => CronRunState::Succeeded,
            RunPhase::Failed => CronRunState::Failed,
            RunPhase::TimedOut => CronRunState::TimedOut,
            RunPhase::Lost => CronRunState::Lost,
            RunPhase::Replaced => CronRunState::Replaced,
            RunPhase::Skipped(_) => CronRunState::Skipped,
            RunPhase::Missed => CronRunState::Missed,
        },
        attempts: run.attempts,
        started: run.begun,
        ended: run.ended,
        duration: run.duration,
        instance: run.instance,
        node: run.runner,
        status: run.status,
        outcome: run.words.clone(),
        count: run.count,
        last_scheduled: run.last_scheduled,
    }
}
