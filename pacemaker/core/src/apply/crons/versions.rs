//! Which crons an application has: those of its current version.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{CronKey, CronSpec};
use common::id::{ApplicationId, RunId, VersionNumber};

use crate::apply::reject;
use crate::command::{Rejection, RejectionCode};
use crate::state::crons::{CronPolicy, CronRecord, RunPhase};
use crate::state::limits::{CRONS_MAX, CRONS_PER_APPLICATION_MAX};
use crate::state::records::{Application, Version};
use crate::transition::Transition;

impl Transition<'_> {
    /// A version has become current: its crons take the place of those of the version before.
    ///
    /// A cron that both have, at the same times, goes on where it was, so that no slot is lost
    /// between them. Any other begins with its first slot from now on. What the new version does
    /// not have is not tried again; requests that are under way end by themselves.
    pub(in crate::apply) fn adopt_crons(&mut self, id: ApplicationId) {
        let now = self.now();
        let Some(application) = self.state.applications.get(&id) else {
            return;
        };
        let Some(number) = application.current else {
            return;
        };
        let wanted = application.versions.get(&number).map(specs_of);
        let wanted = wanted.unwrap_or_default();
        if wanted.is_empty() && application.crons.is_empty() {
            return;
        }
        let before = application
            .crons_version
            .and_then(|before| application.versions.get(&before))
            .map(specs_of)
            .unwrap_or_default();
        let adopted: Vec<(CronKey, CronPolicy, bool)> = wanted
            .iter()
            .map(|(key, spec)| {
                let goes_on = before.get(key).is_some_and(|before| {
                    before.runspec == spec.runspec && before.timezone == spec.timezone
                });
                (key.clone(), CronPolicy::from(*spec), goes_on)
            })
            .collect();
        let gone: Vec<CronKey> = application
            .crons
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in &gone {
            self.leave_cron(id, key, number);
        }
        if let Some(application) = self.state.applications.get_mut(&id) {
            application.crons_version = Some(number);
            for (key, policy, goes_on) in adopted {
                let record = application.crons.entry(key);
                let record = record.or_insert_with(|| {
                    let crons = &mut self.state.cron_index.crons;
                    *crons = crons.saturating_add(1);
                    CronRecord::from_now(now)
                });
                if !goes_on {
                    record.begin(now);
                }
                record.policy = Some(policy);
            }
        }
        self.stop_retries(id, number);
        self.forget_crons(id, &gone);
        self.touch_crons(id);
    }

    /// Ends what would be tried more often than the version that became current allows.
    fn stop_retries(&mut self, id: ApplicationId, version: VersionNumber) {
        let Some(application) = self.state.applications.get(&id) else {
            return;
        };
        let allowed = application.crons.values().flat_map(|record| {
            let retries = record.policy.map(|policy| policy.retries);
            record.live.iter().map(move |run| (*run, retries))
        });
        let is_over = |(run, retries): (RunId, Option<u32>)| {
            let run = self.state.cron_runs.get(&run)?;
            let backs_off = matches!(run.phase, RunPhase::Backoff { .. });
            (backs_off && run.attempts > retries?).then_some(run.id)
        };
        let over: Vec<RunId> = allowed.filter_map(is_over).collect();
        for run in over {
            let why = format!("version {version}, which became current, allows fewer retries");
            self.end_without_attempt(run, &why);
        }
    }

    fn leave_cron(&mut self, id: ApplicationId, key: &CronKey, version: VersionNumber) {
        let Some(record) = self.cron(id, key) else {
            return;
        };
        record.policy = None;
        let live: Vec<RunId> = record.live.iter().copied().collect();
        for run in live {
            let is_running = self
                .state
                .cron_runs
                .get(&run)
                .is_some_and(|run| run.phase == RunPhase::Running);
            if !is_running {
                let why = format!("version {version}, which became current, has no such cron");
                self.end_without_attempt(run, &why);
            }
        }
    }

    /// Forgets those that no kept version has any more, when nothing of them goes on.
    fn forget_crons(&mut self, id: ApplicationId, gone: &[CronKey]) {
        let Some(application) = self.state.applications.get_mut(&id) else {
            return;
        };
        let kept: BTreeSet<CronKey> = application
            .versions
            .values()
            .flat_map(|version| specs_of(version).into_keys())
            .collect();
        for key in gone {
            let is_over = application
                .crons
                .get(key)
                .is_some_and(|record| record.live.is_empty());
            let is_surplus = application.crons.len() > CRONS_PER_APPLICATION_MAX;
            if !is_over || kept.contains(key) && !is_surplus {
                continue;
            }
            for run in application
                .crons
                .remove(key)
                .into_iter()
                .flat_map(|cron| cron.runs)
            {
                self.state.cron_runs.remove(&run);
            }
            let crons = &mut self.state.cron_index.crons;
            *crons = crons.saturating_sub(1);
        }
    }

    /// Refuses a version whose crons would be more than a cell may have.
    pub(in crate::apply) fn check_crons(
        &self,
        existing: Option<&Application>,
        wanted: usize,
    ) -> Result<(), Rejection> {
        let others = usize::try_from(self.state.cron_index.crons).unwrap_or(usize::MAX);
        let own = existing.map_or(0, |application| application.crons.len());
        let total = others.saturating_sub(own).saturating_add(wanted.max(own));
        if wanted > 0 && total > CRONS_MAX {
            return Err(reject(
                RejectionCode::LimitExceeded,
                format!("the cluster would have more than {CRONS_MAX} crons, the most it may have"),
            ));
        }
        Ok(())
    }
}

fn specs_of(version: &Version) -> BTreeMap<CronKey, &CronSpec> {
    version
        .spec
        .instance_types
        .iter()
        .flat_map(|instance_type| {
            instance_type.crons.iter().map(|spec| {
                let key = CronKey {
                    instance_type: instance_type.name.clone(),
                    name: spec.name.clone(),
                };
                (key, spec)
            })
        })
        .collect()
}
