//! What always holds of crons and their runs.

use std::collections::BTreeSet;

use common::application::{CronKey, Overlap};
use common::id::RunId;
use common::time::Timestamp;

use crate::state::State;
use crate::state::crons::{CronIndex, CronRecord, CronRun, RunPhase};
use crate::state::limits::{
    CRON_FIRED_SPANS, CRON_LIVE_MAX, CRON_RUNNING_MAX, CRON_RUNS_KEPT, CRON_RUNS_MAX,
};
use crate::state::records::Application;

impl State {
    /// Every rule about crons that is broken, in words.
    pub(super) fn broken_crons(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut index = CronIndex::default();
        let mut listed = BTreeSet::new();
        for application in self.applications.values() {
            if !application.crons.is_empty()
                && application.current.is_some()
                && application.crons_version != application.current
            {
                broken.push(format!(
                    "application {} fires the crons of another version",
                    application.id
                ));
            }
            for (key, record) in &application.crons {
                index.crons = index.crons.saturating_add(1);
                listed.extend(record.runs.iter().copied());
                let name = format!("cron `{key}` of application {}", application.id);
                let found = self.broken_cron(application, key, record);
                broken.extend(found.into_iter().map(|fault| format!("{name} {fault}")));
            }
        }
        for run in self.cron_runs.values() {
            index.insert(run);
            broken.extend(broken_run(run));
        }
        if !listed.iter().eq(self.cron_runs.keys()) {
            broken.push("the runs of crons are not those that are listed".to_owned());
        }
        if index != self.cron_index {
            broken.push(format!(
                "the index of crons is {:?} and should be {index:?}",
                self.cron_index
            ));
        }
        let newest = self.cron_runs.keys().next_back().copied();
        let is_bounded = self.cron_runs.len() <= CRON_RUNS_MAX
            && index.live <= CRON_LIVE_MAX
            && u64::try_from(index.deadlines.len()).is_ok_and(|count| count <= CRON_RUNNING_MAX)
            && newest.unwrap_or_default() <= RunId(self.counters.cron_run);
        if !is_bounded {
            broken.push("crons have passed a limit".to_owned());
        }
        broken
    }

    fn broken_cron(
        &self,
        application: &Application,
        key: &CronKey,
        record: &CronRecord,
    ) -> Vec<String> {
        let mut broken = Vec::new();
        let runs: Vec<&CronRun> = record
            .runs
            .iter()
            .filter_map(|run| self.cron_runs.get(run))
            .collect();
        let is_own = |run: &&CronRun| run.application == application.id && run.cron == *key;
        if runs.len() != record.runs.len() || !runs.iter().all(is_own) {
            broken.push("lists runs that are not its own".to_owned());
        }
        let live = runs.iter().filter(|run| !run.phase.is_final());
        if !live.map(|run| run.id).eq(record.live.iter().copied()) {
            broken.push("lists other runs than those that go on".to_owned());
        }
        let kept = CRON_RUNS_KEPT.saturating_add(record.live.len());
        if record.runs.len() > kept || record.fired.len() > CRON_FIRED_SPANS {
            broken.push("keeps too much".to_owned());
        }
        let times: Vec<Timestamp> = record
            .fired
            .iter()
            .flat_map(|span| [span.first, span.last])
            .collect();
        let is_rising = record
            .fired
            .windows(2)
            .all(|pair| matches!(pair, [one, next] if one.last < next.first));
        if !times.is_sorted() || !is_rising {
            broken.push(format!("fired {:?}, which does not rise", record.fired));
        }
        let mut slots = BTreeSet::new();
        for run in runs.iter().filter(|run| !run.is_manual && run.attempts > 0) {
            if !slots.insert(run.scheduled) {
                broken.push(format!("fired {} twice", run.scheduled));
            }
            if record.fired_until(run.scheduled).is_none() {
                broken.push(format!("does not know that it fired {}", run.scheduled));
            }
        }
        let is_alone = record
            .policy
            .is_some_and(|policy| policy.overlap != Overlap::Allow);
        let of_version = runs.iter().filter(|run| {
            run.phase == RunPhase::Running && Some(run.version) == application.crons_version
        });
        if is_alone && of_version.count() > 1 {
            broken.push("overlaps itself".to_owned());
        }
        let stopped = runs.iter().any(|run| {
            matches!(run.phase, RunPhase::Backoff { .. }) && !run.is_manual && record.suspended
        });
        if stopped {
            broken.push("is suspended and tried again".to_owned());
        }
        let number = application.crons_version;
        let version = number.and_then(|number| application.versions.get(&number));
        let is_wanted = version
            .and_then(|version| version.instance_type(&key.instance_type))
            .is_some_and(|spec| spec.crons.iter().any(|cron| cron.name == key.name));
        if is_wanted != record.policy.is_some() {
            broken.push("is not what its version says".to_owned());
        }
        broken
    }
}

fn broken_run(run: &CronRun) -> Option<String> {
    let is_told = !run.phase.is_final() || !run.words.is_empty();
    let is_begun = (run.attempts > 0) == run.begun.is_some();
    let is_counted = run.count > 0 && run.last_scheduled >= run.scheduled;
    let has_runner = run.phase != RunPhase::Running || run.runner.is_some();
    (!is_told || !is_begun || !is_counted || !has_runner)
        .then(|| format!("run {} of a cron is odd: {run:?}", run.id))
}
