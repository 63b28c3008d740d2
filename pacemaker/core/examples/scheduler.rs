//! What the scheduler costs: placements per second, memory, loading, one change.
//!
//! `scheduler NODES APPLICATIONS INSTANCES_PER_APPLICATION [SECONDS]` prints one line of figures as
//! `name value` pairs. `scripts/bench-scheduler` runs it at two sizes and prints the ratios.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement reads the clock and its own memory, prints, and fails loudly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::application::{
    InstanceTypeSpec, PlacementSpec, Program, RUNTIME_SHELL, RuntimeSpec, StopSpec, VersionSpec,
};
use common::assignment::{HeartReport, InstanceReport, Load, PackageReference, RouterReport};
use common::digest::Digest;
use common::id::{ApplicationName, Generation, InstanceId, InstanceTypeName, NodeId, PluginName};
use common::instance::{InstanceGoal, InstanceState};
use common::node::{NodeDescription, Role};
use common::time::{Span, Timestamp};
use pacemaker_core::action::Action;
use pacemaker_core::command::{ApplyContext, ClusterSettings, Command, Outcome};
use pacemaker_core::sightings::{Sighting, Sightings};
use pacemaker_core::{Planner, State};

/// Failure domains; as many as a cell of 5,000 nodes has racks.
const ZONES: u64 = 50;
/// How often one change is repeated.
const CHANGES: usize = 200;

fn main() {
    let arguments: Vec<u64> = std::env::args()
        .skip(1)
        .map(|text| text.parse().unwrap())
        .collect();
    let [nodes, applications, each] = arguments[..3] else {
        panic!("NODES APPLICATIONS INSTANCES_PER_APPLICATION");
    };
    let limit = Duration::from_secs(arguments.get(3).copied().unwrap_or(60));

    let mut bench = Bench::new(nodes);
    bench.deploy(applications, u32::try_from(each).unwrap());
    let before = resident_bytes();
    let begun = Instant::now();
    let processor = processor_seconds();
    let placed = bench.settle(begun + limit);
    let seconds = processor_seconds() - processor;
    println!("placements {placed}");
    println!("placements_per_second {:.0}", as_f64(placed) / seconds);
    println!("worst_imbalance {:.2}", bench.imbalance());
    if begun.elapsed() >= limit || std::env::var("PLACEMENTS_ONLY").is_ok() {
        return;
    }
    let memory = resident_bytes().saturating_sub(before);
    println!("bytes_per_instance {:.0}", as_f64(memory) / as_f64(placed));

    let processor = processor_seconds();
    bench.run_everything(Instant::now() + limit);
    println!("start_all_seconds {:.3}", processor_seconds() - processor);

    let bytes = rmp_serde::to_vec_named(&bench.state).unwrap();
    let processor = processor_seconds();
    let loaded: State = rmp_serde::from_slice(&bytes).unwrap();
    println!("snapshot_bytes {}", bytes.len());
    println!("load_seconds {:.3}", processor_seconds() - processor);
    assert!(loaded == bench.state);

    let costs = bench.changes();
    for (name, cost) in ["plan_us", "apply_us", "assignment_us", "routes_us"]
        .into_iter()
        .zip(costs)
    {
        println!("{name} {cost:.1}");
    }
    println!("change_us {:.1}", costs.iter().sum::<f64>());
}

struct Bench {
    state: State,
    sightings: Sightings,
    planner: Planner,
    /// Nodes that have reported since the last plan.
    heard: BTreeSet<NodeId>,
    now: Timestamp,
    index: u64,
}

impl Bench {
    fn new(nodes: u64) -> Self {
        let now = Timestamp(1_000_000);
        let mut bench = Self {
            state: State::default(),
            sightings: Sightings {
                elected: now,
                ..Sightings::default()
            },
            planner: Planner::default(),
            heard: BTreeSet::new(),
            now,
            index: 0,
        };
        bench.apply(&Command::InitializeCluster {
            id: "bench".to_owned(),
            hostname: "bench.test".to_owned(),
            tokens: BTreeMap::new(),
            settings: ClusterSettings {
                node_ttl: Span::seconds(3_600),
                ..ClusterSettings::default()
            },
            join_tokens: Vec::new(),
            founder: None,
        });
        for number in 0..nodes {
            bench.apply(&Command::RegisterNode {
                description: node(number),
            });
        }
        for node in bench.state.nodes() {
            bench.hear(node.id, Vec::new());
        }
        bench
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let ctx = ApplyContext {
            now: self.now,
            index: Generation(self.index),
        };
        self.state.apply(command, &ctx).unwrap()
    }

