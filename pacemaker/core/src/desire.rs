//! What is wanted of each instance, derived from versions, quantities and the current owner.
//!
//! Both the planner, which wishes, and apply, which checks the wish again, ask here; so they
//! cannot disagree.

mod crew;

use common::application::InstanceTypeSpec;
use common::assignment::FENCE_GRACE;
use common::id::{InstanceId, NodeId};
use common::instance::{InstanceGoal, InstanceState};
use common::time::{Span, Timestamp};

use self::crew::Crew;
use crate::state::State;
use crate::state::limits::RESTARTS_ON_ONE_NODE;
use crate::state::records::{Application, Exposure, Instance, Version, VersionGoal};

/// What is wanted of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A process.
    Running,
    /// A directory, no process.
    Registered,
    /// Nothing.
    Gone,
}

/// What is wanted of the instances of one type of one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TypeDesire<'a> {
    /// For every assigned instance, by id.
    pub(crate) wanted: Vec<(&'a Instance, Wanted)>,
    /// How many more are to be placed.
    pub(crate) missing: u32,
    /// Nodes where one keeps crashing: another is not tried there.
    pub(crate) worn: Vec<NodeId>,
    /// True while some are on nodes that are down, drained or make them crash: what is wanted may
    /// change with any node.
    pub(crate) is_moving: bool,
}

impl TypeDesire<'_> {
    /// What is wanted of one instance; nothing of one that is not assigned.
    pub(crate) fn of(&self, id: InstanceId) -> Wanted {
        self.wanted
            .binary_search_by_key(&id, |(instance, _)| instance.id)
            .ok()
            .and_then(|position| self.wanted.get(position))
            .map_or(Wanted::Gone, |(_, wanted)| *wanted)
    }
}

impl State {
    /// What is wanted of the instances of one type of one version.
    pub(crate) fn desire<'a>(
        &'a self,
        application: &Application,
        version: &Version,
        spec: &InstanceTypeSpec,
    ) -> TypeDesire<'a> {
        let assigned: Vec<&'a Instance> = version
            .instances
            .iter()
            .filter_map(|instance| self.instances.get(instance))
            .filter(|instance| instance.assigned && instance.instance_type == spec.name)
            .collect();
        let goal = goal_of_type(application, version, spec);
        let Some(goal) = goal else {
            let gone = assigned.into_iter().map(|one| (one, Wanted::Gone));
            return TypeDesire {
                wanted: gone.collect(),
                ..TypeDesire::default()
            };
        };
        let quantity = usize::try_from(version.quantity(&spec.name)).unwrap_or(usize::MAX);
        let crew = Crew::new(self, spec, goal, assigned);
        if spec.exclusive {
            crew.exclusive_desire(goal, quantity)
        } else {
            crew.desire(goal, quantity)
        }
    }

    /// Nodes on which an instance of this type keeps crashing: another one is not tried there.
    pub(crate) fn worn_nodes<'a>(
        &'a self,
        version: &'a Version,
        spec: &'a InstanceTypeSpec,
    ) -> impl Iterator<Item = NodeId> + 'a {
        version
            .instances
            .iter()
            .filter_map(|instance| self.instances.get(instance))
            .filter(|instance| instance.assigned && instance.instance_type == spec.name)
            .filter(|instance| !spec.exclusive && is_worn(instance))
            .map(|instance| instance.node)
    }

    /// What is wanted of one instance; nothing of one that is not assigned.
    pub(crate) fn wanted(&self, instance: &Instance) -> Wanted {
        let verdict = || {
            let application = self.applications.get(&instance.application)?;
            let version = application.versions.get(&instance.version)?;
            let spec = version.instance_type(&instance.instance_type)?;
            let desire = self.desire(application, version, spec);
            Some(desire.of(instance.id))
        };
        verdict().unwrap_or(Wanted::Gone)
    }

    /// Until when a lost instance of an exclusive type may have a process; none when it has none.
    ///
    /// A lease ends one TTL after the last report that was acknowledged, by the node's own clock, and
    /// what holds it is killed at most [`FENCE_GRACE`] later, by its shim, with or without a heart. No
    /// report is acknowledged after the silence, the wish to stop it, and the beginning of the present
    /// leader's counting (`counted_from`), so the wait begins with the last of these. The silence
    /// itself took a TTL already: that much lies between the end of one and the start of the next, for
    /// clocks that do not agree and a kernel that kills slowly.
    pub(crate) fn may_still_run_until(
        &self,
        instance: &Instance,
        counted_from: Timestamp,
    ) -> Option<Timestamp> {
        if instance.quiet || instance.seen.state != InstanceState::Lost {
            return None;
        }
        let spec = self
            .applications
            .get(&instance.application)?
            .versions
            .get(&instance.version)?
            .instance_type(&instance.instance_type)?;
        let ttl = self.settings().node_ttl;
        let wait = Span(ttl.0.saturating_add(spec.stop.grace.min(FENCE_GRACE).0));
        let begins = instance.since.max(instance.goal_at).max(counted_from);
        spec.exclusive.then(|| begins.after(wait))
    }

    /// True when no instance of the same exclusive type can have a process that is not wanted:
    /// none of another version, and none of its own that is to go.
    pub(crate) fn may_start(&self, instance: &Instance) -> bool {
        let Some(application) = self.applications.get(&instance.application) else {
            return false;
        };
        let is_exclusive = |version: &Version| {
            version
                .instance_type(&instance.instance_type)
                .is_some_and(|spec| spec.exclusive)
        };
        if !application
            .versions
            .get(&instance.version)
            .is_some_and(is_exclusive)
        {
            return true;
        }
        application.exclusive_owner == Some(instance.version)
            && application
                .versions
                .values()
                .filter(|version| is_exclusive(version))
                .flat_map(|version| &version.instances)
                .filter_map(|other| self.instances.get(other))
                .filter(|other| other.instance_type == instance.instance_type)
                .filter(|other| {
                    other.version != instance.version || self.wanted(other) != Wanted::Running
                })
                .all(|other| other.quiet)
    }
}

