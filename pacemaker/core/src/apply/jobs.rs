//! Jobs: begin, build, fail, abort, finish, and how many are kept.
//!
//! ```text
//! Running ──every step succeeded──► Succeeded
//!    ├──a step failed─────────────► Failed    what it started is undone
//!    └──a user aborted────────────► Aborted   the same
//! ```
//! A job can be undone until its version becomes current (the entry of `Promote`'s second half);
//! from there it can only go on. Undoing is a change of what is wanted: the planner then withdraws,
//! stops and removes what the job had started, while the current version serves untouched.

use common::api::VersionState;
use common::id::{ApplicationId, JobId, VersionNumber};
use common::instance::{Failure, OUTPUT_TAIL_MAX_BYTES};
use common::job::{Job, JobFailure, JobKind, JobState, Step, StepName};

use crate::command::{Outcome, VersionTarget};
use crate::state::limits::{
    JOBS_MAX, JOBS_PER_APPLICATION_MAX, MESSAGE_MAX_BYTES, REGISTERED_VERSIONS_KEPT,
    VERSIONS_PER_APPLICATION_MAX,
};
use crate::state::records::{Application, JobRecord, Version, VersionGoal};
use crate::transition::Transition;

/// From a package to running instances.
pub(super) const STARTING_STEPS: [StepName; 4] = [
    StepName::Place,
    StepName::Register,
    StepName::Start,
    StepName::Healthy,
];

/// From running instances to a current version.
pub(super) const PROMOTING_STEPS: [StepName; 4] = [
    StepName::Route,
    StepName::Promote,
    StepName::Drain,
    StepName::Retire,
];

/// The steps of a deployment.
pub(super) fn deployment_steps(has_prepare: bool, promote: bool) -> Vec<StepName> {
    let mut steps = vec![StepName::Source, StepName::Manifest, StepName::Services];
    if has_prepare {
        steps.push(StepName::Prepare);
    }
    steps.push(StepName::Package);
    steps.extend(STARTING_STEPS);
    if promote {
        steps.extend(PROMOTING_STEPS);
    }
    steps
}

/// True when nothing refers to a version any more and its record may go.
pub(super) fn is_removable(application: &Application, version: &Version) -> bool {
    let number = Some(version.number);
    version.instances.is_empty()
        && version.goal == VersionGoal::Absent
        && application.current != number
        && application.previous != number
        && application.warm.map(|warm| warm.version) != number
}

