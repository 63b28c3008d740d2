//! `pm why`: plain sentences about how something stands, why, and what to do.
//!
//! Each answer begins with what is wanted and what is, then says what the cluster waits for, node
//! by node where nodes matter, and ends with what a person can do. Nothing here changes anything.

mod instance;
mod nodes;
mod waits;

use common::api::{Explanation, VersionState};
use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, InstanceId, JobId};
use common::instance::InstanceState;
use common::job::{JobKind, JobState, StepName};

use crate::desire::{Wanted, goal_of_type};
use crate::sightings::Sightings;
use crate::state::State;
use crate::state::records::{Application, Instance, JobRecord, Version, VersionGoal};

impl State {
    /// `pm why` about an application.
    #[must_use]
    pub fn explain_application(
        &self,
        application: ApplicationId,
        sightings: &Sightings,
    ) -> Option<Explanation> {
        let application = self.applications.get(&application)?;
        let workspace = self.workspaces.get(&application.workspace)?;
        let mut lines = Vec::new();
        if let Some(job) = self.running_job(application) {
            lines.push(self.job_sentence(job));
            lines.extend(self.waits_of_job(job, sightings));
        } else {
            lines.extend(self.last_failure(application));
        }
        for version in application.versions.values().rev() {
            if version.goal != VersionGoal::Absent || !version.instances.is_empty() {
                lines.extend(self.version_lines(application, version, sightings));
            }
        }
        lines.extend(self.crons_in_words(application));
        lines.extend(self.advice(application));
        Some(Explanation {
            subject: format!(
                "application `{}` (number {}) in workspace `{}`",
                application.name, application.id, workspace.stub
            ),
            summary: self.application_summary(application),
            lines,
        })
    }

    /// `pm why` about an instance.
    #[must_use]
    pub fn explain_instance(
        &self,
        instance: InstanceId,
        sightings: &Sightings,
    ) -> Option<Explanation> {
        let instance = self.instances.get(&instance)?;
        let application = self.applications.get(&instance.application)?;
        Some(Explanation {
            subject: format!(
                "instance {} of type `{}` of version {} of `{}`",
                instance.id, instance.instance_type, instance.version, application.name
            ),
            summary: self.instance_sentence(instance),
            lines: self.instance_lines(instance, sightings),
        })
    }

    /// `pm why` about a job.
    #[must_use]
    pub fn explain_job(&self, job: JobId, sightings: &Sightings) -> Option<Explanation> {
        let record = self.jobs.get(&job)?;
        let job = &record.job;
        let name = self
            .applications
            .get(&job.application)
            .map_or_else(String::new, |application| application.name.to_string());
        let mut lines = Vec::new();
        if let Some(failure) = &job.failure {
            lines.push(failure.message.clone());
            lines.extend(failure.output_tail.lines().map(|line| format!("| {line}")));
            lines.push(
                "what the job had started has been undone; correct the cause and try again"
                    .to_owned(),
            );
        } else if !job.state.is_final() {
            lines.extend(self.waits_of_job(record, sightings));
        }
        Some(Explanation {
            subject: format!(
                "job {} ({} of version {} of `{name}`)",
                job.id,
                kind_in_words(job.kind),
                job.version_number
            ),
            summary: self.job_sentence(record),
            lines,
        })
    }

    fn application_summary(&self, application: &Application) -> String {
        let Some(version) = application
            .current
            .and_then(|number| application.versions.get(&number))
        else {
            return "no version is current, so its hostnames go nowhere".to_owned();
        };
        let wanted: u64 = version
            .quantities
            .values()
            .map(|count| u64::from(*count))
            .sum();
        let running = self
            .instances_of(version)
            .filter(|instance| instance.assigned && instance.seen.state == InstanceState::Running)
            .count();
        format!(
            "version {} is current and {running} of {wanted} wanted instances run",
            version.number
        )
    }

    fn last_failure(&self, application: &Application) -> Vec<String> {
        let last = self
            .jobs
            .values()
            .rev()
            .find(|record| record.job.application == application.id);
        let Some((record, failure)) =
            last.and_then(|record| Some((record, record.job.failure.as_ref()?)))
        else {
            return Vec::new();
        };
        vec![format!(
            "the last job, {} ({} of version {}), failed at the step `{}`: {}",
            record.job.id,
            kind_in_words(record.job.kind),
            record.job.version_number,
            step_in_words(failure.step),
            failure.message
        )]
    }

