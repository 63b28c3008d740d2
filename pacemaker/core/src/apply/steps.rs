//! The steps of a job: what each begins, when it is met, and the switchover.
//!
//! [`Transition::settle`] runs at the end of every command that touched an application. Steps
//! whose condition can be read from the state succeed there, in the same entry of the log; only
//! what must be heard from routers arrives as [`Action::CompleteStep`](crate::action::Action).

use common::api::VersionState;
use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, JobId, VersionNumber};
use common::instance::{InstanceGoal, InstanceState};
use common::job::{JobKind, JobState, StepName};
use common::node::Role;
use common::time::Timestamp;

use crate::apply::stale;
use crate::command::Rejection;
use crate::desire::{goal_of_type, has_no_process, is_met};
use crate::state::State;
use crate::state::records::{
    Application, Instance, JobRecord, Switch, SwitchPhase, Version, VersionGoal, Warm,
};
use crate::transition::Transition;

/// How far an instance must be for a step to be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// On a node.
    Placed,
    /// Laid out.
    Registered,
    /// A process exists.
    Started,
    /// Its start check passed.
    Healthy,
}

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

impl State {
    /// True when a step that waits for routers may complete as far as the state can tell.
    pub(crate) fn may_complete(&self, id: ApplicationId, step: StepName) -> bool {
        let Some(application) = self.applications.get(&id) else {
            return false;
        };
        let Some(switch) = application.switch else {
            return false;
        };
        match (step, switch.phase) {
            // Never route to fewer than are wanted: the new version must still stand.
            (StepName::Route, SwitchPhase::Both) => {
                stands(self, application, switch.to, Level::Healthy)
            }
            (StepName::Promote, SwitchPhase::OnlyNew)
            | (StepName::Drain, SwitchPhase::Draining) => true,
            (_, _) => false,
        }
    }
}

/// True when an application's job is about this version.
pub(crate) fn is_busy_with(
    state: &State,
    application: &Application,
    version: VersionNumber,
) -> bool {
    state
        .running_job(application)
        .is_some_and(|job| job.job.version_number == version)
}

fn is_met_by_state(
    state: &State,
    application: &Application,
    version: &Version,
    job: &JobRecord,
    step: StepName,
) -> bool {
    let number = version.number;
    let from = application.switch.and_then(|switch| switch.from);
    match step {
        StepName::Source | StepName::Manifest | StepName::Services | StepName::Retire => true,
        StepName::Prepare | StepName::Package => version.package.is_some(),
        StepName::Place => version
            .spec
            .instance_types
            .iter()
            .all(|spec| state.desire(application, version, spec).missing == 0),
        StepName::Register => stands(state, application, number, Level::Registered),
        StepName::Start => stands(state, application, number, Level::Started),
        StepName::Healthy => stands(state, application, number, Level::Healthy),
        // Without a version before, both tables are the same: one acknowledgement will do.
        StepName::Route => from.is_none(),
        StepName::Promote => false,
        StepName::Drain => match job.job.kind {
            JobKind::Stop => instances(state, version)
                .all(|instance| !instance.assigned || instance.goal == InstanceGoal::Registered),
            JobKind::Deploy
            | JobKind::Promote
            | JobKind::Rollback
            | JobKind::Start
            | JobKind::Deregister => from.is_none(),
        },
        StepName::Stop => instances(state, version)
            .all(|instance| has_no_process(instance.seen.state) || is_silent(state, instance)),
        StepName::Deregister => instances(state, version)
            .all(|instance| !instance.assigned && is_silent(state, instance)),
    }
}

/// True when every type of a version has as many instances as it wants, this far.
pub(super) fn stands(
    state: &State,
    application: &Application,
    number: VersionNumber,
    level: Level,
) -> bool {
    let Some(version) = application.versions.get(&number) else {
        return false;
    };
    version.spec.instance_types.iter().all(|spec| {
        let goal = goal_of_type(application, version, spec);
        let wanted = usize::try_from(version.quantity(&spec.name)).unwrap_or(usize::MAX);
        let reached = instances(state, version)
            .filter(|instance| instance.assigned && instance.instance_type == spec.name)
            .filter(|instance| match goal {
                None => true,
                Some(InstanceGoal::Registered) => {
                    level == Level::Placed || is_met(instance, InstanceGoal::Registered)
                }
                Some(InstanceGoal::Running) => reaches(instance, level),
            })
            .count();
        reached >= wanted
    })
}

fn reaches(instance: &Instance, level: Level) -> bool {
    match level {
        Level::Placed => true,
        Level::Registered => level_of(instance.seen.state) >= Some(Level::Registered),
        Level::Started => level_of(instance.seen.state) >= Some(Level::Started),
        Level::Healthy => is_met(instance, InstanceGoal::Running),
    }
}

/// How far an instance in a state is; none says when it is not on the way.
pub(super) fn level_of(state: InstanceState) -> Option<Level> {
    match state {
        InstanceState::Allocated => Some(Level::Placed),
        InstanceState::Registered | InstanceState::Stopped => Some(Level::Registered),
        InstanceState::Starting => Some(Level::Started),
        InstanceState::Running => Some(Level::Healthy),
        InstanceState::Stopping | InstanceState::Failed | InstanceState::Lost => None,
    }
}

/// True when an exclusive type has come up, or has shown that it does not.
fn is_type_settled(
    state: &State,
    application: &Application,
    version: &Version,
    spec: &InstanceTypeSpec,
) -> bool {
    goal_of_type(application, version, spec) != Some(InstanceGoal::Running)
        || instances(state, version)
            .filter(|instance| instance.assigned && instance.instance_type == spec.name)
            .all(|instance| match instance.seen.state {
                InstanceState::Failed | InstanceState::Lost => true,
                InstanceState::Running => is_met(instance, InstanceGoal::Running),
                InstanceState::Allocated
                | InstanceState::Registered
                | InstanceState::Starting
                | InstanceState::Stopping
                | InstanceState::Stopped => false,
            })
}

fn is_silent(state: &State, instance: &Instance) -> bool {
    state
        .nodes
        .get(&instance.node)
        .is_none_or(|node| node.silent.contains(&Role::Heart))
}

fn instances<'a>(
    state: &'a State,
    version: &'a Version,
) -> impl Iterator<Item = &'a Instance> + 'a {
    version
        .instances
        .iter()
        .filter_map(|instance| state.instances.get(instance))
}
