//! What always holds of a state, whatever was applied to it.
//!
//! The tests ask after every command. Each check returns the rules that are broken, in words.

mod crons;

use std::collections::{BTreeMap, BTreeSet};

use common::id::{ApplicationId, Generation, InstanceTypeName, NodeId, VersionNumber};
use common::instance::{InstanceGoal, InstanceState};
use common::job::JobState;
use common::routing_table::Route;

use crate::state::State;
use crate::state::limits::{JOBS_PER_APPLICATION_MAX, ONCE_KEYS_MAX, VERSIONS_PER_APPLICATION_MAX};
use crate::state::records::{Application, Exposure, Instance, NodeBrief};

impl State {
    /// Every rule that is broken, in words; none in a sound state.
    #[must_use]
    pub fn invariants(&self) -> Vec<String> {
        [
            self.broken_links(),
            self.broken_instances(),
            self.broken_jobs(),
            self.broken_applications(),
            self.broken_derivations(),
            self.broken_bounds(),
            self.broken_orders(),
            self.broken_crons(),
        ]
        .concat()
    }

    /// Both ends of every reference agree.
    fn broken_links(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for instance in self.instances.values() {
            let id = instance.id;
            let node = self.nodes.get(&instance.node);
            if !node.is_some_and(|node| node.instances.contains(&id)) {
                broken.push(format!("instance {id} is not on its node's list"));
            }
            let version = self
                .applications
                .get(&instance.application)
                .and_then(|application| application.versions.get(&instance.version));
            if !version.is_some_and(|version| version.instances.contains(&id)) {
                broken.push(format!("instance {id} is not on its version's list"));
            }
            if version.is_none_or(|version| version.package.is_none()) {
                broken.push(format!("instance {id} has no package"));
            }
        }
        for digest in self.referenced_packages() {
            if !self.packages.contains_key(&digest) {
                broken.push(format!("package {digest} is needed and not in the store"));
            }
        }
        let listed: BTreeSet<_> = self
            .nodes
            .values()
            .flat_map(|node| &node.instances)
            .chain(
                self.applications
                    .values()
                    .flat_map(|application| application.versions.values())
                    .flat_map(|version| &version.instances),
            )
            .collect();
        for id in listed {
            if !self.instances.contains_key(id) {
                broken.push(format!("instance {id} is listed and does not exist"));
            }
        }
        for node in self.nodes.values() {
            for job in &node.builds {
                let builder = self.jobs.get(job).and_then(|record| record.builder);
                if builder != Some(node.node.id) {
                    broken.push(format!("job {job} is not built where it is listed"));
                }
            }
        }
        broken
    }

    fn broken_instances(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut ports: BTreeMap<(NodeId, u16), u32> = BTreeMap::new();
        for instance in self.instances.values() {
            if let Some(port) = instance.seen.port {
                let count = ports.entry((instance.node, port)).or_default();
                *count = count.saturating_add(1);
            }
            if instance.exposure == Exposure::In && !may_be_exposed(instance) {
                broken.push(format!(
                    "instance {} is in the table and does not serve: {instance:?}",
                    instance.id
                ));
            }
            if instance.quiet && instance.wants_process() {
                broken.push(format!("instance {} is quiet and to run", instance.id));
            }
            if !instance.assigned && instance.goal == InstanceGoal::Running {
                broken.push(format!("instance {} is removed and to run", instance.id));
            }
        }
        for ((node, port), count) in ports {
            if count > 1 {
                broken.push(format!(
                    "{count} instances share port {port} of node {node}"
                ));
            }
        }
        broken
    }

    fn broken_jobs(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for record in self.jobs.values() {
            let job = &record.job;
            let owner = self
                .applications
                .get(&job.application)
                .and_then(|application| application.job);
            if !job.state.is_final() && owner != Some(job.id) {
                broken.push(format!("job {} runs and its application is idle", job.id));
            }
            if job.state.is_final() && (job.finished.is_none() || record.builder.is_some()) {
                broken.push(format!("job {} has ended in part", job.id));
            }
            if (job.state == JobState::Failed) != job.failure.is_some() {
                broken.push(format!("job {} has failed without a reason", job.id));
            }
            let mut is_past = false;
            for step in &job.steps {
                if is_past && step.state == JobState::Succeeded {
                    broken.push(format!("job {} has jumped over a step", job.id));
                }
                is_past |= step.state != JobState::Succeeded;
            }
        }
        broken
    }

    fn broken_applications(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for application in self.applications.values() {
            let id = application.id;
            let warm = application.warm.map(|warm| warm.version);
            let named = [
                application.current,
                application.previous,
                application.exclusive_owner,
                warm,
            ];
            for number in named.into_iter().flatten() {
                if !application.versions.contains_key(&number) {
                    broken.push(format!(
                        "application {id} names version {number}, which is gone"
                    ));
                }
            }
            if let Some(job) = application.job
                && self
                    .jobs
                    .get(&job)
                    .is_none_or(|record| record.job.state.is_final())
            {
                broken.push(format!(
                    "application {id} is busy with job {job}, which has ended"
                ));
            }
            if application.switch.is_some() && application.job.is_none() {
                broken.push(format!("application {id} switches without a job"));
            }
            if warm.is_some() && warm == application.current {
                broken.push(format!("application {id} keeps its current version warm"));
            }
            for (name, versions) in self.exclusive_runners(application) {
                if versions.len() > 1 {
                    broken.push(format!(
                        "exclusive type `{name}` of application {id} is to run in versions {versions:?}"
                    ));
                }
            }
        }
        broken
    }

