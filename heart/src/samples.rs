//! Assignments for unit tests.

use std::collections::BTreeMap;

use common::application::{Program, RuntimeSpec, ShellScript, StopSpec};
use common::assignment::{AssignedBuild, AssignedInstance, Assignment, PackageReference, Subject};
use common::digest::Digest;
use common::id::{
    ApplicationId, ApplicationName, Generation, InstanceId, InstanceTypeName, JobId, NodeId,
    PluginName, VersionId, VersionNumber, WorkspaceStub,
};
use common::instance::InstanceGoal;
use common::time::Span;

use crate::local::{Entry, Held};
use crate::shim::{ProcessIdentity, ProcessRecord};

/// An assignment of generation 1 with these instances.
pub(crate) fn assignment(instances: Vec<AssignedInstance>) -> Assignment {
    Assignment {
        cluster: String::new(),
        node_ttl: Span(0),
        node: NodeId(1),
        term: 1,
        generation: Generation(1),
        instances,
        builds: Vec::new(),
    }
}

/// An instance that should run a web server.
pub(crate) fn instance(id: u64) -> AssignedInstance {
    AssignedInstance {
        id: InstanceId(id),
        goal: InstanceGoal::Running,
        subject: subject(),
        instance_type: InstanceTypeName::parse("web").unwrap(),
        package: package("package"),
        runtime: RuntimeSpec {
            plugin: PluginName::parse("paasmaker.runtime.shell").unwrap(),
            version: "1".to_owned(),
            program: Program::Command {
                launch_command: "serve %(port)d".to_owned(),
            },
        },
        startup: Vec::new(),
        env: BTreeMap::new(),
        services: BTreeMap::new(),
        standalone: false,
        exclusive: false,
        health: None,
        stop: StopSpec::default(),
        start_timeout: Span::seconds(20),
        standalone_wait: Span::seconds(5),
        cron_key: None,
    }
}

/// A build of one command.
pub(crate) fn build(job: u64) -> AssignedBuild {
    AssignedBuild {
        job: JobId(job),
        subject: subject(),
        source: package("source"),
        runtime: None,
        scripts: vec![ShellScript {
            commands: vec!["true".to_owned()],
        }],
        env: BTreeMap::new(),
        services: BTreeMap::new(),
        timeout: Span::seconds(60),
    }
}

/// A reference to a package of this content.
pub(crate) fn package(content: &str) -> PackageReference {
    PackageReference {
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
    }
}

fn subject() -> Subject {
    Subject {
        application_id: ApplicationId(5),
        application: ApplicationName::parse("hello").unwrap(),
        version: VersionNumber(1),
        version_id: VersionId(7),
        workspace: "Test".to_owned(),
        workspace_stub: WorkspaceStub::parse("test").unwrap(),
        workspace_tags: BTreeMap::new(),
    }
}

/// An instance that nothing has been done for yet.
pub(crate) fn held(assigned: &AssignedInstance) -> Held {
    Held::idle(Entry::new(assigned, "boot"))
}

/// An instance whose directory is complete.
pub(crate) fn laid_out(assigned: &AssignedInstance) -> Held {
    let mut held = held(assigned);
    held.entry.is_laid_out = true;
    held
}

/// A process of this boot.
pub(crate) fn process(pid: u32) -> ProcessRecord {
    let identity = |pid| ProcessIdentity {
        pid,
        start_time_ticks: 1,
        boot_id: "boot".to_owned(),
    };
    let text = serde_json::json!({"shim": identity(pid), "application": identity(pid + 1)});
    serde_json::from_value(text).unwrap()
}
