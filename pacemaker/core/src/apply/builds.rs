//! Builds: which node builds a job's version, and what became of it.

use common::api::VersionState;
use common::assignment::PackageReference;
use common::id::{JobId, NodeId};
use common::instance::Failure;
use common::job::StepName;

use crate::apply::jobs::job_failure;
use crate::apply::stale;
use crate::command::Rejection;
use crate::transition::Transition;

impl Transition<'_> {
    /// A node is to build.
    pub(super) fn assign_build(
        &mut self,
        id: JobId,
        node: NodeId,
        instead_of: Option<NodeId>,
    ) -> Result<(), Rejection> {
        self.check_building(id, instead_of)?;
        if !self
            .state
            .nodes
            .get(&node)
            .is_some_and(|node| node.takes_instances())
        {
            return Err(stale(format!("node {node} takes no builds")));
        }
        self.release_builder(id);
        if let Some(node) = self.node(node) {
            node.builds.insert(id);
        }
        if let Some(record) = self.job(id) {
            record.builder = Some(node);
        }
        self.touch_job(id);
        Ok(())
    }

    /// The package is built; the next steps follow when the command is settled.
    pub(super) fn finish_build(
        &mut self,
        id: JobId,
        node: NodeId,
        package: &PackageReference,
    ) -> Result<(), Rejection> {
        self.check_building(id, Some(node))?;
        let Some(package) = self.state.package(&package.digest) else {
            return Err(stale(format!(
                "package {} is not in the store",
                package.digest
            )));
        };
        let Some((application, number)) = self.target_of(id) else {
            return Err(stale(format!("job {id} is unknown")));
        };
        self.release_builder(id);
        if let Some(version) = self.version(application, number) {
            version.package = Some(package);
            version.state = VersionState::Prepared;
        }
        Ok(())
    }

    /// The build failed, and the job with it.
    pub(super) fn fail_build(
        &mut self,
        id: JobId,
        node: NodeId,
        failure: &Failure,
    ) -> Result<(), Rejection> {
        self.check_building(id, Some(node))?;
        let name = self
            .state
            .nodes
            .get(&node)
            .map_or_else(String::new, |node| node.node.description.name.clone());
        let message = format!(
            "the build on node {node} ({name}) failed: {}",
            failure.message
        );
        let failure = job_failure(StepName::Prepare, failure, &message, None);
        self.end_undone(id, Some(failure));
        Ok(())
    }

    fn check_building(&self, id: JobId, builder: Option<NodeId>) -> Result<(), Rejection> {
        let Some(record) = self.state.jobs.get(&id) else {
            return Err(stale(format!("job {id} is unknown")));
        };
        if record.step() != Some(StepName::Prepare) || record.builder != builder {
            return Err(stale(format!("job {id} is not building there")));
        }
        Ok(())
    }

    pub(super) fn release_builder(&mut self, id: JobId) {
        let Some(builder) = self.state.jobs.get(&id).and_then(|record| record.builder) else {
            return;
        };
        if let Some(node) = self.node(builder) {
            node.builds.remove(&id);
        }
        if let Some(record) = self.job(id) {
            record.builder = None;
        }
    }
}
