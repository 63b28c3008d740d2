//! The steps of a job: what each begins, when it is met, and the switchover.
//!
//! [`Transition::settle`] runs at the end of every command that touched an application. Steps
//! whose condition can be read from the state succeed there, in the same entry of the log; only
//! what must be heard from routers arrives as [`Action::CompleteStep`](crate::action::Action).

mod conditions;

use common::api::VersionState;
use common::id::{ApplicationId, JobId, VersionNumber};
use common::job::{JobKind, JobState, StepName};
use common::time::Timestamp;

pub(crate) use self::conditions::is_busy_with;
use self::conditions::{Level, is_met_by_state, is_type_settled, stands};
use crate::apply::stale;
use crate::command::Rejection;
use crate::state::records::{JobRecord, Switch, SwitchPhase, VersionGoal, Warm};
use crate::transition::Transition;

impl Transition<'_> {
    /// Takes an application's job as far as the state alone allows.
    pub(crate) fn settle(&mut self, id: ApplicationId) {
        while let Some(job) = self.job_of(id) {
            let Some(step) = job.step() else {
                let job = job.job.id;
                self.end_succeeded(job);
                continue;
            };
            let job = job.job.id;
            self.begin_step(job, step);
            self.hand_over(id);
            if !self.is_step_met(id, step) {
                break;
            }
            self.succeed_step(job, step);
        }
        self.end_handover(id);
    }

    /// What a step waited for outside the state has come.
    pub(super) fn complete_step(&mut self, id: JobId, step: StepName) -> Result<(), Rejection> {
        let Some(record) = self.state.jobs.get(&id) else {
            return Err(stale(format!("job {id} is unknown")));
        };
        if record.step() != Some(step) {
            return Err(stale(format!("job {id} is not at that step")));
        }
        let application = record.job.application;
        if !self.state.may_complete(application, step) {
            return Err(stale(format!("job {id} cannot complete that step yet")));
        }
        self.succeed_step(id, step);
        self.touch_job(id);
        Ok(())
    }

    /// The watch window is over.
    pub(super) fn end_warm(
        &mut self,
        id: ApplicationId,
        version: VersionNumber,
        until: Timestamp,
    ) -> Result<(), Rejection> {
        let expected = Warm { version, until };
        let Some(application) = self.state.applications.get(&id) else {
            return Err(stale(format!("application {id} is unknown")));
        };
        if application.warm != Some(expected) || is_busy_with(self.state, application, version) {
            return Err(stale(format!("version {version} is not warm until then")));
        }
        self.cool(id);
        self.deregister_old_versions(id);
        Ok(())
    }

    fn job_of(&self, id: ApplicationId) -> Option<&JobRecord> {
        self.state.running_job(self.state.applications.get(&id)?)
    }

    /// Marks a step as running and does what it begins with.
    fn begin_step(&mut self, id: JobId, name: StepName) {
        let now = self.now();
        let Some(record) = self.job(id) else {
            return;
        };
        let (application, number) = (record.job.application, record.job.version_number);
        let kind = record.job.kind;
        let Some(step) = record.job.steps.iter_mut().find(|step| step.name == name) else {
            return;
        };
        if step.started.is_some() {
            return;
        }
        step.started = Some(now);
        step.state = JobState::Running;
        match name {
            StepName::Place => self.want(application, number, VersionGoal::Running),
            StepName::Route => self.begin_switch(application, number),
            StepName::Promote => self.begin_handover(application),
            StepName::Drain => match kind {
                JobKind::Stop => {
                    self.want(application, number, VersionGoal::Registered);
                    self.forget_warm(application, number);
                }
                JobKind::Deploy
                | JobKind::Promote
                | JobKind::Rollback
                | JobKind::Start
                | JobKind::Deregister => self.enter(application, SwitchPhase::Draining),
            },
            StepName::Retire => self.retire(application),
            StepName::Deregister => {
                self.want(application, number, VersionGoal::Absent);
                self.reach(application, number, VersionState::Prepared);
            }
            StepName::Source
            | StepName::Manifest
            | StepName::Services
            | StepName::Prepare
            | StepName::Package
            | StepName::Register
            | StepName::Start
            | StepName::Healthy
            | StepName::Stop => {}
        }
    }

    fn succeed_step(&mut self, id: JobId, name: StepName) {
        let now = self.now();
        let Some(record) = self.job(id) else {
            return;
        };
        let (application, number) = (record.job.application, record.job.version_number);
        if let Some(step) = record.job.steps.iter_mut().find(|step| step.name == name) {
            step.state = JobState::Succeeded;
            step.started.get_or_insert(now);
            step.ended = Some(now);
        }
        match name {
            StepName::Register => {
                if self.version_state(application, number) == Some(VersionState::Prepared) {
                    self.reach(application, number, VersionState::Ready);
                }
            }
            StepName::Healthy => self.reach(application, number, VersionState::Running),
            StepName::Stop => self.reach(application, number, VersionState::Ready),
            StepName::Source
            | StepName::Manifest
            | StepName::Services
            | StepName::Prepare
            | StepName::Package
            | StepName::Place
            | StepName::Start
            | StepName::Route
            | StepName::Promote
            | StepName::Drain
            | StepName::Retire
            | StepName::Deregister => {}
        }
    }

    fn is_step_met(&self, id: ApplicationId, step: StepName) -> bool {
        let met = || {
            let application = self.state.applications.get(&id)?;
            let job = self.state.running_job(application)?;
            let version = application.versions.get(&job.job.version_number)?;
            Some(is_met_by_state(self.state, application, version, job, step))
        };
        met().unwrap_or(false)
    }

    fn want(&mut self, id: ApplicationId, number: VersionNumber, goal: VersionGoal) {
        if let Some(version) = self.version(id, number) {
            version.goal = goal;
        }
    }

    fn reach(&mut self, id: ApplicationId, number: VersionNumber, state: VersionState) {
        if let Some(version) = self.version(id, number) {
            version.state = state;
        }
    }

    fn version_state(&self, id: ApplicationId, number: VersionNumber) -> Option<VersionState> {
        let application = self.state.applications.get(&id)?;
        Some(application.versions.get(&number)?.state)
    }

    /// The hostnames begin to go to both versions.
    fn begin_switch(&mut self, id: ApplicationId, to: VersionNumber) {
        let (generation, since) = (self.index(), self.now());
        if let Some(application) = self.application(id) {
            application.switch = Some(Switch {
                from: application.current,
                to,
                phase: SwitchPhase::Both,
                generation,
                since,
            });
        }
    }

    fn enter(&mut self, id: ApplicationId, phase: SwitchPhase) {
        let (generation, since) = (self.index(), self.now());
        if let Some(application) = self.application(id)
            && let Some(switch) = &mut application.switch
        {
            switch.phase = phase;
            switch.generation = generation;
            switch.since = since;
        }
    }

    /// Exclusive types change hands: from here those of the old version must stop.
    fn begin_handover(&mut self, id: ApplicationId) {
        self.enter(id, SwitchPhase::Handover);
        if let Some(application) = self.application(id)
            && let Some(switch) = application.switch
        {
            application.exclusive_owner = Some(switch.to);
            application.handover = true;
        }
    }

    /// Makes the new version current once its exclusive types run.
    fn hand_over(&mut self, id: ApplicationId) {
        let Some(application) = self.state.applications.get(&id) else {
            return;
        };
        let Some(switch) = application.switch else {
            return;
        };
        if switch.phase != SwitchPhase::Handover
            || !stands(self.state, application, switch.to, Level::Healthy)
        {
            return;
        }
        self.enter(id, SwitchPhase::OnlyNew);
        if let Some(application) = self.application(id) {
            application.previous = switch.from.or(application.previous);
            application.current = Some(switch.to);
            if application.warm.map(|warm| warm.version) == Some(switch.to) {
                application.warm = None;
            }
        }
        self.adopt_crons(id);
    }

    /// Requests are held only until the owner's exclusive types run, or show that they will not.
    fn end_handover(&mut self, id: ApplicationId) {
        let Some(application) = self.state.applications.get(&id) else {
            return;
        };
        if !application.handover {
            return;
        }
        let owner = application
            .exclusive_owner
            .and_then(|number| application.versions.get(&number));
        let is_settled = owner.is_none_or(|version| {
            version
                .spec
                .instance_types
                .iter()
                .filter(|spec| spec.exclusive)
                .all(|spec| is_type_settled(self.state, application, version, spec))
        });
        if is_settled && let Some(application) = self.application(id) {
            application.handover = false;
        }
    }

    /// The version before is kept warm; the one that was warm before it is stopped.
    fn retire(&mut self, id: ApplicationId) {
        let until = self.now().after(self.state.settings().watch_window);
        let Some(switch) = self
            .state
            .applications
            .get(&id)
            .and_then(|application| application.switch)
        else {
            return;
        };
        let warm = self
            .state
            .applications
            .get(&id)
            .and_then(|application| application.warm);
        if warm.is_some_and(|warm| Some(warm.version) != switch.from) {
            self.cool(id);
        }
        if let Some(application) = self.application(id) {
            application.warm = switch.from.map(|version| Warm { version, until });
        }
        self.deregister_old_versions(id);
    }

    /// The warm version is no longer wanted to run.
    fn cool(&mut self, id: ApplicationId) {
        let Some(warm) = self
            .application(id)
            .and_then(|application| application.warm.take())
        else {
            return;
        };
        self.want(id, warm.version, VersionGoal::Registered);
        self.reach(id, warm.version, VersionState::Ready);
    }

    fn forget_warm(&mut self, id: ApplicationId, version: VersionNumber) {
        if let Some(application) = self.application(id)
            && application.warm.map(|warm| warm.version) == Some(version)
        {
            application.warm = None;
        }
    }
}
