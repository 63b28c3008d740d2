//! Makers of test data: manifests' specs, nodes, packages, and proptest's strategies.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{
    CronSpec, InstanceTypeSpec, MissedPolicy, Overlap, PlacementSpec, PrepareSpec, Program,
    RUNTIME_SHELL, RuntimeSpec, ShellScript, StopSpec, VersionSpec,
};
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{ApplicationName, HostPattern, InstanceTypeName, PluginName};
use common::instance::InstanceState;
use common::node::{NodeDescription, Role};
use common::time::Span;
use proptest::prelude::*;

use crate::crons::world::cron;

pub(crate) const CLUSTER_HOSTNAME: &str = "cluster.test";

pub(crate) fn package(content: &str) -> PackageReference {
    PackageReference {
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
    }
}

pub(crate) fn shell_runtime() -> RuntimeSpec {
    RuntimeSpec {
        plugin: PluginName::parse(RUNTIME_SHELL).unwrap(),
        version: "1".to_owned(),
        program: Program::Command {
            launch_command: "serve %(port)d".to_owned(),
        },
    }
}

pub(crate) fn instance_type(name: &str, quantity: u32) -> InstanceTypeSpec {
    InstanceTypeSpec {
        name: InstanceTypeName::parse(name).unwrap(),
        quantity,
        runtime: shell_runtime(),
        startup: Vec::new(),
        placement: PlacementSpec::default(),
        hostnames: Vec::new(),
        standalone: false,
        exclusive: false,
        env: BTreeMap::new(),
        health: None,
        stop: StopSpec {
            grace: Span(300),
            ..StopSpec::default()
        },
        start_timeout: Span::seconds(20),
        standalone_wait: Span::seconds(5),
        crons: Vec::new(),
    }
}

pub(crate) fn exclusive_type(name: &str, quantity: u32) -> InstanceTypeSpec {
    InstanceTypeSpec {
        exclusive: true,
        ..instance_type(name, quantity)
    }
}

pub(crate) fn standalone_type(name: &str, quantity: u32) -> InstanceTypeSpec {
    InstanceTypeSpec {
        standalone: true,
        ..instance_type(name, quantity)
    }
}

pub(crate) fn with_hostname(spec: InstanceTypeSpec, hostname: &str) -> InstanceTypeSpec {
    InstanceTypeSpec {
        hostnames: vec![HostPattern::parse(hostname).unwrap()],
        ..spec
    }
}

pub(crate) fn version_spec(
    application: &str,
    instance_types: Vec<InstanceTypeSpec>,
) -> VersionSpec {
    VersionSpec {
        application: ApplicationName::parse(application).unwrap(),
        prepare: None,
        instance_types,
        services: Vec::new(),
    }
}

pub(crate) fn with_prepare(spec: VersionSpec) -> VersionSpec {
    VersionSpec {
        prepare: Some(PrepareSpec {
            runtime: Some(shell_runtime()),
            scripts: vec![ShellScript {
                commands: vec!["make".to_owned()],
            }],
            env: BTreeMap::new(),
        }),
        ..spec
    }
}

pub(crate) fn node(number: u64, roles: &[Role]) -> NodeDescription {
    let has_heart = roles.contains(&Role::Heart);
    NodeDescription {
        key: format!("key-{number}"),
        name: format!("node{number}"),
        roles: roles.iter().copied().collect::<BTreeSet<Role>>(),
        address: format!("10.0.0.{number}").parse().unwrap(),
        api: format!("http://10.0.0.{number}:4250"),
        tags: BTreeMap::new(),
        zone: None,
        runtimes: if has_heart {
            BTreeMap::from([(
                PluginName::parse(RUNTIME_SHELL).unwrap(),
                vec!["1".to_owned()],
            )])
        } else {
            BTreeMap::new()
        },
    }
}

/// One thing that happens to the core in a property's run; numbers are taken modulo what is there.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Register {
        node: u64,
        is_heart: bool,
        is_router: bool,
    },
    Drain(u8),
    Undrain(u8),
    Remove(u8),
    CreateWorkspace {
        number: u8,
    },
    Deploy {
        application: u8,
        quantity: u32,
        shape: Shape,
        promote: bool,
    },
    Start(Target),
    Stop(Target),
    Promote(Target),
    Deregister(Target),
    Rollback(u8),
    Scale {
        application: u8,
        quantity: u32,
    },
    Abort(u8),
    /// The same deployment twice with one key.
    Once {
        key: u8,
        application: u8,
    },
    /// A heart does what it was told, up to a point.
    HeartFollows {
        node: u8,
        progress: u8,
    },
    /// A heart says anything about anything.
    HeartBabbles {
        node: u8,
        instances: Vec<(u8, InstanceState, Option<u16>)>,
        assignment: u8,
    },
    RouterFollows {
        node: u8,
        in_flight: Option<u8>,
    },
    RouterLags {
        node: u8,
    },
    Wait(u64),
    Elect,
    /// The leader's plan is carried out.
    Act,
    /// A plan of long ago is carried out.
    ActLate(u8),
    /// A leader whose clock is so many minutes ahead decides about crons.
    DecideCrons(u8),
    /// What was decided long ago is committed.
    DecideCronsLate(u8),
    /// Whoever makes requests says anything about them.
    ReportCrons(u8),
    RunCron(u8),
    SuspendCron(u8),
    ResumeCron(u8),
    AbandonCrons(u8),
}