    fn version_lines(
        &self,
        application: &Application,
        version: &Version,
        sightings: &Sightings,
    ) -> Vec<String> {
        let number = version.number;
        let role = if application.current == Some(number) {
            "is current".to_owned()
        } else if let Some(warm) = application.warm.filter(|warm| warm.version == number) {
            format!(
                "stays warm until {}, so that going back is instant",
                warm.until
            )
        } else if application.previous == Some(number) {
            "is the one that a rollback goes to".to_owned()
        } else {
            "is not current".to_owned()
        };
        let goal = match version.goal {
            VersionGoal::Absent => "its instances are being removed",
            VersionGoal::Registered => "its instances are to be stopped and kept",
            VersionGoal::Running => "its instances are to run",
        };
        let mut lines = vec![format!("version {number} {role}; {goal}")];
        for spec in &version.spec.instance_types {
            lines.extend(self.type_lines(application, version, spec, sightings));
        }
        lines
    }

    fn type_lines(
        &self,
        application: &Application,
        version: &Version,
        spec: &InstanceTypeSpec,
        sightings: &Sightings,
    ) -> Vec<String> {
        let desire = self.desire(application, version, spec);
        let mut lines = Vec::new();
        let waits_for_promotion = spec.exclusive
            && version.goal == VersionGoal::Running
            && application.exclusive_owner != Some(version.number);
        if waits_for_promotion {
            lines.push(format!(
                "`{}` is exclusive: it runs only while its version is current",
                spec.name
            ));
        }
        if desire.missing > 0 {
            lines.push(format!(
                "{} of {} instances of `{}` have no node:",
                desire.missing,
                version.quantity(&spec.name),
                spec.name
            ));
            lines.extend(self.nodes_in_words(version, spec));
        }
        lines.extend(self.drains_in_words(version, spec, &desire));
        for instance in self
            .instances_of(version)
            .filter(|instance| instance.instance_type == spec.name)
        {
            if !is_at_rest(instance, desire.of(instance.id)) {
                lines.push(self.instance_sentence(instance));
                lines.extend(self.instance_lines(instance, sightings));
            }
        }
        if lines.is_empty() && goal_of_type(application, version, spec).is_some() {
            lines.push(format!(
                "all {} instances of `{}` are as wanted",
                version.quantity(&spec.name),
                spec.name
            ));
        }
        lines
    }

    fn advice(&self, application: &Application) -> Option<String> {
        let newest = application.versions.values().next_back()?;
        if application.job.is_some() {
            return None;
        }
        if application.current.is_none() {
            let verb = match newest.state {
                VersionState::New => "deploy again",
                VersionState::Prepared | VersionState::Ready | VersionState::Running => {
                    "promote a version, or deploy again"
                }
            };
            return Some(format!("to do: {verb}"));
        }
        None
    }

    pub(super) fn job_sentence(&self, record: &JobRecord) -> String {
        let job = &record.job;
        let what = format!(
            "job {} ({} of version {})",
            job.id,
            kind_in_words(job.kind),
            job.version_number
        );
        match (job.state, record.step(), &job.failure) {
            (JobState::Failed, _, Some(failure)) => {
                format!(
                    "{what} failed at the step `{}`",
                    step_in_words(failure.step)
                )
            }
            (JobState::Succeeded, _, _) => format!("{what} succeeded"),
            (JobState::Aborted, _, _) => format!("{what} was aborted and undone"),
            (_, Some(step), _) => format!("{what} is at the step `{}`", step_in_words(step)),
            (_, _, _) => format!("{what} is under way"),
        }
    }

    pub(super) fn instances_of<'a>(
        &'a self,
        version: &'a Version,
    ) -> impl Iterator<Item = &'a Instance> {
        version
            .instances
            .iter()
            .filter_map(|instance| self.instances.get(instance))
    }
}

/// True when there is nothing to say about an instance.
fn is_at_rest(instance: &Instance, wanted: Wanted) -> bool {
    match wanted {
        Wanted::Running => instance.seen.state == InstanceState::Running,
        Wanted::Registered => matches!(
            instance.seen.state,
            InstanceState::Registered | InstanceState::Stopped
        ),
        Wanted::Gone => false,
    }
}

fn kind_in_words(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Deploy => "deployment",
        JobKind::Promote => "promotion",
        JobKind::Rollback => "rollback",
        JobKind::Start => "start",
        JobKind::Stop => "stop",
        JobKind::Deregister => "deregistration",
    }
}

pub(super) fn step_in_words(step: StepName) -> &'static str {
    match step {
        StepName::Source => "source",
        StepName::Manifest => "manifest",
        StepName::Services => "services",
        StepName::Prepare => "prepare",
        StepName::Package => "package",
        StepName::Place => "place",
        StepName::Register => "register",
        StepName::Start => "start",
        StepName::Healthy => "healthy",
        StepName::Route => "route",
        StepName::Promote => "promote",
        StepName::Drain => "drain",
        StepName::Retire => "retire",
        StepName::Stop => "stop",
        StepName::Deregister => "deregister",
    }
}
