//! Which hostname goes to which instances: the routing table, derived from the state.
//!
//! An application's names are `<version>.<type>.<application>.<workspace>.<cluster>` for each
//! version that runs, and `<type>.<application>.<workspace>.<cluster>` with the manifest's
//! hostnames for the current version; during a switchover the latter go to both.
//!
//! **Invariant:** a backend is an instance that runs and is not withdrawn. The one exception: an
//! instance whose node is silent stays while no other of its version and type runs, because a
//! pacemaker that hears nothing is no reason to take the last backends away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::application::InstanceTypeSpec;
use common::id::{
    ApplicationId, ApplicationName, Generation, InstanceTypeName, VersionNumber, WorkspaceStub,
};
use common::instance::InstanceState;
use common::routing_table::{Backend, Route, RoutingTable};

use crate::state::State;
use crate::state::records::{Application, Exposure, Instance, SwitchPhase, Version};

impl State {
    /// The routing table of this state.
    #[must_use]
    pub fn routes(&self) -> RoutingTable {
        RoutingTable {
            cluster: self.cluster_id(),
            generation: self.routes_generation,
            routes: self
                .table
                .values()
                .flatten()
                .map(|(pattern, route)| (pattern.clone(), route.clone()))
                .collect(),
        }
    }

    /// What has changed in the table since a generation: the whole part of each application of
    /// which anything has, for whoever holds the table of that generation.
    pub fn routes_since(
        &self,
        after: Generation,
    ) -> impl Iterator<Item = (ApplicationId, &BTreeMap<String, Route>)> {
        let next = Generation(after.0.saturating_add(1));
        self.changed_routes
            .range((next, ApplicationId(0))..)
            .filter_map(|(_, application)| Some((*application, self.table.get(application)?)))
    }

    /// The part of the table that is an application's, from scratch.
    pub(crate) fn routes_of(&self, application: &Application) -> BTreeMap<String, Route> {
        let mut routes = BTreeMap::new();
        let mut found: BTreeMap<(VersionNumber, &str), Vec<Backend>> = BTreeMap::new();
        for version in application.versions.values() {
            for instance_type in routed_types(version) {
                let backends = self.backends(version, instance_type);
                if !backends.is_empty()
                    && let Some(name) = self.version_hostname(application, version, instance_type)
                {
                    let route = self.route(application, instance_type, backends.clone());
                    routes.insert(name, route);
                }
                found.insert((version.number, instance_type.name.as_str()), backends);
            }
        }
        let mut shared: BTreeMap<String, Route> = BTreeMap::new();
        for version in serving(application) {
            for instance_type in routed_types(version) {
                let backends = found
                    .get(&(version.number, instance_type.name.as_str()))
                    .cloned()
                    .unwrap_or_default();
                for name in self.current_hostnames(application, instance_type) {
                    let route = self.route(application, instance_type, backends.clone());
                    shared
                        .entry(name)
                        .and_modify(|earlier| merge(earlier, &route))
                        .or_insert(route);
                }
            }
        }
        routes.extend(shared);
        routes
    }

    fn route(
        &self,
        application: &Application,
        instance_type: &InstanceTypeSpec,
        backends: Vec<Backend>,
    ) -> Route {
        Route {
            application: application.id,
            application_name: application.name.to_string(),
            workspace: self
                .workspaces
                .get(&application.workspace)
                .map(|workspace| workspace.stub.to_string())
                .unwrap_or_default(),
            instance_type: instance_type.name.clone(),
            hold: application.handover && instance_type.exclusive && backends.is_empty(),
            backends,
        }
    }

    /// The backends of one type of one version, sorted by instance.
    fn backends(&self, version: &Version, instance_type: &InstanceTypeSpec) -> Vec<Backend> {
        let exposed: Vec<&Instance> = version
            .instances
            .iter()
            .filter_map(|instance| self.instances.get(instance))
            .filter(|instance| {
                instance.instance_type == instance_type.name
                    && instance.exposure == Exposure::In
                    && instance.seen.port.is_some()
            })
            .collect();
        let runs = |instance: &&&Instance| instance.seen.state == InstanceState::Running;
        let is_lost = |instance: &&&Instance| instance.seen.state == InstanceState::Lost;
        let chosen: Vec<&&Instance> = if exposed.iter().any(|instance| runs(&instance)) {
            exposed.iter().filter(runs).collect()
        } else {
            exposed.iter().filter(is_lost).collect()
        };
        chosen
            .into_iter()
            .filter_map(|instance| self.backend(instance))
            .collect()
    }

    fn backend(&self, instance: &Instance) -> Option<Backend> {
        let address = self.brief(instance.node)?.address;
        Some(Backend {
            instance: instance.id,
            version: instance.version,
            address: SocketAddr::new(address, instance.seen.port?),
        })
    }

    /// `<version>.<type>.<application>.<workspace>.<cluster>`.
    pub(crate) fn version_hostname(
        &self,
        application: &Application,
        version: &Version,
        instance_type: &InstanceTypeSpec,
    ) -> Option<String> {
        let name = self.type_hostname(application, &instance_type.name)?;
        Some(format!("{}.{name}", version.number))
    }

