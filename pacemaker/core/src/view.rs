//! What the API shows: read-only pictures of the state.

use common::api::{ApplicationView, InstanceTypeView, InstanceView, JobView, VersionView};
use common::application::InstanceTypeSpec;
use common::id::{ApplicationId, JobId};

use crate::state::State;
use crate::state::records::{Application, Instance, Version};

/// The port that a browser adds by itself.
const HTTP_PORT: u16 = 80;

impl State {
    /// A job as the API shows it; `router_port` makes its URLs.
    #[must_use]
    pub fn job_view(&self, job: JobId, router_port: u16) -> Option<JobView> {
        let record = self.jobs.get(&job)?;
        let urls = self
            .applications
            .get(&record.job.application)
            .and_then(|application| {
                let version = application.versions.get(&record.job.version_number)?;
                Some(self.urls(application, version, router_port))
            })
            .unwrap_or_default();
        Some(JobView {
            generation: record.generation,
            job: record.job.clone(),
            urls,
        })
    }

    /// Applications as the API shows them.
    #[must_use]
    pub fn application_views(&self, router_port: u16) -> Vec<ApplicationView> {
        self.applications
            .values()
            .filter_map(|application| self.view(application, router_port))
            .collect()
    }

    /// One application.
    #[must_use]
    pub fn application_view(
        &self,
        application: ApplicationId,
        router_port: u16,
    ) -> Option<ApplicationView> {
        self.view(self.applications.get(&application)?, router_port)
    }

    fn view(&self, application: &Application, router_port: u16) -> Option<ApplicationView> {
        let current = application
            .current
            .and_then(|number| application.versions.get(&number));
        Some(ApplicationView {
            id: application.id,
            name: application.name.to_string(),
            workspace: self.workspaces.get(&application.workspace)?.stub.clone(),
            current: application.current,
            previous: application.previous,
            versions: application
                .versions
                .values()
                .rev()
                .map(|version| self.version_view(application, version))
                .collect(),
            job: application.job,
            urls: current
                .map(|version| self.urls(application, version, router_port))
                .unwrap_or_default(),
            failing_crons: self.failing_crons_of(application),
        })
    }

    fn version_view(&self, application: &Application, version: &Version) -> VersionView {
        VersionView {
            id: version.id,
            number: version.number,
            state: version.state,
            is_current: application.current == Some(version.number),
            created: version.created,
            instance_types: version
                .spec
                .instance_types
                .iter()
                .map(|spec| self.type_view(version, spec))
                .collect(),
        }
    }

    fn type_view(&self, version: &Version, spec: &InstanceTypeSpec) -> InstanceTypeView {
        InstanceTypeView {
            name: spec.name.clone(),
            quantity: version.quantity(&spec.name),
            hostnames: spec.hostnames.clone(),
            instances: version
                .instances
                .iter()
                .filter_map(|id| self.instances.get(id))
                .filter(|instance| instance.instance_type == spec.name)
                .map(instance_view)
                .collect(),
        }
    }

    fn urls(&self, application: &Application, version: &Version, router_port: u16) -> Vec<String> {
        self.reachable_hostnames(application, version)
            .into_iter()
            .map(|name| {
                if router_port == HTTP_PORT {
                    format!("http://{name}/")
                } else {
                    format!("http://{name}:{router_port}/")
                }
            })
            .collect()
    }
}

fn instance_view(instance: &Instance) -> InstanceView {
    InstanceView {
        id: instance.id,
        node: instance.node,
        goal: instance.goal,
        state: instance.seen.state,
        port: instance.seen.port,
        pid: instance.seen.pid,
        restarts: instance.seen.restarts,
        failure: instance.seen.failure.clone(),
        since: instance.since,
    }
}