impl Transition<'_> {
    /// Makes a running job; its steps are settled when the command is.
    pub(super) fn begin_job(
        &mut self,
        kind: JobKind,
        target: VersionTarget,
        steps: &[StepName],
    ) -> Outcome {
        let created = self.now();
        let counter = &mut self.state.counters.job;
        *counter = counter.saturating_add(1);
        let id = JobId(*counter);
        let index = self.index();
        let Some(version) = self.version(target.application, target.version) else {
            return Outcome::Done;
        };
        let record = JobRecord {
            job: Job {
                id,
                kind,
                application: target.application,
                version: version.id,
                version_number: target.version,
                state: JobState::Running,
                steps: steps.iter().copied().map(waiting).collect(),
                created,
                finished: None,
                failure: None,
            },
            generation: index,
            goal_before: version.goal,
            state_before: version.state,
            builder: None,
        };
        self.state.jobs.insert(id, record);
        if let Some(application) = self.application(target.application) {
            application.job = Some(id);
        }
        self.prune_jobs(target.application);
        Outcome::Job {
            job: id,
            application: target.application,
            version: target.version,
        }
    }

    /// Makes sure that the job's application is settled.
    pub(super) fn touch_job(&mut self, id: JobId) {
        if let Some((application, _)) = self.target_of(id) {
            self.application(application);
        }
    }

    pub(super) fn target_of(&self, id: JobId) -> Option<(ApplicationId, VersionNumber)> {
        let job = &self.state.jobs.get(&id)?.job;
        Some((job.application, job.version_number))
    }

    /// Ends a job that did not come to its end, and undoes what it started.
    pub(super) fn end_undone(&mut self, id: JobId, failure: Option<JobFailure>) {
        self.release_builder(id);
        let now = self.now();
        let Some(record) = self.job(id) else {
            return;
        };
        let (goal, state) = (record.goal_before, record.state_before);
        let failed_step = failure.as_ref().map(|failure| failure.step);
        let job = &mut record.job;
        job.state = match failure {
            Some(_) => JobState::Failed,
            None => JobState::Aborted,
        };
        for step in &mut job.steps {
            if Some(step.name) == failed_step {
                step.state = JobState::Failed;
                step.started.get_or_insert(now);
                step.ended = Some(now);
            } else if !step.state.is_final() {
                step.ended = step.started.map(|_| now);
                step.state = JobState::Aborted;
            }
        }
        job.finished = Some(now);
        job.failure = failure;
        let (application, number) = (job.application, job.version_number);
        if let Some(version) = self.version(application, number) {
            version.goal = goal;
            version.state = if state == VersionState::New && version.package.is_some() {
                VersionState::Prepared
            } else {
                state
            };
        }
        if let Some(application) = self.application(application) {
            application.job = None;
            application.switch = None;
            application.exclusive_owner = application.current;
        }
    }

    /// Marks the steps before `step` as passed, for a failure that was seen later than they were.
    pub(super) fn pass_steps_before(&mut self, id: JobId, step: StepName) {
        let now = self.now();
        let Some(record) = self.job(id) else {
            return;
        };
        for earlier in record
            .job
            .steps
            .iter_mut()
            .filter(|earlier| earlier.name < step)
        {
            if earlier.state != JobState::Succeeded {
                earlier.state = JobState::Succeeded;
                earlier.started.get_or_insert(now);
                earlier.ended = Some(now);
            }
        }
    }

    /// Ends a job whose steps have all succeeded.
    pub(super) fn end_succeeded(&mut self, id: JobId) {
        let now = self.now();
        let Some(record) = self.job(id) else {
            return;
        };
        record.job.state = JobState::Succeeded;
        record.job.finished = Some(now);
        let application = record.job.application;
        if let Some(application) = self.application(application) {
            application.job = None;
            application.switch = None;
        }
    }

    /// Drops the oldest finished jobs beyond the limits.
    fn prune_jobs(&mut self, application: ApplicationId) {
        let finished = |record: &&JobRecord| record.job.state.is_final();
        let mut of_application: Vec<JobId> = self
            .state
            .jobs
            .values()
            .filter(finished)
            .filter(|record| record.job.application == application)
            .map(|record| record.job.id)
            .collect();
        of_application.truncate(
            of_application
                .len()
                .saturating_sub(JOBS_PER_APPLICATION_MAX),
        );
        for id in of_application {
            self.state.jobs.remove(&id);
        }
        let over = self.state.jobs.len().saturating_sub(JOBS_MAX);
        let oldest: Vec<JobId> = self
            .state
            .jobs
            .values()
            .filter(finished)
            .map(|record| record.job.id)
            .take(over)
            .collect();
        for id in oldest {
            self.state.jobs.remove(&id);
        }
    }

    /// Drops the oldest versions beyond the limit that nothing refers to.
    pub(super) fn prune_versions(&mut self, id: ApplicationId) {
        let Some(application) = self.application(id) else {
            return;
        };
        let newest = VersionNumber(application.last_version);
        while application.versions.len() > VERSIONS_PER_APPLICATION_MAX {
            let removable = application
                .versions
                .values()
                .find(|version| version.number != newest && is_removable(application, version))
                .map(|version| version.number);
            let Some(number) = removable else {
                break;
            };
            application.versions.remove(&number);
        }
        let Some(application) = self.state.applications.get(&id) else {
            return;
        };
        let kept = self.state.claims_of(application);
        self.state
            .claims
            .retain(|name, owner| *owner != id || kept.contains(name));
    }

    /// Gives back the disk of stopped versions that nobody is likely to start again.
    pub(super) fn deregister_old_versions(&mut self, id: ApplicationId) {
        let Some(application) = self.application(id) else {
            return;
        };
        // A version that a job is starting is ready too, but wanted to run.
        let (current, previous) = (application.current, application.previous);
        let old: Vec<VersionNumber> = application
            .versions
            .values()
            .rev()
            .filter(|version| {
                version.state == VersionState::Ready && version.goal == VersionGoal::Registered
            })
            .map(|version| version.number)
            .filter(|number| Some(*number) != current && Some(*number) != previous)
            .skip(REGISTERED_VERSIONS_KEPT)
            .collect();
        for number in old {
            if let Some(version) = application.versions.get_mut(&number) {
                version.goal = VersionGoal::Absent;
                version.state = VersionState::Prepared;
            }
        }
    }
}

/// A job's failure from what a heart said.
pub(super) fn job_failure(
    step: StepName,
    failure: &Failure,
    message: &str,
    instance: Option<common::id::InstanceId>,
) -> JobFailure {
    let code = serde_json::to_value(failure.code)
        .ok()
        .and_then(|code| code.as_str().map(ToOwned::to_owned))
        .unwrap_or_default();
    JobFailure {
        step,
        code,
        message: head(message, MESSAGE_MAX_BYTES),
        output_tail: tail(&failure.output_tail, OUTPUT_TAIL_MAX_BYTES),
        instance,
    }
}

/// A heart's failure within the bounds of the state.
pub(crate) fn bounded(failure: &Failure) -> Failure {
    Failure {
        code: failure.code,
        message: head(&failure.message, MESSAGE_MAX_BYTES),
        output_tail: tail(&failure.output_tail, OUTPUT_TAIL_MAX_BYTES),
    }
}

/// The longest beginning of a text that has at most so many bytes.
pub(super) fn head(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or_default();
    text.get(..end).unwrap_or_default().to_owned()
}

/// The longest end of a text that has at most so many bytes.
fn tail(text: &str, bytes: usize) -> String {
    let start = (text.len().saturating_sub(bytes)..=text.len())
        .find(|start| text.is_char_boundary(*start))
        .unwrap_or_default();
    text.get(start..).unwrap_or_default().to_owned()
}

fn waiting(name: StepName) -> Step {
    Step {
        name,
        state: JobState::Waiting,
        started: None,
        ended: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(head("añb", 2), "a");
        assert_eq!(head("añb", 3), "añ");
        assert_eq!(tail("añb", 2), "b");
        assert_eq!(tail("añb", 3), "ñb");
        assert_eq!(head("", 5), "");
        assert_eq!(tail("ab", 5), "ab");
    }

    #[test]
    fn deployment_has_only_the_steps_that_it_needs() {
        let short = deployment_steps(false, false);
        assert!(!short.contains(&StepName::Prepare) && short.ends_with(&[StepName::Healthy]));

        let full = deployment_steps(true, true);
        assert!(full.contains(&StepName::Prepare) && full.ends_with(&[StepName::Retire]));
        assert!(full.is_sorted());
    }
}