    fn deploy(&mut self, applications: u64, each: u32) {
        let package = PackageReference {
            digest: Digest::of(b"package"),
            size: 7,
        };
        self.apply(&Command::CommitPackage {
            package: package.clone(),
        });
        for number in 0..applications {
            self.apply(&Command::Deploy {
                workspace: "default".parse().unwrap(),
                spec: Box::new(version(number, each)),
                manifest: String::new(),
                source: package.digest.clone(),
                promote: true,
                cron_key: None,
            });
        }
    }

    fn plan(&mut self) -> Vec<Action> {
        let heard = std::mem::take(&mut self.heard);
        self.planner
            .plan_after(&self.state, &self.sightings, &heard, self.now)
    }

    fn act(&mut self, actions: Vec<Action>) {
        let outcome = self.apply(&Command::Act {
            computed_at: self.state.applied(),
            actions,
        });
        assert_eq!(
            outcome,
            Outcome::Acted {
                rejected: Vec::new()
            }
        );
    }

    /// Plans and applies until nothing is wished; answers how many instances were placed.
    fn settle(&mut self, deadline: Instant) -> usize {
        let before = self.state.instances().len();
        while Instant::now() < deadline {
            let actions = self.plan();
            if actions.is_empty() {
                break;
            }
            self.act(actions);
        }
        self.state.instances().len() - before
    }

    /// The fullest node against the mean.
    fn imbalance(&self) -> f64 {
        let counts = self
            .state
            .nodes()
            .iter()
            .map(|node| self.state.instances_on(node.id))
            .collect::<Vec<_>>();
        let fullest = counts.iter().copied().max().unwrap_or(0);
        as_f64(fullest) * as_f64(counts.len()) / as_f64(counts.iter().sum::<usize>().max(1))
    }

    fn hear(&mut self, node: NodeId, instances: Vec<InstanceReport>) {
        self.now = self.now.after(Span(1));
        let assignment = self.state.assignment_generation(node).unwrap();
        let load = Load {
            memory_total: 64 << 30,
            memory_available: 48 << 30,
            cpus: 32,
            load_milli: 4_000,
            disk_available: 1 << 40,
        };
        let report = HeartReport {
            incarnation: 1,
            sequence: self.now.0,
            assignment,
            instances,
            load,
            ..HeartReport::default()
        };
        self.sightings.hearts.insert(
            node,
            Sighting {
                at: self.now,
                report,
            },
        );
        self.heard.insert(node);
        self.hear_router();
    }

    fn hear_router(&mut self) {
        let report = RouterReport {
            incarnation: 1,
            sequence: self.now.0,
            routes: self.state.routes_generation(),
            ..RouterReport::default()
        };
        let sighting = Sighting {
            at: self.now,
            report,
        };
        self.sightings.routers.insert(NodeId(1), sighting);
    }

    fn reports(&self, node: NodeId) -> Vec<InstanceReport> {
        let assignment = self.state.assignment(node, 1).unwrap();
        (20_000..)
            .zip(assignment.instances)
            .map(|(port, assigned)| InstanceReport {
                id: assigned.id,
                state: match assigned.goal {
                    InstanceGoal::Running => InstanceState::Running,
                    InstanceGoal::Registered => InstanceState::Registered,
                },
                port: Some(port),
                pid: Some(1),
                restarts: 0,
                failure: None,
            })
            .collect()
    }

    /// Hearts start what is assigned, routers follow, jobs end.
    fn run_everything(&mut self, deadline: Instant) {
        let nodes: Vec<NodeId> = self.state.nodes().iter().map(|node| node.id).collect();
        loop {
            for node in &nodes {
                let reports = self.reports(*node);
                self.hear(*node, reports);
            }
            let before = self.state.applied();
            self.settle(deadline);
            let jobs = self.state.jobs(None, None, usize::MAX);
            let busy = jobs.iter().filter(|job| !job.state.is_final()).count();
            if busy == 0 && self.state.applied() == before || Instant::now() >= deadline {
                assert_eq!(busy, 0, "jobs have not ended in time");
                return;
            }
        }
    }

