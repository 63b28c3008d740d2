//! One command's change to the state, and the bookkeeping of what it really changed.
//!
//! Families under [`apply`](crate::apply) check first and then mutate through a [`Transition`].
//! It remembers what it touches; [`Transition::finish`] compares before and after, so that a
//! generation moves exactly when the thing that it counts is another one.

use std::collections::{BTreeMap, BTreeSet};

use common::application::CronKey;
use common::id::{ApplicationId, Generation, InstanceId, JobId, NodeId, VersionNumber};
use common::instance::{InstanceGoal, InstanceState};
use common::job::Job;
use common::time::Timestamp;

use crate::command::ApplyContext;
use crate::state::State;
use crate::state::crons::CronRecord;
use crate::state::records::{
    Application, Exposure, Instance, JobRecord, NodeBrief, NodeRecord, Version,
};

/// A change under way.
#[derive(Debug)]
pub(crate) struct Transition<'a> {
    /// What is changed. Read it freely; change nodes, applications, instances and jobs only
    /// through the methods here.
    pub(crate) state: &'a mut State,
    ctx: ApplyContext,
    nodes: BTreeMap<NodeId, Option<NodeBefore>>,
    /// Those of them on which more was done than to place an instance.
    altered: BTreeSet<NodeId>,
    instances: BTreeMap<InstanceId, Option<InstanceBefore>>,
    jobs: BTreeMap<JobId, Option<Job>>,
    applications: BTreeSet<ApplicationId>,
    /// Those of them whose own record may be another one, beside their instances'.
    rewritten: BTreeSet<ApplicationId>,
    /// What a run of placements of one type need not compute again for each.
    pub(crate) placing: Option<Placing>,
}

/// What matters of a node to those who follow it.
#[derive(Debug)]
struct NodeBefore {
    builds: BTreeSet<JobId>,
    changed: Generation,
}

/// What matters of an instance to its heart and to routers.
#[derive(Debug, PartialEq, Eq)]
struct InstanceBefore {
    assigned: Option<(NodeId, InstanceGoal)>,
    application: ApplicationId,
    backend: Option<(InstanceState, Option<u16>)>,
    starting: Option<NodeId>,
}

impl InstanceBefore {
    fn of(instance: &Instance) -> Self {
        Self {
            assigned: instance.assigned.then_some((instance.node, instance.goal)),
            application: instance.application,
            backend: (instance.exposure == Exposure::In)
                .then_some((instance.seen.state, instance.seen.port)),
            starting: instance.is_starting().then_some(instance.node),
        }
    }
}

/// A type of which instances are being placed, until anything else is changed.
#[derive(Debug)]
pub(crate) struct Placing {
    pub(crate) application: ApplicationId,
    pub(crate) version: VersionNumber,
    /// The position of the type in the version.
    pub(crate) position: usize,
    /// How many are missing.
    pub(crate) missing: u32,
    /// Where they are not tried again.
    pub(crate) worn: Vec<NodeId>,
}

