//! Instances: observed, withdrawn, stopped, removed, forgotten.
//!
//! Every action on an instance is fenced by the instance's generation and checked against what is
//! wanted of it, so a plan that arrives late cannot stop what serves.

use common::id::{Generation, InstanceId, JobId, NodeId};
use common::instance::{Failure, FailureCode, InstanceGoal, InstanceState};
use common::job::StepName;

use crate::apply::jobs::{bounded, job_failure};
use crate::apply::stale;
use crate::command::Rejection;
use crate::desire::{Wanted, has_no_process};
use crate::state::records::{Exposure, Instance, Seen};
use crate::transition::Transition;

impl Transition<'_> {
    pub(super) fn is_startable(&self, id: InstanceId) -> bool {
        self.state.instances.get(&id).is_some_and(|instance| {
            self.state.wanted(instance) == Wanted::Running && self.state.may_start(instance)
        })
    }

    /// What a heart says of an instance becomes what the cluster knows.
    pub(super) fn observe(
        &mut self,
        id: InstanceId,
        generation: Generation,
        assignment: Generation,
        seen: &Seen,
    ) -> Result<(), Rejection> {
        let before = self.fenced(id, generation)?;
        if seen.state == InstanceState::Lost {
            return Err(stale(format!("no heart says that instance {id} is lost")));
        }
        if let Some(port) = seen.port {
            self.free_port(before.node, id, port);
        }
        let (index, now) = (self.index(), self.now());
        let failure = seen.failure.as_ref().map(bounded);
        let Some(instance) = self.instance(id) else {
            return Err(stale(format!("instance {id} is unknown")));
        };
        if instance.seen.state != seen.state {
            instance.since = now;
        }
        instance.seen = Seen {
            failure: failure.clone(),
            ..seen.clone()
        };
        instance.generation = index;
        let knows_goal = assignment >= instance.goal_generation;
        let wants_process = instance.wants_process();
        instance.quiet = !wants_process && knows_goal && has_no_process(seen.state);
        let exposure = match (instance.exposure, seen.state) {
            (Exposure::Withdrawn, _) => Exposure::Withdrawn,
            // A heart that does not know the wish yet may be about to stop it.
            (Exposure::Out, InstanceState::Running) if wants_process && knows_goal => Exposure::In,
            (exposure, InstanceState::Running) => exposure,
            (_, _) => Exposure::Out,
        };
        self.expose(id, exposure);
        if seen.state == InstanceState::Failed && knows_goal && wants_process {
            self.fail_job_of(&before, failure.as_ref());
        }
        Ok(())
    }

    /// An address names one process: the newest word about a port wins.
    fn free_port(&mut self, node: NodeId, owner: InstanceId, port: u16) {
        let others: Vec<InstanceId> = self
            .state
            .nodes
            .get(&node)
            .into_iter()
            .flat_map(|node| &node.instances)
            .filter(|id| **id != owner)
            .filter(|id| {
                self.state
                    .instances
                    .get(id)
                    .is_some_and(|other| other.seen.port == Some(port))
            })
            .copied()
            .collect();
        for other in others {
            // The fence is left alone: what its heart says next of it is not stale by this.
            if let Some(other) = self.instance(other) {
                other.seen.port = None;
            }
        }
    }

    /// The first failed start of a version that a job is bringing up ends the job.
    fn fail_job_of(&mut self, instance: &Instance, failure: Option<&Failure>) {
        let Some(job) = self.job_bringing_up(instance) else {
            return;
        };
        let unknown = Failure {
            code: FailureCode::Exited,
            message: "its heart does not say why".to_owned(),
            output_tail: String::new(),
        };
        let failure = failure.unwrap_or(&unknown);
        let node = self
            .state
            .nodes
            .get(&instance.node)
            .map_or_else(String::new, |node| node.node.description.name.clone());
        let message = format!(
            "instance {} of type `{}` on node {} ({node}) failed: {}",
            instance.id, instance.instance_type, instance.node, failure.message
        );
        let step = self
            .state
            .jobs
            .get(&job)
            .and_then(|record| record.step())
            .map_or(StepName::Start, |step| failed_step(failure.code, step));
        self.pass_steps_before(job, step);
        let failure = job_failure(step, failure, &message, Some(instance.id));
        self.end_undone(job, Some(failure));
    }

    /// The running job that is bringing up an instance's version and can still be undone.
    fn job_bringing_up(&self, instance: &Instance) -> Option<JobId> {
        let application = self.state.applications.get(&instance.application)?;
        let record = self.state.running_job(application)?;
        let is_bringing_up = record.job.version_number == instance.version
            && application.current != Some(instance.version)
            && record.step()? < StepName::Drain;
        is_bringing_up.then_some(record.job.id)
    }

    /// An instance is gone from its node.
    pub(super) fn forget(
        &mut self,
        id: InstanceId,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        if instance.assigned {
            return Err(stale(format!("instance {id} is assigned")));
        }
        self.remove_instance(id);
        Ok(())
    }

    /// A lost instance of an exclusive type cannot run any more.
    pub(super) fn presume_stopped(
        &mut self,
        id: InstanceId,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        let is_lost = instance.seen.state == InstanceState::Lost;
        if !is_lost || instance.quiet || instance.wants_process() {
            return Err(stale(format!("instance {id} is not lost and unwanted")));
        }
        let index = self.index();
        if let Some(instance) = self.instance(id) {
            instance.quiet = true;
            instance.generation = index;
        }
        Ok(())
    }

    /// Start, or stop and keep.
    pub(super) fn change_goal(
        &mut self,
        id: InstanceId,
        generation: Generation,
        goal: InstanceGoal,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        let is_wanted = match goal {
            InstanceGoal::Running => self.is_startable(id),
            InstanceGoal::Registered => {
                instance.exposure != Exposure::In
                    && self.state.wanted(&instance) == Wanted::Registered
            }
        };
        if !instance.assigned || instance.goal == goal || !is_wanted {
            return Err(stale(format!("instance {id} is not to change its goal")));
        }
        if goal == InstanceGoal::Registered {
            self.expose(id, Exposure::Out);
        }
        self.set_goal(id, goal, true);
        Ok(())
    }

    /// Out of the table, because it is about to be stopped.
    pub(super) fn withdraw(
        &mut self,
        id: InstanceId,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        let is_unwanted = self.state.wanted(&instance) != Wanted::Running;
        if instance.exposure != Exposure::In || !is_unwanted {
            return Err(stale(format!("instance {id} is not to be withdrawn")));
        }
        self.expose(id, Exposure::Withdrawn);
        Ok(())
    }

    /// From here its last requests have the drain limit.
    pub(super) fn begin_drain(
        &mut self,
        id: InstanceId,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        if instance.exposure == Exposure::In || instance.draining_since.is_some() {
            return Err(stale(format!("instance {id} is not to begin to drain")));
        }
        let (index, now) = (self.index(), self.now());
        if let Some(instance) = self.instance(id) {
            instance.draining_since = Some(now);
            instance.generation = index;
        }
        Ok(())
    }

    /// Wanted again before it was stopped.
    pub(super) fn restore(
        &mut self,
        id: InstanceId,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        let is_wanted = self.state.wanted(&instance) == Wanted::Running
            && instance.goal == InstanceGoal::Running;
        if instance.exposure != Exposure::Withdrawn || !is_wanted {
            return Err(stale(format!("instance {id} is not to be restored")));
        }
        let serves = matches!(
            instance.seen.state,
            InstanceState::Running | InstanceState::Lost
        );
        let exposure = if serves { Exposure::In } else { Exposure::Out };
        self.expose(id, exposure);
        Ok(())
    }

    /// Out of the assignment: its heart stops it and removes its directory.
    pub(super) fn unassign(
        &mut self,
        id: InstanceId,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let instance = self.fenced(id, generation)?;
        let is_gone = instance.assigned
            && instance.exposure != Exposure::In
            && self.state.wanted(&instance) == Wanted::Gone;
        if !is_gone {
            return Err(stale(format!("instance {id} is not to be removed")));
        }
        self.expose(id, Exposure::Out);
        self.set_goal(id, InstanceGoal::Registered, false);
        Ok(())
    }

    /// The instance, if it is as the planner saw it.
    fn fenced(&self, id: InstanceId, generation: Generation) -> Result<Instance, Rejection> {
        match self.state.instances.get(&id) {
            None => Err(stale(format!("instance {id} is gone"))),
            Some(instance) if instance.generation != generation => Err(stale(format!(
                "instance {id} has changed since: {} is not {generation}",
                instance.generation
            ))),
            Some(instance) => Ok(instance.clone()),
        }
    }
}

/// The step at which an instance stood that failed in this way, not before the job's own.
fn failed_step(code: FailureCode, step: StepName) -> StepName {
    let stood = match code {
        FailureCode::FetchFailed
        | FailureCode::PackageDamaged
        | FailureCode::PackageRefused
        | FailureCode::Disk
        | FailureCode::PrepareFailed
        | FailureCode::StartupFailed
        | FailureCode::Unsupported => StepName::Register,
        FailureCode::LaunchFailed | FailureCode::NoPort | FailureCode::PortTaken => StepName::Start,
        FailureCode::Exited
        | FailureCode::NotListening
        | FailureCode::Unhealthy
        | FailureCode::Aborted => StepName::Healthy,
    };
    stood.max(step)
}
