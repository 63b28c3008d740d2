//! What people ask of crons: run one now, suspend it, resume it.

use common::application::{CronKey, Overlap};
use common::id::{ApplicationId, RunId};

use crate::apply::reject;
use crate::command::{Outcome, Rejection, RejectionCode};
use crate::state::crons::{CronRecord, RunPhase};
use crate::state::limits::{CRON_LIVE_MAX, CRON_LIVE_PER_CRON};
use crate::state::records::Application;
use crate::transition::Transition;

/// How many crons a refusal names.
const NAMES_SHOWN: usize = 10;

impl Transition<'_> {
    /// A run that the leader claims at once; a suspended cron can be run so too.
    pub(in crate::apply) fn start_cron_run(
        &mut self,
        id: ApplicationId,
        cron: &CronKey,
    ) -> Result<Outcome, Rejection> {
        let now = self.now();
        let (application, record) = self.find_cron(id, cron)?;
        let Some(version) = application.current else {
            return Err(reject(
                RejectionCode::VersionState,
                format!(
                    "application `{}` has no current version to run `{cron}` of: promote one",
                    application.name
                ),
            ));
        };
        let Some(policy) = record.policy else {
            return Err(unknown(application, cron));
        };
        if record.is_taken(now) && policy.overlap != Overlap::Allow {
            let why = if record.live.is_empty() || policy.overlap == Overlap::Replace {
                "a lost request of it may still be going on"
            } else {
                "it runs already, and its manifest says `overlap: forbid`"
            };
            return Err(reject(
                RejectionCode::Busy,
                format!("`{cron}` cannot be run now: {why}; wait until it has ended"),
            ));
        }
        if record.live.len() >= CRON_LIVE_PER_CRON || self.state.cron_index.live >= CRON_LIVE_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!(
                    "too many runs of `{cron}`, or of all crons, go on: wait until some have ended"
                ),
            ));
        }
        if policy.overlap == Overlap::Replace {
            self.replace_runs(id, cron, now);
        }
        let mut run = self.new_run(id, cron, version, now);
        run.is_manual = true;
        run.retries = policy.retries;
        run.timeout = policy.timeout;
        let number = run.id;
        self.insert_run(run);
        Ok(Outcome::CronRun(number))
    }

    /// Takes a cron's slots away; what waits for another attempt is not tried again.
    pub(in crate::apply) fn suspend_cron(
        &mut self,
        id: ApplicationId,
        cron: &CronKey,
    ) -> Result<Outcome, Rejection> {
        self.find_cron(id, cron)?;
        let backing_off: Vec<RunId> = self
            .cron(id, cron)
            .map(|record| {
                record.suspended = true;
                record.live.iter().copied().collect()
            })
            .unwrap_or_default();
        for run in backing_off {
            let stops =
                self.state.cron_runs.get(&run).is_some_and(|run| {
                    !run.is_manual && matches!(run.phase, RunPhase::Backoff { .. })
                });
            if stops {
                self.end_without_attempt(run, "the cron was suspended");
            }
        }
        self.touch_crons(id);
        Ok(Outcome::Done)
    }

    /// Gives a cron its slots back, from the next on.
    pub(in crate::apply) fn resume_cron(
        &mut self,
        id: ApplicationId,
        cron: &CronKey,
    ) -> Result<Outcome, Rejection> {
        let now = self.now();
        self.find_cron(id, cron)?;
        if let Some(record) = self.cron(id, cron)
            && record.suspended
        {
            record.suspended = false;
            record.begin(now);
        }
        self.touch_crons(id);
        Ok(Outcome::Done)
    }

    fn find_cron(
        &self,
        id: ApplicationId,
        cron: &CronKey,
    ) -> Result<(&Application, &CronRecord), Rejection> {
        let application = self.find_application(id)?;
        let record = application.crons.get(cron);
        record
            .map(|record| (application, record))
            .ok_or_else(|| unknown(application, cron))
    }
}

fn unknown(application: &Application, cron: &CronKey) -> Rejection {
    let known: Vec<String> = application
        .crons
        .iter()
        .filter(|(_, record)| record.policy.is_some())
        .map(|(key, _)| format!("`{key}`"))
        .take(NAMES_SHOWN)
        .collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    reject(
        RejectionCode::CronNotFound,
        format!(
            "the current version of `{}` has no cron `{cron}`; it has {known}",
            application.name
        ),
    )
}