impl<'a> Transition<'a> {
    pub(crate) fn new(state: &'a mut State, ctx: ApplyContext) -> Self {
        Self {
            state,
            ctx,
            nodes: BTreeMap::new(),
            altered: BTreeSet::new(),
            instances: BTreeMap::new(),
            jobs: BTreeMap::new(),
            applications: BTreeSet::new(),
            rewritten: BTreeSet::new(),
            placing: None,
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
        self.placing = None;
        self.note_node(id);
        self.altered.insert(id);
        self.state.nodes.get_mut(&id)
    }

    /// An application whose routes may change.
    pub(crate) fn application(&mut self, id: ApplicationId) -> Option<&mut Application> {
        self.placing = None;
        self.applications.insert(id);
        self.rewritten.insert(id);
        self.state.applications.get_mut(&id)
    }

    /// A version whose routes may change.
    pub(crate) fn version(
        &mut self,
        application: ApplicationId,
        version: VersionNumber,
    ) -> Option<&mut Version> {
        self.application(application)?.versions.get_mut(&version)
    }

    /// A cron. What becomes of its runs touches nothing else: neither routes nor the planner of
    /// instances look at an application because a cron of it has run.
    pub(crate) fn cron(&mut self, id: ApplicationId, cron: &CronKey) -> Option<&mut CronRecord> {
        self.state.applications.get_mut(&id)?.crons.get_mut(cron)
    }

    /// Which crons of an application are fired, or from when on, may be different.
    pub(crate) fn touch_crons(&mut self, id: ApplicationId) {
        let index = self.index();
        self.applications.insert(id);
        if let Some(application) = self.state.applications.get_mut(&id) {
            application.crons_changed = index;
        }
    }

    /// An instance; its node's assignment and its application's routes may change.
    pub(crate) fn instance(&mut self, id: InstanceId) -> Option<&mut Instance> {
        self.placing = None;
        let instance = self.state.instances.get(&id)?;
        let (node, application) = (instance.node, instance.application);
        self.note_instance(id);
        self.note_node(node);
        self.altered.insert(node);
        self.applications.insert(application);
        self.state.instances.get_mut(&id)
    }

    /// A job that may change.
    pub(crate) fn job(&mut self, id: JobId) -> Option<&mut JobRecord> {
        let state = &self.state;
        self.jobs
            .entry(id)
            .or_insert_with(|| state.jobs.get(&id).map(|record| record.job.clone()));
        self.state.jobs.get_mut(&id)
    }

    /// Adds an instance to its node, its version and the state.
    pub(crate) fn insert_instance(&mut self, instance: Instance) {
        let (id, application) = (instance.id, instance.application);
        self.note_instance(id);
        self.note_node(instance.node);
        self.applications.insert(application);
        if let Some(node) = self.state.nodes.get_mut(&instance.node) {
            node.instances.insert(id);
        }
        let version = self
            .state
            .applications
            .get_mut(&application)
            .and_then(|application| application.versions.get_mut(&instance.version));
        if let Some(version) = version {
            version.instances.insert(id);
        }
        self.state.instances.insert(id, instance);
    }

    /// Removes an instance from its node, its version and the state.
    pub(crate) fn remove_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.state.instances.get(&id) else {
            return;
        };
        let (node, application, version) = (instance.node, instance.application, instance.version);
        self.note_instance(id);
        if let Some(node) = self.node(node) {
            node.instances.remove(&id);
        }
        if let Some(version) = self.version(application, version) {
            version.instances.remove(&id);
        }
        self.state.instances.remove(&id);
    }

    /// Removes a node that has nothing left on it.
    pub(crate) fn remove_node_record(&mut self, id: NodeId) {
        self.placing = None;
        self.note_node(id);
        self.state.nodes.remove(&id);
        self.state.briefs.remove(&id);
    }

    /// A node's address has changed, or whether it is drained.
    pub(crate) fn update_brief(&mut self, id: NodeId) {
        if let Some(node) = self.state.nodes.get(&id) {
            self.state.briefs.insert(id, NodeBrief::from(node));
        }
    }

    fn note_node(&mut self, id: NodeId) {
        let state = &self.state;
        self.nodes.entry(id).or_insert_with(|| {
            state.nodes.get(&id).map(|node| NodeBefore {
                builds: node.builds.clone(),
                changed: node.changed,
            })
        });
    }

    fn note_instance(&mut self, id: InstanceId) {
        let state = &self.state;
        self.instances
            .entry(id)
            .or_insert_with(|| state.instances.get(&id).map(InstanceBefore::of));
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
        self.finish_applications();
        self.finish_nodes();
        let index = self.ctx.index;
        for (id, before) in std::mem::take(&mut self.jobs) {
            if let Some(record) = self.state.jobs.get_mut(&id)
                && before.as_ref() != Some(&record.job)
            {
                record.generation = index;
            }
        }
        self.state.applied = index;
    }

