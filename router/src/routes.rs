//! The routing table in the form that workers search: compiled once, shared by all, never changed.
//!
//! A lookup allocates nothing: an exact name is one hash, and each wildcard level one more, most
//! specific first. What a request counts into is resolved here, so that it looks nothing up twice.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use common::id::{ApplicationId, Generation, InstanceId, InstanceTypeName};
use common::routing_table::{Route, RoutingTable};
use tokio::sync::Notify;

use crate::backend::Backend;
use crate::statistics::{RouteLabels, RouteStatistics};

/// Where requests for one hostname go.
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) backends: Box<[Arc<Backend>]>,
    /// Wait for a backend when there is none.
    pub(crate) hold: bool,
    pub(crate) statistics: Arc<RouteStatistics>,
}

/// A whole routing table, ready to be searched.
#[derive(Debug, Default)]
pub(crate) struct CompiledTable {
    /// The cluster's id; empty when it is not known.
    pub(crate) cluster: Box<str>,
    pub(crate) generation: Generation,
    exact: HashMap<Box<str>, Arc<CompiledRoute>>,
    /// Keyed by what follows `*.`.
    wildcards: HashMap<Box<str>, Arc<CompiledRoute>>,
    /// Every backend once.
    pub(crate) backends: Box<[Arc<Backend>]>,
}

impl CompiledTable {
    /// Finds the route for a hostname in lower case: exact first, then the longest wildcard.
    pub(crate) fn lookup(&self, host: &str) -> Option<&Arc<CompiledRoute>> {
        if let Some(route) = self.exact.get(host) {
            return Some(route);
        }
        if self.wildcards.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(route) = self.wildcards.get(parent) {
                return Some(route);
            }
            rest = parent;
        }
        None
    }

    /// How many hostnames and wildcards it has.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.wildcards.len()
    }
}

/// The backends and counters that outlive a table; compiles tables. Used off the request path.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    report: Arc<Notify>,
    backends: HashMap<(InstanceId, SocketAddr), Known>,
    statistics: HashMap<(ApplicationId, InstanceTypeName), Arc<RouteStatistics>>,
    free_slots: Vec<usize>,
    slots: usize,
    numbers: u64,
}

#[derive(Debug)]
struct Known {
    backend: Arc<Backend>,
    /// The first table without it; `None` while the newest names it.
    left: Option<Generation>,
}

impl Registry {
    pub(crate) fn new(workers: usize, report: Arc<Notify>) -> Self {
        Self {
            workers,
            report,
            backends: HashMap::new(),
            statistics: HashMap::new(),
            free_slots: Vec::new(),
            slots: 0,
            numbers: 0,
        }
    }

    /// Compiles `table`; backends that it does not name are leaving from here on.
    pub(crate) fn compile(&mut self, table: &RoutingTable) -> CompiledTable {
        let generation = table.generation;
        for known in self.backends.values_mut() {
            known.left.get_or_insert(generation);
        }
        let mut compiled = CompiledTable {
            cluster: table.cluster.as_str().into(),
            generation,
            exact: HashMap::with_capacity(table.routes.len()),
            wildcards: HashMap::new(),
            backends: Box::default(),
        };
        let mut statistics = HashMap::new();
        for (pattern, route) in &table.routes {
            let route = Arc::new(self.compile_route(route, &mut statistics));
            match pattern.strip_prefix("*.") {
                Some(parent) => compiled.wildcards.insert(parent.into(), route),
                None => compiled.exact.insert(pattern.as_str().into(), route),
            };
        }
        self.statistics = statistics;
        for known in self.backends.values() {
            known.backend.set_leaving(known.left.is_some());
        }
        compiled.backends = self
            .backends
            .values()
            .filter(|known| known.left.is_none())
            .map(|known| Arc::clone(&known.backend))
            .collect();
        compiled
    }

    fn compile_route(
        &mut self,
        route: &Route,
        statistics: &mut HashMap<(ApplicationId, InstanceTypeName), Arc<RouteStatistics>>,
    ) -> CompiledRoute {
        let backends = route
            .backends
            .iter()
            .map(|backend| self.backend(backend))
            .collect();
        let key = (route.application, route.instance_type.clone());
        let counters = statistics.entry(key).or_insert_with_key(|key| {
            self.statistics.get(key).cloned().unwrap_or_else(|| {
                Arc::new(RouteStatistics::new(RouteLabels::of(route), self.workers))
            })
        });
        CompiledRoute {
            backends,
            hold: route.hold,
            statistics: Arc::clone(counters),
        }
    }

    fn backend(&mut self, source: &common::routing_table::Backend) -> Arc<Backend> {
        let key = (source.instance, source.address);
        if let Some(known) = self.backends.get_mut(&key) {
            known.left = None;
            return Arc::clone(&known.backend);
        }
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        self.numbers += 1;
        let backend = Arc::new(Backend::new(
            self.numbers,
            slot,
            source,
            Arc::clone(&self.report),
        ));
        self.backends.insert(
            key,
            Known {
                backend: Arc::clone(&backend),
                left: None,
            },
        );
        backend
    }

