//! A modelled router: the table that it holds, and its clients' requests.

use std::collections::{BTreeMap, BTreeSet};

use common::assignment::{Report, RouterReport};
use common::id::{InstanceId, NodeId};
use common::instance::InstanceState;
use common::node::Role;
use common::routing_table::{Backend, RoutingTable};
use common::time::{Span, Timestamp};

use super::{SETTINGS, World};

/// One request on its way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) backend: Backend,
    pub(crate) pid: u32,
    pub(crate) ends: Timestamp,
    /// Longer than the platform promises to wait.
    pub(crate) is_endless: bool,
    /// Sent by a router that nobody waited for.
    pub(crate) is_excused: bool,
}

pub(crate) struct Router {
    pub(crate) node: NodeId,
    pub(crate) is_up: bool,
    pub(crate) is_connected: bool,
    /// It goes on with the table that it has.
    pub(crate) is_stuck: bool,
    pub(crate) incarnation: u64,
    sequence: u64,
    pub(crate) table: RoutingTable,
    pub(crate) requests: Vec<Request>,
    /// Silent for so long that nobody waits for it; until it holds the newest table again.
    pub(crate) is_excused: bool,
    last_report: Option<(Timestamp, RouterReport)>,
}

impl Router {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            is_up: true,
            is_connected: true,
            is_stuck: false,
            incarnation: 1,
            sequence: 0,
            table: RoutingTable::default(),
            requests: Vec::new(),
            is_excused: false,
            last_report: None,
        }
    }

    /// The router's process ends, and the requests that it carries.
    pub(crate) fn lose_power(&mut self) {
        self.is_up = false;
        self.requests.clear();
    }

    /// The router's process starts again with the table on its disk.
    pub(crate) fn restart(&mut self) {
        self.incarnation += 1;
        self.sequence = 0;
        self.last_report = None;
    }

    fn report(&self) -> RouterReport {
        let named: BTreeSet<InstanceId> = self
            .table
            .routes
            .values()
            .flat_map(|route| &route.backends)
            .map(|backend| backend.instance)
            .collect();
        let mut in_flight: BTreeMap<InstanceId, u64> = BTreeMap::new();
        for request in &self.requests {
            if !named.contains(&request.backend.instance) {
                *in_flight.entry(request.backend.instance).or_default() += 1;
            }
        }
        RouterReport {
            incarnation: self.incarnation,
            sequence: 0,
            routes: self.table.generation,
            in_flight,
        }
    }
}

impl World {
    pub(super) fn step_routers(&mut self) {
        let nodes: Vec<NodeId> = self.routers.keys().copied().collect();
        for node in nodes {
            let Some(mut router) = self.routers.remove(&node) else {
                continue;
            };
            let is_silent = self
                .state
                .silent_roles(node)
                .is_some_and(|silent| silent.contains(&Role::Router));
            if is_silent {
                router.is_excused = true;
                for request in &mut router.requests {
                    request.is_excused = true;
                }
            }
            if router.is_up {
                self.follow(&mut router, is_silent);
                self.send_requests(&mut router);
                self.report_router(&mut router);
            }
            self.routers.insert(node, router);
        }
    }

    fn follow(&mut self, router: &mut Router, is_silent: bool) {
        if !router.is_connected || router.is_stuck || self.random.one_in(3) {
            return;
        }
        if self.state.routes_generation() > router.table.generation {
            router.table = self.state.routes();
        }
        if !is_silent {
            router.is_excused = false;
        }
    }

    fn send_requests(&mut self, router: &mut Router) {
        let requests = std::mem::take(&mut router.requests);
        for request in requests {
            let is_alive = self.answers(&request.backend, Some(request.pid));
            let is_excused = request.is_excused || request.is_endless;
            assert!(
                is_alive || is_excused || !self.was_stopped(&request.backend),
                "a request in flight was cut by the platform: {request:?} at {}",
                self.now.0
            );
            if is_alive && request.ends > self.now {
                router.requests.push(request);
            }
        }
        let routes: Vec<_> = router.table.routes.values().collect();
        for _ in 0..2 {
            let Some(route) = self.random.pick(&routes) else {
                return;
            };
            let Some(backend) = self.random.pick(&route.backends).cloned() else {
                continue;
            };
            self.check_address(&backend);
            if !self.answers(&backend, None) {
                assert!(
                    router.is_excused || !self.was_stopped(&backend),
                    "a client was sent to {backend:?}, which the platform had stopped, at {}, table {:?}",
                    self.now.0,
                    router.table.generation
                );
                continue;
            }
            let is_endless = self.random.one_in(40);
            let duration = if is_endless {
                self.random.between(2_000, 4_000)
            } else {
                self.random.below(SETTINGS.drain_limit.0 / 3)
            };
            let ends = self.now.after(Span(duration));
            let pid = self.pid_of(&backend).unwrap_or_default();
            router.requests.push(Request {
                backend,
                pid,
                ends,
                is_endless,
                is_excused: router.is_excused,
            });
        }
    }

    /// True when the process that a router means is there, and is the same one.
    fn answers(&self, backend: &Backend, pid: Option<u32>) -> bool {
        let Some(process) = self
            .hearts
            .values()
            .find_map(|heart| heart.processes.get(&backend.instance))
        else {
            return false;
        };
        process.is_alive
            && process.port == Some(backend.address.port())
            && pid.is_none_or(|pid| pid == process.pid)
    }

    fn pid_of(&self, backend: &Backend) -> Option<u32> {
        self.hearts
            .values()
            .find_map(|heart| heart.processes.get(&backend.instance))
            .map(|process| process.pid)
    }

    fn was_stopped(&self, backend: &Backend) -> bool {
        self.stopped_by_platform.contains(&backend.instance)
    }

    /// An address that a router holds never belongs to another instance's living process.
    fn check_address(&self, backend: &Backend) {
        let address = backend.address;
        let node = self
            .hearts
            .values()
            .find(|heart| format!("10.0.0.{}", heart.node.0) == address.ip().to_string());
        let stranger = node
            .into_iter()
            .flat_map(|heart| &heart.processes)
            .find(|(id, process)| {
                **id != backend.instance
                    && process.port == Some(address.port())
                    && process.is_alive
                    && process.state == InstanceState::Running
            });
        let is_excused = self.routers.values().any(|router| router.is_excused);
        assert!(
            stranger.is_none() || is_excused,
            "{address} of instance {} belongs to {stranger:?}",
            backend.instance
        );
    }

    fn report_router(&mut self, router: &mut Router) {
        let report = router.report();
        let is_news = router
            .last_report
            .as_ref()
            .is_none_or(|(at, last)| *last != report || self.now.since(*at) >= Span(200));
        if !is_news || !router.is_connected {
            return;
        }
        router.last_report = Some((self.now, report.clone()));
        router.sequence += 1;
        let report = RouterReport {
            sequence: router.sequence,
            ..report
        };
        self.post(Report {
            cluster: String::new(),
            node: router.node,
            heart: None,
            router: Some(report),
        });
    }
}
