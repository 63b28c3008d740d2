//! What a user would tell of the core: one story per test, on a modelled cluster without faults.

mod deployments;
mod exclusive;
mod instances;
mod joins;
mod names;
mod nodes;
mod packages;
mod placement;
mod switchovers;

use common::api::VersionState;
use common::application::VersionSpec;
use common::id::{ApplicationId, VersionNumber};
use common::routing_table::Route;
use pacemaker_core::command::{Outcome, VersionTarget};

use crate::generators::{instance_type, version_spec};
use crate::world::World;

pub(crate) const MAIN: &str = "web.hello.default.cluster.test";

pub(crate) fn hello(quantity: u32) -> VersionSpec {
    version_spec("hello", vec![instance_type("web", quantity)])
}

pub(crate) fn job_of(outcome: &Outcome) -> common::id::JobId {
    let Outcome::Job { job, .. } = outcome else {
        panic!("a job, not {outcome:?}");
    };
    *job
}

pub(crate) fn versions_in(route: &Route) -> Vec<u64> {
    let mut versions: Vec<u64> = route
        .backends
        .iter()
        .map(|backend| backend.version.0)
        .collect();
    versions.dedup();
    versions
}

pub(crate) fn state_of(world: &World, target: VersionTarget) -> VersionState {
    world
        .state
        .application_view(target.application, 80)
        .unwrap()
        .versions
        .into_iter()
        .find(|version| version.number == target.version)
        .unwrap()
        .state
}

pub(crate) fn current(world: &World, application: ApplicationId) -> Option<VersionNumber> {
    world.state.applications()[&application].current
}