/// What is wanted of the instances of a type; none when they are to go.
pub(crate) fn goal_of_type(
    application: &Application,
    version: &Version,
    spec: &InstanceTypeSpec,
) -> Option<InstanceGoal> {
    match version.goal {
        VersionGoal::Absent => None,
        VersionGoal::Registered => Some(InstanceGoal::Registered),
        VersionGoal::Running => {
            if spec.exclusive && application.exclusive_owner != Some(version.number) {
                Some(InstanceGoal::Registered)
            } else {
                Some(InstanceGoal::Running)
            }
        }
    }
}

/// True when a heart in this state, knowing that no process is wanted, has none.
pub(crate) fn has_no_process(state: InstanceState) -> bool {
    match state {
        InstanceState::Allocated
        | InstanceState::Registered
        | InstanceState::Stopped
        | InstanceState::Failed => true,
        InstanceState::Starting
        | InstanceState::Running
        | InstanceState::Stopping
        | InstanceState::Lost => false,
    }
}

/// True when an instance has been restarted so often that another node is tried.
///
/// Its heart forgets the restarts when it has run well for a while.
pub(crate) fn is_worn(instance: &Instance) -> bool {
    instance.seen.restarts >= RESTARTS_ON_ONE_NODE
}

/// True when an instance is where its type's goal wants it.
pub(crate) fn is_met(instance: &Instance, goal: InstanceGoal) -> bool {
    match goal {
        InstanceGoal::Running => {
            instance.seen.state == InstanceState::Running
                && instance.goal == InstanceGoal::Running
                && instance.exposure == Exposure::In
        }
        InstanceGoal::Registered => match instance.seen.state {
            InstanceState::Allocated | InstanceState::Lost | InstanceState::Failed => false,
            InstanceState::Registered
            | InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Stopped => true,
        },
    }
}