    /// `<type>.<application>.<workspace>.<cluster>`.
    pub(crate) fn type_hostname(
        &self,
        application: &Application,
        instance_type: &InstanceTypeName,
    ) -> Option<String> {
        let workspace = self.workspaces.get(&application.workspace)?;
        let (_, hostname) = self.cluster()?;
        Some(generated_hostname(
            instance_type,
            &application.name,
            &workspace.stub,
            hostname,
        ))
    }

    /// The names that go to the current version: the generated one first, then the manifest's.
    pub(crate) fn current_hostnames(
        &self,
        application: &Application,
        instance_type: &InstanceTypeSpec,
    ) -> Vec<String> {
        self.type_hostname(application, &instance_type.name)
            .into_iter()
            .chain(instance_type.hostnames.iter().map(ToString::to_string))
            .collect()
    }

    /// Every name that a version can ever be routed under; these are claimed while it is kept.
    pub(crate) fn names_of(&self, application: &Application, version: &Version) -> Vec<String> {
        routed_types(version)
            .flat_map(|instance_type| {
                self.version_hostname(application, version, instance_type)
                    .into_iter()
                    .chain(self.current_hostnames(application, instance_type))
            })
            .collect()
    }

    /// The hostnames under which a browser reaches a version: no wildcards.
    pub(crate) fn reachable_hostnames(
        &self,
        application: &Application,
        version: &Version,
    ) -> Vec<String> {
        let mut seen = BTreeSet::new();
        routed_types(version)
            .flat_map(|instance_type| {
                if application.current == Some(version.number) {
                    self.current_hostnames(application, instance_type)
                } else {
                    self.version_hostname(application, version, instance_type)
                        .into_iter()
                        .collect()
                }
            })
            .filter(|name| !name.starts_with("*.") && seen.insert(name.clone()))
            .collect()
    }
}

/// `<type>.<application>.<workspace>.<cluster>`, all lower case.
pub(crate) fn generated_hostname(
    instance_type: &InstanceTypeName,
    application: &ApplicationName,
    workspace: &WorkspaceStub,
    cluster: &str,
) -> String {
    format!("{instance_type}.{application}.{workspace}.{cluster}").to_ascii_lowercase()
}

fn routed_types(version: &Version) -> impl Iterator<Item = &InstanceTypeSpec> {
    version
        .spec
        .instance_types
        .iter()
        .filter(|instance_type| !instance_type.standalone)
}

/// The versions that the application's shared names go to, the newest wish last.
fn serving(application: &Application) -> impl Iterator<Item = &Version> {
    let numbers: [Option<VersionNumber>; 2] = match application.switch {
        Some(switch) => match switch.phase {
            SwitchPhase::Both | SwitchPhase::Handover => [switch.from, Some(switch.to)],
            SwitchPhase::OnlyNew | SwitchPhase::Draining => [None, Some(switch.to)],
        },
        None => [None, application.current],
    };
    numbers
        .into_iter()
        .flatten()
        .filter_map(|number| application.versions.get(&number))
}

/// Joins the routes of two versions under one name; the later version names the type.
fn merge(earlier: &mut Route, later: &Route) {
    earlier.instance_type = later.instance_type.clone();
    earlier.backends.extend(later.backends.iter().cloned());
    earlier
        .backends
        .sort_by_key(|backend| (backend.instance, backend.version));
    earlier.hold = (earlier.hold || later.hold) && earlier.backends.is_empty();
}

#[cfg(test)]
mod tests {
    use common::id::InstanceId;

    use super::*;

    #[test]
    fn generated_hostnames_are_lower_case() {
        let name = generated_hostname(
            &InstanceTypeName::parse("Web").unwrap(),
            &ApplicationName::parse("My.App").unwrap(),
            &WorkspaceStub::parse("test").unwrap(),
            "example.com",
        );

        assert_eq!(name, "web.my.app.test.example.com");
    }

    #[test]
    fn merged_route_has_both_versions_backends_and_the_later_type() {
        let mut earlier = route("old", &[2]);

        merge(&mut earlier, &route("new", &[1, 3]));

        let instances: Vec<u64> = earlier
            .backends
            .iter()
            .map(|backend| backend.instance.0)
            .collect();
        assert_eq!(instances, [1, 2, 3]);
        assert_eq!(earlier.instance_type.as_str(), "new");
    }

    #[test]
    fn merged_route_holds_only_while_nothing_answers() {
        let holding = Route {
            hold: true,
            ..route("web", &[])
        };

        let mut served = holding.clone();
        merge(&mut served, &route("web", &[1]));
        let mut unserved = holding;
        merge(&mut unserved, &route("web", &[]));

        assert!(!served.hold);
        assert!(unserved.hold);
    }

    fn route(instance_type: &str, instances: &[u64]) -> Route {
        Route {
            application: ApplicationId(1),
            application_name: "app".to_owned(),
            workspace: "test".to_owned(),
            instance_type: InstanceTypeName::parse(instance_type).unwrap(),
            backends: instances
                .iter()
                .map(|instance| Backend {
                    instance: InstanceId(*instance),
                    version: VersionNumber(1),
                    address: SocketAddr::from(([10, 0, 0, 1], 20_000)),
                })
                .collect(),
            hold: false,
        }
    }
}
