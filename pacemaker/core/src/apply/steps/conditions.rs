//! When a step is met: questions to the state, no changes.

use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, VersionNumber};
use common::instance::{InstanceGoal, InstanceState};
use common::job::{JobKind, StepName};
use common::node::Role;

use crate::desire::{goal_of_type, has_no_process, is_met};
use crate::state::State;
use crate::state::records::{Application, Instance, JobRecord, SwitchPhase, Version};

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

pub(super) fn is_met_by_state(
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
pub(super) fn is_type_settled(
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
