//! A node that only says what a heart and a router would say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use common::application::{RUNTIME_SHELL, RUNTIME_STATIC};
use common::assignment::{Assignment, HeartReport, InstanceReport, Report, RouterReport};
use common::id::{Generation, InstanceId, NodeId, PluginName};
use common::instance::{InstanceGoal, InstanceState};
use common::node::{NodeDescription, Role};
use common::time::Span;
use pacemaker_client::Client;
use tokio::task::JoinHandle;

/// The first port that the node gives.
const FIRST_PORT: u16 = 20_000;
/// The pause before a report that was not taken is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Where an instance listens.
type Ports = Arc<dyn Fn(InstanceId) -> u16 + Send + Sync>;

pub(crate) struct FakeNode {
    tasks: Vec<JoinHandle<()>>,
}

impl FakeNode {
    /// Registers, and then obeys every assignment and every table at once.
    pub(crate) async fn start(client: &Client, api: &str) -> Self {
        let port = |id: InstanceId| FIRST_PORT + u16::try_from(id.0).unwrap();
        Self::with(client, &description(api), Arc::new(port)).await
    }

    /// The same, without a pacemaker on its machine, and with instances that listen somewhere.
    pub(crate) async fn start_at(client: &Client, api: &str, ports: Ports) -> Self {
        let mut description = description(api);
        description.key = "heart-key".to_owned();
        description.roles.remove(&Role::Pacemaker);
        Self::with(client, &description, ports).await
    }

    async fn with(client: &Client, description: &NodeDescription, ports: Ports) -> Self {
        let id = client.register_node(description).await.unwrap();
        let heart = tokio::spawn(run_heart(client.clone(), id, ports));
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

async fn run_heart(client: Client, node: NodeId, ports: Ports) {
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
                instances: held
                    .instances
                    .iter()
                    .map(|instance| obeyed(instance, &ports))
                    .collect(),
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

fn obeyed(instance: &common::assignment::AssignedInstance, ports: &Ports) -> InstanceReport {
    let is_running = instance.goal == InstanceGoal::Running;
    InstanceReport {
        id: instance.id,
        state: if is_running {
            InstanceState::Running
        } else {
            InstanceState::Registered
        },
        port: is_running.then(|| ports(instance.id)),
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
    let mut interval = tokio::time::interval(RETRY_PAUSE);
    while client.report(report).await.is_err() {
        interval.tick().await;
    }
}