/// Which version of which application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) application: u8,
    pub(crate) version: u8,
}

/// What a deployment is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) has_prepare: bool,
    pub(crate) has_exclusive: bool,
    pub(crate) has_standalone: bool,
    pub(crate) hostname: Option<u8>,
    pub(crate) cron: Option<Overlap>,
}

impl Shape {
    pub(crate) fn spec(self, application: u8, quantity: u32) -> VersionSpec {
        let mut web = instance_type("web", quantity);
        if let Some(number) = self.hostname {
            web = with_hostname(web, &format!("host{number}.example.com"));
        }
        if let Some(overlap) = self.cron {
            let tick = CronSpec {
                overlap,
                retries: 1,
                missed: MissedPolicy::Once,
                ..cron("tick", "* * * * *")
            };
            web.crons = vec![tick, cron("tock", "*/3 * * * *")];
        }
        let mut types = vec![web];
        if self.has_exclusive {
            types.push(exclusive_type("single", 1));
        }
        if self.has_standalone {
            types.push(standalone_type("work", quantity.min(2)));
        }
        let spec = version_spec(&format!("app{application}"), types);
        if self.has_prepare {
            with_prepare(spec)
        } else {
            spec
        }
    }
}

/// Runs of things that happen, with enough that leads somewhere.
pub(crate) fn ops(count: usize) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..count)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1..5_u64, any::<bool>(), any::<bool>()).prop_map(|(node, is_heart, is_router)| {
            Op::Register { node, is_heart, is_router }
        }),
        2 => any::<u8>().prop_map(Op::Drain),
        2 => any::<u8>().prop_map(Op::Undrain),
        1 => any::<u8>().prop_map(Op::Remove),
        1 => any::<u8>().prop_map(|number| Op::CreateWorkspace { number }),
        8 => (0..3_u8, 0..4_u32, shape(), any::<bool>()).prop_map(
            |(application, quantity, shape, promote)| Op::Deploy {
                application, quantity, shape, promote,
            }
        ),
        2 => target().prop_map(Op::Start),
        2 => target().prop_map(Op::Stop),
        3 => target().prop_map(Op::Promote),
        2 => target().prop_map(Op::Deregister),
        2 => any::<u8>().prop_map(Op::Rollback),
        3 => (any::<u8>(), 0..5_u32).prop_map(|(application, quantity)| Op::Scale {
            application, quantity,
        }),
        2 => any::<u8>().prop_map(Op::Abort),
        1 => (0..3_u8, 0..3_u8).prop_map(|(key, application)| Op::Once { key, application }),
        20 => (any::<u8>(), any::<u8>()).prop_map(|(node, progress)| Op::HeartFollows {
            node, progress,
        }),
        4 => (any::<u8>(), proptest::collection::vec(babble(), 0..6), any::<u8>()).prop_map(
            |(node, instances, assignment)| Op::HeartBabbles { node, instances, assignment }
        ),
        12 => (any::<u8>(), proptest::option::weighted(0.2, any::<u8>())).prop_map(
            |(node, in_flight)| Op::RouterFollows { node, in_flight }
        ),
        2 => any::<u8>().prop_map(|node| Op::RouterLags { node }),
        4 => prop_oneof![1..200_u64, 1_000..4_000_u64].prop_map(Op::Wait),
        1 => Just(Op::Elect),
        20 => Just(Op::Act),
        3 => any::<u8>().prop_map(Op::ActLate),
        4 => (0..6_u8).prop_map(Op::DecideCrons),
        1 => any::<u8>().prop_map(Op::DecideCronsLate),
        3 => any::<u8>().prop_map(Op::ReportCrons),
        1 => any::<u8>().prop_map(Op::RunCron),
        1 => any::<u8>().prop_map(Op::SuspendCron),
        1 => any::<u8>().prop_map(Op::ResumeCron),
        1 => any::<u8>().prop_map(Op::AbandonCrons),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    (any::<u8>(), 1..5_u8).prop_map(|(application, version)| Target {
        application,
        version,
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        proptest::bool::weighted(0.2),
        any::<bool>(),
        proptest::bool::weighted(0.3),
        proptest::option::weighted(0.4, 0..3_u8),
        proptest::option::weighted(0.6, overlap()),
    )
        .prop_map(
            |(has_prepare, has_exclusive, has_standalone, hostname, cron)| Shape {
                has_prepare,
                has_exclusive,
                has_standalone,
                hostname,
                cron,
            },
        )
}

fn overlap() -> impl Strategy<Value = Overlap> {
    prop_oneof![
        Just(Overlap::Allow),
        Just(Overlap::Forbid),
        Just(Overlap::Replace)
    ]
}

fn babble() -> impl Strategy<Value = (u8, InstanceState, Option<u16>)> {
    let states = prop_oneof![
        Just(InstanceState::Allocated),
        Just(InstanceState::Registered),
        Just(InstanceState::Starting),
        Just(InstanceState::Running),
        Just(InstanceState::Stopping),
        Just(InstanceState::Stopped),
        Just(InstanceState::Failed),
        Just(InstanceState::Lost),
    ];
    // Few ports, so that they are claimed twice.
    let ports = proptest::option::of(20_000..20_004_u16);
    (any::<u8>(), states, ports)
}
