//! New instances: a wish to place one is checked again, and becomes a record.
//!
//! A plan places many of a type one after another; what they have in common is computed once
//! ([`Placing`]).

use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, Generation, InstanceId, InstanceTypeName, NodeId, VersionNumber};
use common::instance::{InstanceGoal, InstanceState};

use crate::apply::stale;
use crate::command::Rejection;
use crate::desire::goal_of_type;
use crate::offers::suits;
use crate::state::records::{Application, Exposure, Instance, Seen, Version};
use crate::transition::{Placing, Transition};

impl Transition<'_> {
    /// A new instance, if one is missing and the node can run it.
    pub(super) fn place(
        &mut self,
        id: ApplicationId,
        number: VersionNumber,
        instance_type: &InstanceTypeName,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let placing = match self.placing.take() {
            Some(placing) if self.is_placing(&placing, id, number, instance_type) => Some(placing),
            Some(_) | None => self.begin_placing(id, number, instance_type),
        };
        let Some(mut placing) = placing.filter(|placing| placing.missing > 0) else {
            return Err(stale(format!(
                "no instance of `{instance_type}` of version {number} of application {id} is missing"
            )));
        };
        let goal = self
            .goal_at_once(&placing, node)
            .ok_or_else(|| stale(format!("node {node} does not take this instance")))?;
        let counter = &mut self.state.counters.instance;
        *counter = counter.saturating_add(1);
        let instance_id = InstanceId(*counter);
        let (index, now) = (self.index(), self.now());
        self.insert_instance(Instance {
            id: instance_id,
            application: id,
            version: number,
            instance_type: instance_type.clone(),
            node,
            goal,
            assigned: true,
            goal_generation: index,
            goal_at: now,
            generation: index,
            seen: Seen {
                state: InstanceState::Allocated,
                port: None,
                pid: None,
                restarts: 0,
                failure: None,
            },
            since: now,
            exposure: Exposure::Out,
            left: Generation(0),
            left_at: now,
            draining_since: None,
            // Its heart has never been told to start it, or is told to now.
            quiet: goal == InstanceGoal::Registered,
        });
        placing.missing = placing.missing.saturating_sub(1);
        self.placing = Some(placing);
        if goal == InstanceGoal::Registered && self.is_startable(instance_id) {
            self.set_goal(instance_id, InstanceGoal::Running, true);
        }
        Ok(())
    }

    fn is_placing(
        &self,
        placing: &Placing,
        id: ApplicationId,
        number: VersionNumber,
        instance_type: &InstanceTypeName,
    ) -> bool {
        placing.application == id
            && placing.version == number
            && self
                .placed_type(placing)
                .is_some_and(|(_, _, spec)| spec.name == *instance_type)
    }

    fn begin_placing(
        &self,
        id: ApplicationId,
        number: VersionNumber,
        instance_type: &InstanceTypeName,
    ) -> Option<Placing> {
        let application = self.state.applications.get(&id)?;
        let version = application.versions.get(&number)?;
        version.package.as_ref()?;
        let mut types = version.spec.instance_types.iter();
        let position = types.position(|spec| spec.name == *instance_type)?;
        let spec = version.spec.instance_types.get(position)?;
        let desire = self.state.desire(application, version, spec);
        Some(Placing {
            application: id,
            version: number,
            position,
            missing: desire.missing,
            worn: desire.worn,
        })
    }

    fn placed_type(
        &self,
        placing: &Placing,
    ) -> Option<(&Application, &Version, &InstanceTypeSpec)> {
        let application = self.state.applications.get(&placing.application)?;
        let version = application.versions.get(&placing.version)?;
        let spec = version.spec.instance_types.get(placing.position)?;
        Some((application, version, spec))
    }

    /// The goal of a new instance; none when the node does not take it.
    ///
    /// One that may run beside others starts at once; an exclusive one waits for its turn.
    fn goal_at_once(&self, placing: &Placing, node: NodeId) -> Option<InstanceGoal> {
        let (application, version, spec) = self.placed_type(placing)?;
        let record = self.state.nodes.get(&node)?;
        let is_feasible = record.takes_instances()
            && suits(&record.node.description, spec)
            && !placing.worn.contains(&node);
        let goal = if spec.exclusive {
            InstanceGoal::Registered
        } else {
            goal_of_type(application, version, spec)?
        };
        is_feasible.then_some(goal)
    }
}