    /// One instance crashes and comes back: the median cost of each half, in microseconds.
    fn changes(&mut self) -> [f64; 4] {
        let mut spent: [Vec<Duration>; 4] = Default::default();
        let ids: Vec<(InstanceId, NodeId)> = self
            .state
            .instances()
            .values()
            .map(|instance| (instance.id, instance.node))
            .collect();
        for number in 0..CHANGES {
            let (id, node) = ids[number * ids.len() / CHANGES];
            for state in [InstanceState::Failed, InstanceState::Running] {
                let mut reports = self.reports(node);
                for report in &mut reports {
                    if report.id == id {
                        report.state = state;
                    }
                }
                self.hear(node, reports);
                let after = self.state.routes_generation();
                let begun = Instant::now();
                let mut applying = Duration::ZERO;
                loop {
                    let actions = self.plan();
                    if actions.is_empty() {
                        break;
                    }
                    let begun = Instant::now();
                    self.act(actions);
                    applying += begun.elapsed();
                }
                spent[0].push(begun.elapsed() - applying);
                spent[1].push(applying);
                let begun = Instant::now();
                std::hint::black_box(self.state.assignment(node, 1));
                spent[2].push(begun.elapsed());
                let begun = Instant::now();
                self.show_routes(after);
                spent[3].push(begun.elapsed());
            }
        }
        spent.map(|mut spent| {
            spent.sort_unstable();
            spent[spent.len() / 2].as_secs_f64() * 1e6
        })
    }

    fn show_routes(&self, after: Generation) {
        for (_, routes) in self.state.routes_since(after) {
            std::hint::black_box(routes.clone());
        }
    }
}

fn node(number: u64) -> NodeDescription {
    let disk = if (number / ZONES).is_multiple_of(2) {
        "ssd"
    } else {
        "hdd"
    };
    NodeDescription {
        key: format!("key-{number}"),
        name: format!("node{number}"),
        roles: if number == 0 {
            BTreeSet::from([Role::Heart, Role::Router])
        } else {
            BTreeSet::from([Role::Heart])
        },
        address: std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap()).into(),
        api: format!("https://node{number}:4250"),
        tags: BTreeMap::from([("disk".to_owned(), disk.into())]),
        zone: Some(format!("zone{}", number % ZONES)),
        runtimes: BTreeMap::from([(
            PluginName::parse(RUNTIME_SHELL).unwrap(),
            vec!["1".to_owned()],
        )]),
    }
}

/// Every second application asks for a tag, every third is spread over zones.
fn version(number: u64, quantity: u32) -> VersionSpec {
    let tags = if number.is_multiple_of(2) {
        BTreeMap::from([("disk".to_owned(), "ssd".into())])
    } else {
        BTreeMap::new()
    };
    VersionSpec {
        application: ApplicationName::parse(&format!("application-{number}")).unwrap(),
        prepare: None,
        instance_types: vec![InstanceTypeSpec {
            name: InstanceTypeName::parse("web").unwrap(),
            quantity,
            runtime: RuntimeSpec {
                plugin: PluginName::parse(RUNTIME_SHELL).unwrap(),
                version: "1".to_owned(),
                program: Program::Command {
                    launch_command: "serve %(port)d".to_owned(),
                },
            },
            startup: Vec::new(),
            placement: PlacementSpec {
                tags,
                zone: None,
                spread_zones: number.is_multiple_of(3),
            },
            hostnames: Vec::new(),
            standalone: false,
            exclusive: false,
            env: BTreeMap::new(),
            health: None,
            stop: StopSpec::default(),
            start_timeout: Span::seconds(20),
            standalone_wait: Span::seconds(5),
            crons: Vec::new(),
        }],
        services: Vec::new(),
    }
}

/// Of this process, so that what else runs on the machine does not count.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let nanoseconds: usize = text.split(' ').next().unwrap().parse().unwrap();
    as_f64(nanoseconds) / 1e9
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
