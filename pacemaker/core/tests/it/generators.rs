//! Makers of test data: manifests' specs, nodes, packages, and proptest's strategies.

use std::collections::{BTreeMap, BTreeSet};

use common::application::{
    InstanceTypeSpec, PlacementSpec, PrepareSpec, Program, RUNTIME_SHELL, RuntimeSpec, ShellScript,
    StopSpec, VersionSpec,
};
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{ApplicationName, HostPattern, InstanceTypeName, PluginName};
use common::node::{NodeDescription, Role};
use common::time::Span;

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