    /// The versions whose instances of each exclusive type are to run.
    fn exclusive_runners(
        &self,
        application: &Application,
    ) -> BTreeMap<InstanceTypeName, BTreeSet<VersionNumber>> {
        let mut runners: BTreeMap<InstanceTypeName, BTreeSet<VersionNumber>> = BTreeMap::new();
        for version in application.versions.values() {
            for id in &version.instances {
                let Some(instance) = self.instances.get(id) else {
                    continue;
                };
                let is_exclusive = version
                    .instance_type(&instance.instance_type)
                    .is_some_and(|spec| spec.exclusive);
                if is_exclusive && instance.goal == InstanceGoal::Running {
                    runners
                        .entry(instance.instance_type.clone())
                        .or_default()
                        .insert(version.number);
                }
            }
        }
        runners
    }

    /// What is kept is what would be computed from scratch.
    fn broken_derivations(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for application in self.applications.values() {
            let fresh: BTreeMap<String, Route> = self.routes_of(application);
            let kept = self.table.get(&application.id).cloned().unwrap_or_default();
            if fresh != kept {
                broken.push(format!(
                    "the routes of application {} are {kept:?} and should be {fresh:?}",
                    application.id
                ));
            }
        }
        let claims: BTreeMap<String, ApplicationId> = self
            .applications
            .values()
            .flat_map(|application| {
                let names = self.claims_of(application);
                names.into_iter().map(|name| (name, application.id))
            })
            .collect();
        if claims != self.claims {
            broken.push("the claims are not those of the kept versions".to_owned());
        }
        broken
    }

    /// What is kept in the order of changes is what the records say.
    fn broken_orders(&self) -> Vec<String> {
        let is_touched = |generation: &Generation| *generation > Generation(0);
        let applications: BTreeSet<_> = self
            .applications
            .values()
            .map(|application| (application.changed, application.id))
            .filter(|(changed, _)| is_touched(changed))
            .collect();
        let nodes: BTreeSet<_> = self
            .nodes
            .values()
            .map(|node| (node.changed, node.node.id))
            .filter(|(changed, _)| is_touched(changed))
            .collect();
        let routes: BTreeSet<_> = self
            .route_changes
            .iter()
            .map(|(id, changed)| (*changed, *id))
            .collect();
        let mut broken = Vec::new();
        for (id, brief) in &self.briefs {
            if self.nodes.get(id).map(NodeBrief::from) != Some(*brief) {
                broken.push(format!("what is kept of node {id} is out of date"));
            }
        }
        for node in self.nodes.values() {
            if node
                .starting
                .is_some_and(|kept| kept != self.count_starting_on(node))
            {
                broken.push(format!("node {} counts what starts wrongly", node.node.id));
            }
        }
        for (what, is_sound) in [
            ("applications", applications == self.changed_applications),
            ("nodes", nodes == self.changed_nodes),
            ("routes", routes == self.changed_routes),
        ] {
            if !is_sound {
                broken.push(format!("the order of the changes to {what} is wrong"));
            }
        }
        broken
    }

    fn broken_bounds(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let newest = self
            .instances
            .values()
            .map(|instance| instance.generation)
            .chain(self.jobs.values().map(|record| record.generation))
            .chain(self.nodes.values().map(|node| node.assignment_generation))
            .chain([self.routes_generation])
            .max()
            .unwrap_or(Generation(0));
        if newest > self.applied {
            broken.push(format!("generation {newest} is newer than the log"));
        }
        for application in self.applications.values() {
            if application.versions.len() > VERSIONS_PER_APPLICATION_MAX {
                broken.push(format!(
                    "application {} keeps too many versions",
                    application.id
                ));
            }
            let finished = self
                .jobs
                .values()
                .filter(|record| record.job.application == application.id)
                .filter(|record| record.job.state.is_final())
                .count();
            // The one that ended last is counted when the next begins.
            if finished > JOBS_PER_APPLICATION_MAX.saturating_add(1) {
                broken.push(format!(
                    "application {} keeps too many jobs",
                    application.id
                ));
            }
        }
        if self.once.len() > ONCE_KEYS_MAX || self.once.len() != self.once_order.len() {
            broken.push("too many idempotency keys are kept".to_owned());
        }
        broken
    }
}

fn may_be_exposed(instance: &Instance) -> bool {
    let serves = matches!(
        instance.seen.state,
        InstanceState::Running | InstanceState::Lost
    );
    instance.wants_process() && serves
}
