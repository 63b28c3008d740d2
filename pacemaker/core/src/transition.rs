//! One command's change to the state, and the bookkeeping of what it really changed.
//!
//! Families under [`apply`](crate::apply) check first and then mutate through a [`Transition`].
//! It remembers what it touches; [`Transition::finish`] compares before and after, so that a
//! generation moves exactly when the thing that it counts is another one.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{ApplicationId, Generation, InstanceId, JobId, NodeId};
use common::instance::{InstanceGoal, InstanceState};
use common::job::Job;
use common::time::Timestamp;

use crate::assignment::Shape;
use crate::command::ApplyContext;
use crate::state::State;
use crate::state::records::{Application, Exposure, Instance, JobRecord, NodeRecord, Version};

/// A change under way.
#[derive(Debug)]
pub(crate) struct Transition<'a> {
    /// What is changed. Read it freely; change nodes, applications, instances and jobs only
    /// through the methods here.
    pub(crate) state: &'a mut State,
    ctx: ApplyContext,
    nodes: BTreeMap<NodeId, Option<Shape>>,
    jobs: BTreeMap<JobId, Option<Job>>,
    applications: BTreeSet<ApplicationId>,
}

impl<'a> Transition<'a> {
    pub(crate) fn new(state: &'a mut State, ctx: ApplyContext) -> Self {
        Self {
            state,
            ctx,
            nodes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            applications: BTreeSet::new(),
        }
    }

    /// When the leader proposed this.
    pub(crate) fn now(&self) -> Timestamp {
        self.ctx.now
    }

    /// The generation of what this changes.
    pub(crate) fn index(&self) -> Generation {
        self.ctx.index
    }

    /// A node whose assignment may change.
    pub(crate) fn node(&mut self, id: NodeId) -> Option<&mut NodeRecord> {
        if !self.nodes.contains_key(&id) {
            let shape = self.state.nodes.get(&id).map(|node| self.state.shape(node));
            self.nodes.insert(id, shape);
        }
        self.state.nodes.get_mut(&id)
    }

    /// An application whose routes may change.
    pub(crate) fn application(&mut self, id: ApplicationId) -> Option<&mut Application> {
        self.applications.insert(id);
        self.state.applications.get_mut(&id)
    }

    /// A version whose routes may change.
    pub(crate) fn version(
        &mut self,
        application: ApplicationId,
        version: common::id::VersionNumber,
    ) -> Option<&mut Version> {
        self.application(application)?.versions.get_mut(&version)
    }

    /// An instance; its node's assignment and its application's routes may change.
    pub(crate) fn instance(&mut self, id: InstanceId) -> Option<&mut Instance> {
        let instance = self.state.instances.get(&id)?;
        let (node, application) = (instance.node, instance.application);
        self.node(node)?;
        self.applications.insert(application);
        self.state.instances.get_mut(&id)
    }

    /// A job that may change.
    pub(crate) fn job(&mut self, id: JobId) -> Option<&mut JobRecord> {
        let before = self.state.jobs.get(&id).map(|record| record.job.clone());
        self.jobs.entry(id).or_insert(before);
        self.state.jobs.get_mut(&id)
    }

    /// Adds an instance to its node, its version and the state.
    pub(crate) fn insert_instance(&mut self, instance: Instance) {
        if let Some(node) = self.node(instance.node) {
            node.instances.insert(instance.id);
        }
        if let Some(version) = self.version(instance.application, instance.version) {
            version.instances.insert(instance.id);
        }
        self.state.instances.insert(instance.id, instance);
    }

    /// Removes an instance from its node, its version and the state.
    pub(crate) fn remove_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.state.instances.get(&id) else {
            return;
        };
        let (node, application, version) = (instance.node, instance.application, instance.version);
        if let Some(node) = self.node(node) {
            node.instances.remove(&id);
        }
        if let Some(version) = self.version(application, version) {
            version.instances.remove(&id);
        }
        self.state.instances.remove(&id);
    }

    /// Changes what is wanted of an instance.
    pub(crate) fn set_goal(&mut self, id: InstanceId, goal: InstanceGoal, assigned: bool) {
        let (index, now) = (self.index(), self.now());
        let Some(instance) = self.instance(id) else {
            return;
        };
        let wanted_process = instance.wants_process();
        instance.goal = goal;
        instance.assigned = assigned;
        instance.goal_generation = index;
        instance.goal_at = now;
        instance.generation = index;
        // What has no process has none when it is not wanted in another way.
        instance.quiet &= !wanted_process && !instance.wants_process();
    }

    /// Takes an instance out of the table, or puts it in.
    pub(crate) fn expose(&mut self, id: InstanceId, exposure: Exposure) {
        let (index, now) = (self.index(), self.now());
        let Some(instance) = self.instance(id) else {
            return;
        };
        if instance.exposure == Exposure::In && exposure != Exposure::In {
            instance.draining_since = None;
            instance.left = index;
            instance.left_at = now;
        }
        if exposure == Exposure::In {
            instance.draining_since = None;
        }
        instance.exposure = exposure;
        instance.generation = index;
    }

    /// Marks an instance as lost with its node.
    pub(crate) fn lose(&mut self, id: InstanceId) {
        let (index, now) = (self.index(), self.now());
        let Some(instance) = self.instance(id) else {
            return;
        };
        instance.generation = index;
        instance.seen.state = InstanceState::Lost;
        instance.seen.pid = None;
        instance.since = now;
    }

    /// Settles jobs and moves the generations of what is really different.
    pub(crate) fn finish(mut self) {
        let applications: Vec<ApplicationId> = self.applications.iter().copied().collect();
        for application in applications {
            self.settle(application);
        }
        self.finish_routes();
        let index = self.ctx.index;
        for (id, before) in std::mem::take(&mut self.nodes) {
            let after = self.state.nodes.get(&id).map(|node| self.state.shape(node));
            if after != before
                && let Some(node) = self.state.nodes.get_mut(&id)
            {
                node.assignment_generation = index;
            }
        }
        for (id, before) in std::mem::take(&mut self.jobs) {
            if let Some(record) = self.state.jobs.get_mut(&id)
                && before.as_ref() != Some(&record.job)
            {
                record.generation = index;
            }
        }
        self.state.applied = index;
    }

    fn finish_routes(&mut self) {
        for id in std::mem::take(&mut self.applications) {
            let routes = match self.state.applications.get(&id) {
                Some(application) => self.state.routes_of(application),
                None => BTreeMap::new(),
            };
            let before = self.state.table.get(&id);
            if before.is_none_or(BTreeMap::is_empty) && routes.is_empty() {
                continue;
            }
            if before != Some(&routes) {
                self.state.table.insert(id, routes);
                self.state.routes_generation = self.ctx.index;
            }
        }
    }
}