    /// Routes follow from applications and from what is exposed of their instances.
    fn finish_applications(&mut self) {
        let index = self.ctx.index;
        let mut rerouted = std::mem::take(&mut self.rewritten);
        for (id, before) in &self.instances {
            let before = before.as_ref();
            let after = self.state.instances.get(id).map(InstanceBefore::of);
            let backend = |side: Option<&InstanceBefore>| side.and_then(|side| side.backend);
            if backend(before) != backend(after.as_ref())
                && let Some(side) = after.as_ref().or(before)
            {
                rerouted.insert(side.application);
            }
        }
        for id in rerouted {
            self.finish_routes(id);
        }
        for id in std::mem::take(&mut self.applications) {
            if let Some(application) = self.state.applications.get_mut(&id) {
                let changed = std::mem::replace(&mut application.changed, index);
                self.state.changed_applications.remove(&(changed, id));
                self.state.changed_applications.insert((index, id));
            }
        }
    }

    fn finish_routes(&mut self, id: ApplicationId) {
        let routes = match self.state.applications.get(&id) {
            Some(application) => self.state.routes_of(application),
            None => BTreeMap::new(),
        };
        let before = self.state.table.get(&id);
        if before.is_none_or(BTreeMap::is_empty) && routes.is_empty() {
            return;
        }
        if before != Some(&routes) {
            let index = self.ctx.index;
            self.state.table.insert(id, routes);
            self.state.routes_generation = index;
            let changed = self.state.route_changes.insert(id, index);
            if let Some(changed) = changed {
                self.state.changed_routes.remove(&(changed, id));
            }
            self.state.changed_routes.insert((index, id));
        }
    }

    fn count_starting(&mut self, before: Option<NodeId>, after: Option<NodeId>) {
        let mut change = |node: Option<NodeId>, change: fn(u64, u64) -> u64| {
            let node = node.and_then(|node| self.state.nodes.get_mut(&node));
            if let Some(starting) = node.and_then(|node| node.starting.as_mut()) {
                *starting = change(*starting, 1);
            }
        };
        change(before, u64::saturating_sub);
        change(after, u64::saturating_add);
    }

    /// An assignment is another one when its instances' goals, its builds, or the node are.
    fn finish_nodes(&mut self) {
        let index = self.ctx.index;
        let mut reassigned: BTreeSet<NodeId> = BTreeSet::new();
        for (id, before) in std::mem::take(&mut self.instances) {
            let after = self.state.instances.get(&id).map(InstanceBefore::of);
            let assigned = |side: &Option<InstanceBefore>| side.as_ref()?.assigned;
            if assigned(&before) != assigned(&after) {
                let nodes = assigned(&before).into_iter().chain(assigned(&after));
                reassigned.extend(nodes.map(|(node, _)| node));
            }
            let starting = |side: &Option<InstanceBefore>| side.as_ref()?.starting;
            if starting(&before) != starting(&after) {
                self.count_starting(starting(&before), starting(&after));
            }
        }
        let mut uncounted = Vec::new();
        for (id, before) in std::mem::take(&mut self.nodes) {
            if let Some(before) = &before {
                self.state.changed_nodes.remove(&(before.changed, id));
            }
            let Some(node) = self.state.nodes.get_mut(&id) else {
                continue;
            };
            let has_other_builds = before.is_none_or(|before| before.builds != node.builds);
            if has_other_builds || reassigned.contains(&id) {
                node.assignment_generation = index;
            }
            node.changed = index;
            if self.altered.contains(&id) {
                node.altered = index;
            }
            if node.starting.is_none() {
                uncounted.push(id);
            }
            self.state.changed_nodes.insert((index, id));
        }
        for id in uncounted {
            let count = self
                .state
                .nodes
                .get(&id)
                .map(|node| self.state.count_starting_on(node));
            if let Some(node) = self.state.nodes.get_mut(&id) {
                node.starting = count;
            }
        }
    }
}