    /// Requests in flight to instances that the table `applied` by every worker does not name.
    ///
    /// Forgets the backends that are done: no worker can choose them any more.
    pub(crate) fn draining(&mut self, applied: Generation) -> BTreeMap<InstanceId, u64> {
        let mut counts = BTreeMap::new();
        let free_slots = &mut self.free_slots;
        self.backends.retain(|_, known| {
            let Some(left) = known.left else { return true };
            let in_flight = known.backend.in_flight();
            if in_flight > 0 {
                *counts.entry(known.backend.instance).or_insert(0) += in_flight;
                return true;
            }
            if left > applied {
                return true;
            }
            free_slots.push(known.backend.slot);
            false
        });
        for known in self.backends.values().filter(|known| known.left.is_none()) {
            counts.remove(&known.backend.instance);
        }
        counts
    }

    /// The counters of every instance type that the newest table names.
    pub(crate) fn statistics(&self) -> Vec<Arc<RouteStatistics>> {
        let mut all: Vec<_> = self.statistics.values().cloned().collect();
        all.sort_by(|one, other| one.labels.cmp(&other.labels));
        all
    }

    /// Requests in flight to any backend.
    pub(crate) fn in_flight(&self) -> u64 {
        self.backends
            .values()
            .map(|known| known.backend.in_flight())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use common::id::VersionNumber;

    use super::*;
    use crate::backend::InFlight;

    fn route(application: u64, instances: &[u64]) -> Route {
        Route {
            application: ApplicationId(application),
            application_name: format!("app{application}"),
            workspace: "test".to_owned(),
            instance_type: InstanceTypeName::parse("web").unwrap(),
            backends: instances
                .iter()
                .map(|instance| common::routing_table::Backend {
                    instance: InstanceId(*instance),
                    version: VersionNumber(1),
                    address: SocketAddr::from(([127, 0, 0, 1], 20_000)),
                })
                .collect(),
            hold: false,
        }
    }

    fn table(generation: u64, routes: &[(&str, Route)]) -> RoutingTable {
        RoutingTable {
            cluster: String::new(),
            generation: Generation(generation),
            routes: routes
                .iter()
                .map(|(pattern, route)| ((*pattern).to_owned(), route.clone()))
                .collect(),
        }
    }

    fn registry() -> Registry {
        Registry::new(1, Arc::new(Notify::new()))
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let table = table(
            1,
            &[
                ("a.example.com", route(1, &[])),
                ("*.example.com", route(2, &[])),
                ("*.b.example.com", route(3, &[])),
            ],
        );
        let compiled = registry().compile(&table);
        let owner = |host: &str| {
            let found = compiled
                .lookup(host)
                .map(|route| route.statistics.labels.application);
            let expected = table.lookup(host).map(|route| route.application);
            assert_eq!(found, expected, "{host}");
            found.map(|application| application.0)
        };

        assert_eq!(owner("a.example.com"), Some(1));
        assert_eq!(owner("c.example.com"), Some(2));
        assert_eq!(owner("x.y.example.com"), Some(2));
        assert_eq!(owner("x.b.example.com"), Some(3));
        assert_eq!(owner("b.example.com"), Some(2));
        assert_eq!(owner("example.com"), None);
        assert_eq!(owner("com"), None);
    }

    #[test]
    fn a_removed_backend_is_known_until_its_requests_end() {
        let mut registry = registry();
        let first = registry.compile(&table(1, &[("a.test", route(1, &[7]))]));
        let request = InFlight::begin(Arc::clone(first.lookup("a.test").unwrap()), 0);

        let second = registry.compile(&table(2, &[("a.test", route(1, &[]))]));
        assert!(second.lookup("a.test").unwrap().backends.is_empty());
        assert_eq!(
            registry.draining(Generation(1)),
            BTreeMap::from([(InstanceId(7), 1)])
        );
        drop(request);

        assert_eq!(registry.draining(Generation(1)), BTreeMap::new());
        assert_eq!(
            registry.backends.len(),
            1,
            "a worker may still use the first table"
        );
        assert_eq!(registry.draining(Generation(2)), BTreeMap::new());
        assert_eq!(registry.backends.len(), 0);
    }

    #[test]
    fn an_address_reused_by_another_instance_is_another_backend() {
        let mut registry = registry();
        let first = registry.compile(&table(1, &[("a.test", route(1, &[7]))]));
        let second = registry.compile(&table(2, &[("a.test", route(1, &[8]))]));
        let number = |table: &CompiledTable| table.lookup("a.test").unwrap().backends[0].number;

        assert_ne!(number(&first), number(&second));
    }

    #[test]
    fn counters_outlive_a_table() {
        let mut registry = registry();
        let first = registry.compile(&table(1, &[("a.test", route(1, &[7]))]));
        let second = registry.compile(&table(2, &[("b.test", route(1, &[8]))]));
        assert!(Arc::ptr_eq(
            &first.lookup("a.test").unwrap().statistics,
            &second.lookup("b.test").unwrap().statistics
        ));
    }
}
