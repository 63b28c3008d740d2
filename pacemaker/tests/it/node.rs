//! A node that only says what a heart and a router would say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use common::application::{RUNTIME_SHELL, RUNTIME_STATIC};
use common::assignment::{Assignment, HeartReport, InstanceReport, Report, RouterReport};
use common::id::{Generation, NodeId, PluginName};
use common::instance::{InstanceGoal, InstanceState};
use common::node::{NodeDescription, Role};
use common::time::Span;
use pacemaker_client::Client;
use tokio::task::JoinHandle;

/// The first port that the node gives.
const FIRST_PORT: u16 = 20_000;

pub(crate) struct FakeNode {
    tasks: Vec<JoinHandle<()>>,
}

impl FakeNode {
    /// Registers, and then obeys every assignment and every table at once.
    pub(crate) async fn start(client: &Client, api: &str) -> Self {
        let id = client.register_node(&description(api)).await.unwrap();
        let heart = tokio::spawn(run_heart(client.clone(), id));
        let router = tokio::spawn(run_router(client.clone(), id));
        Self {
            tasks: vec![heart, router],
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

pub(crate) fn description(api: &str) -> NodeDescription {
    NodeDescription {
        key: "node-key".to_owned(),
        name: "testing".to_owned(),
        roles: BTreeSet::from([Role::Pacemaker, Role::Heart, Role::Router]),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        api: api.to_owned(),
        tags: BTreeMap::new(),
        zone: None,
        runtimes: [RUNTIME_SHELL, RUNTIME_STATIC]
            .map(|name| (PluginName::parse(name).unwrap(), vec!["1".to_owned()]))
            .into(),
    }
}

async fn run_heart(client: Client, node: NodeId) {
    let mut held = Assignment {
        cluster: String::new(),
        node_ttl: Span(0),
        node,
        term: 0,
        generation: Generation(0),
        instances: Vec::new(),
        builds: Vec::new(),
    };
    let mut sequence = 0;
    loop {
        sequence += 1;
        let report = Report {
            cluster: String::new(),
            node,
            heart: Some(HeartReport {
                incarnation: 1,
                sequence,
                assignment: held.generation,
                instances: held.instances.iter().map(obeyed).collect(),
                ..HeartReport::default()
            }),
            router: None,
        };
        report_until_taken(&client, &report).await;
        let watch = client.watch_assignment(node, held.generation);
        let interval = common::assignment::REPORT_INTERVAL.duration();
        if let Ok(Ok(Some(newer))) = tokio::time::timeout(interval, watch).await {
            held = newer;
        }
    }
}

fn obeyed(instance: &common::assignment::AssignedInstance) -> InstanceReport {
    let is_running = instance.goal == InstanceGoal::Running;
    InstanceReport {
        id: instance.id,
        state: if is_running {
            InstanceState::Running
        } else {
            InstanceState::Registered
        },
        port: is_running.then(|| FIRST_PORT + u16::try_from(instance.id.0).unwrap()),
        pid: is_running.then_some(1),
        restarts: 0,
        failure: None,
    }
}

async fn run_router(client: Client, node: NodeId) {
    let mut routes = Generation(0);
    let mut sequence = 0;
    loop {
        sequence += 1;
        let report = Report {
            cluster: String::new(),
            node,
            heart: None,
            router: Some(RouterReport {
                incarnation: 1,
                sequence,
                routes,
                in_flight: BTreeMap::new(),
            }),
        };
        report_until_taken(&client, &report).await;
        let watch = client.watch_routes(routes);
        let interval = common::assignment::REPORT_INTERVAL.duration();
        if let Ok(Ok(Some(newer))) = tokio::time::timeout(interval, watch).await {
            routes = newer.generation;
        }
    }
}

async fn report_until_taken(client: &Client, report: &Report) {
    while client.report(report).await.is_err() {
        tokio::task::yield_now().await;
    }
}
