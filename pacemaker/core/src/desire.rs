//! What is wanted of each instance, derived from versions, quantities and the current owner.
//!
//! Both the planner, which wishes, and apply, which checks the wish again, ask here; so they
//! cannot disagree.

use std::collections::BTreeMap;

use common::application::InstanceTypeSpec;
use common::id::InstanceId;
use common::instance::{InstanceGoal, InstanceState};
use common::time::{Span, Timestamp};

use crate::state::State;
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TypeDesire {
    /// For every assigned instance.
    pub(crate) wanted: BTreeMap<InstanceId, Wanted>,
    /// How many more are to be placed.
    pub(crate) missing: u32,
}

/// How much an instance is worth keeping: the smallest are kept.
///
/// Those that serve come first, the longest serving before the others, so that an instance which
/// comes back from a silent node does not displace its replacement; those that already leave the
/// table come last, so that a choice once made is kept. Where none is to run, all leave the table,
/// and that says nothing about which are kept.
type Rank = (u8, Timestamp, InstanceId);

impl State {
    /// What is wanted of the instances of one type of one version.
    pub(crate) fn desire(
        &self,
        application: &Application,
        version: &Version,
        spec: &InstanceTypeSpec,
    ) -> TypeDesire {
        let assigned: Vec<&Instance> = version
            .instances
            .iter()
            .filter_map(|instance| self.instances.get(instance))
            .filter(|instance| instance.assigned && instance.instance_type == spec.name)
            .collect();
        let goal = goal_of_type(application, version, spec);
        let Some(goal) = goal else {
            let gone = assigned.iter().map(|instance| (instance.id, Wanted::Gone));
            return TypeDesire {
                wanted: gone.collect(),
                missing: 0,
            };
        };
        let quantity = usize::try_from(version.quantity(&spec.name)).unwrap_or(usize::MAX);
        let (mut lost, mut live): (Vec<&Instance>, Vec<&Instance>) = assigned
            .into_iter()
            .partition(|instance| instance.seen.state == InstanceState::Lost);
        live.sort_by_key(|instance| rank(instance, goal));
        lost.sort_by_key(|instance| rank(instance, goal));
        let kept_live = live.len().min(quantity);
        let met = live
            .iter()
            .filter(|instance| is_met(instance, goal))
            .count();
        // A lost instance of an exclusive type is removed before its replacement may start; one of
        // another type is kept until its replacement serves.
        let are_replaced = spec.exclusive && self.has_feasible_node(spec);
        let kept_lost = if are_replaced {
            0
        } else {
            lost.len().min(quantity.saturating_sub(met))
        };
        let wanted = match goal {
            InstanceGoal::Running => Wanted::Running,
            InstanceGoal::Registered => Wanted::Registered,
        };
        let verdicts = |instances: &[&Instance], kept: usize| -> Vec<(InstanceId, Wanted)> {
            instances
                .iter()
                .enumerate()
                .map(|(position, instance)| {
                    let verdict = if position < kept {
                        wanted
                    } else {
                        Wanted::Gone
                    };
                    (instance.id, verdict)
                })
                .collect()
        };
        let moves = goal == InstanceGoal::Running && !spec.exclusive;
        let present = if moves {
            live.len()
        } else {
            live.len().saturating_add(kept_lost)
        };
        let mut all = verdicts(&live, kept_live);
        all.extend(verdicts(&lost, kept_lost));
        TypeDesire {
            wanted: all.into_iter().collect(),
            missing: u32::try_from(quantity.saturating_sub(present)).unwrap_or(u32::MAX),
        }
    }

    /// What is wanted of one instance; nothing of one that is not assigned.
    pub(crate) fn wanted(&self, instance: &Instance) -> Wanted {
        let verdict = || {
            let application = self.applications.get(&instance.application)?;
            let version = application.versions.get(&instance.version)?;
            let spec = version.instance_type(&instance.instance_type)?;
            let desire = self.desire(application, version, spec);
            desire.wanted.get(&instance.id).copied()
        };
        verdict().unwrap_or(Wanted::Gone)
    }

    /// Until when a lost instance of an exclusive type may have a process; none when it has none.
    ///
    /// A heart that is cut off stops its exclusive instances after the TTL, by its own clock; the
    /// grace of the stop comes on top. It may have been in contact until the wish changed, though no
    /// report of that came: so the wait begins when both the silence and the wish have.
    pub(crate) fn may_still_run_until(&self, instance: &Instance) -> Option<Timestamp> {
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
        let wait = Span(ttl.0.saturating_add(spec.stop.grace.0));
        spec.exclusive
            .then(|| instance.since.max(instance.goal_at).after(wait))
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

fn rank(instance: &Instance, goal: InstanceGoal) -> Rank {
    let leaves = goal == InstanceGoal::Running && instance.exposure == Exposure::Withdrawn;
    let class = match instance.seen.state {
        _ if leaves => 6,
        InstanceState::Running => 0,
        InstanceState::Starting => 1,
        InstanceState::Registered | InstanceState::Stopped => 2,
        InstanceState::Allocated => 3,
        InstanceState::Stopping => 4,
        InstanceState::Failed | InstanceState::Lost => 5,
    };
    (class, instance.since, instance.id)
}
