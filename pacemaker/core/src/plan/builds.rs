//! Builders: which node builds, and what became of it.

use std::cmp::Reverse;

use common::assignment::BuildState;
use common::id::{JobId, NodeId};
use common::job::StepName;

use super::Wishes;
use crate::action::Action;
use crate::state::records::{Application, JobRecord};

/// What is to be done about an application's build.
pub(super) fn plan(wishes: &Wishes<'_>, application: &Application) -> Option<Action> {
    let job = wishes
        .state
        .running_job(application)
        .filter(|job| job.step() == Some(StepName::Prepare))?;
    match job.builder.filter(|builder| can_build(wishes, *builder)) {
        None => assign(wishes, job),
        Some(builder) => outcome(wishes, job.job.id, builder),
    }
}

/// A builder that is silent is replaced.
fn can_build(wishes: &Wishes<'_>, node: NodeId) -> bool {
    wishes
        .state
        .nodes
        .get(&node)
        .is_some_and(|node| !node.silent.contains(&common::node::Role::Heart))
}

/// The node that builds least, then has fewest instances, then the first.
fn assign(wishes: &Wishes<'_>, job: &JobRecord) -> Option<Action> {
    let state = wishes.state;
    let application = state.applications.get(&job.job.application)?;
    let version = application.versions.get(&job.job.version_number)?;
    let runtime = version.spec.prepare.as_ref()?.runtime.as_ref();
    let node = state
        .builder_nodes(runtime)
        .max_by_key(|node| Reverse((node.builds.len(), node.instances.len(), node.node.id)))?;
    Some(Action::AssignBuild {
        job: job.job.id,
        node: node.node.id,
        instead_of: job.builder,
    })
}

fn outcome(wishes: &Wishes<'_>, job: JobId, node: NodeId) -> Option<Action> {
    let report = &wishes.sightings.hearts.get(&node)?.report;
    let build = report.builds.iter().find(|build| build.job == job)?;
    match &build.state {
        BuildState::Running => None,
        BuildState::Succeeded { package } => {
            wishes
                .state
                .has_package(&package.digest)
                .then(|| Action::FinishBuild {
                    job,
                    node,
                    package: package.clone(),
                })
        }
        BuildState::Failed { failure } => Some(Action::FailBuild {
            job,
            node,
            failure: crate::apply::bounded(failure),
        }),
    }
}
