//! What a node should run, derived from the state.

use common::assignment::{
    AssignedBuild, AssignedInstance, Assignment, PackageReference, Subject, service_credentials,
};
use common::id::{JobId, NodeId};

use crate::state::State;
use crate::state::limits::BUILD_TIMEOUT;
use crate::state::records::{Application, Instance, Version};

impl State {
    /// What a node should run; `term` is the leader's.
    #[must_use]
    pub fn assignment(&self, node: NodeId, term: u64) -> Option<Assignment> {
        let record = self.nodes.get(&node)?;
        Some(Assignment {
            cluster: self.cluster_id(),
            node_ttl: self.settings().node_ttl,
            node,
            term,
            generation: record.assignment_generation,
            instances: record
                .instances
                .iter()
                .filter_map(|instance| self.instances.get(instance))
                .filter(|instance| instance.assigned)
                .filter_map(|instance| self.assigned_instance(instance))
                .collect(),
            builds: record
                .builds
                .iter()
                .filter_map(|job| self.assigned_build(*job))
                .collect(),
        })
    }

    /// The cluster's id; empty until it is initialised.
    pub(crate) fn cluster_id(&self) -> String {
        self.cluster()
            .map_or_else(String::new, |(id, _)| id.to_owned())
    }

    fn assigned_instance(&self, instance: &Instance) -> Option<AssignedInstance> {
        let application = self.applications.get(&instance.application)?;
        let version = application.versions.get(&instance.version)?;
        let spec = version.instance_type(&instance.instance_type)?;
        Some(AssignedInstance {
            id: instance.id,
            goal: instance.goal,
            subject: self.subject(application, version)?,
            instance_type: spec.name.clone(),
            package: version.package.clone()?,
            runtime: spec.runtime.clone(),
            startup: spec.startup.clone(),
            env: spec.env.clone(),
            services: service_credentials(&version.spec.services),
            standalone: spec.standalone,
            exclusive: spec.exclusive,
            health: spec.health.clone(),
            stop: spec.stop.clone(),
            start_timeout: spec.start_timeout,
            standalone_wait: spec.standalone_wait,
            cron_key: has_crons(version)
                .then(|| application.cron_key.clone())
                .flatten(),
        })
    }

    fn assigned_build(&self, job: JobId) -> Option<AssignedBuild> {
        let record = self.jobs.get(&job)?;
        let application = self.applications.get(&record.job.application)?;
        let version = application.versions.get(&record.job.version_number)?;
        let prepare = version.spec.prepare.as_ref()?;
        Some(AssignedBuild {
            job,
            subject: self.subject(application, version)?,
            source: PackageReference::clone(&version.source),
            runtime: prepare.runtime.clone(),
            scripts: prepare.scripts.clone(),
            env: prepare.env.clone(),
            services: service_credentials(&version.spec.services),
            timeout: BUILD_TIMEOUT,
        })
    }

    fn subject(&self, application: &Application, version: &Version) -> Option<Subject> {
        let workspace = self.workspaces.get(&application.workspace)?;
        Some(Subject {
            application_id: application.id,
            application: application.name.clone(),
            version: version.number,
            version_id: version.id,
            workspace: workspace.name.clone(),
            workspace_stub: workspace.stub.clone(),
            workspace_tags: workspace.tags.clone(),
        })
    }
}

/// Every instance of a version with crons can check their signatures, whichever type they call.
fn has_crons(version: &Version) -> bool {
    let mut types = version.spec.instance_types.iter();
    types.any(|instance_type| !instance_type.crons.is_empty())
}
