//! What a checked manifest says: the parts of a version of an application.
//!
//! [`manifest::parse`](crate::manifest::parse) makes a [`VersionSpec`] from text. Everything here
//! has passed the checks and carries its defaults, so the core never asks "was it given?".

mod cron;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{ApplicationName, HostPattern, InstanceTypeName, PluginName, ServiceName};
use crate::time::Span;

pub use cron::{CronKey, CronMethod, CronSpec, MissedPolicy, Overlap};

/// One version of an application as its manifest describes it, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionSpec {
    /// The application that this is a version of.
    pub application: ApplicationName,
    /// What is done once to the source before it can run; none means that the source is the package.
    #[serde(default)]
    pub prepare: Option<PrepareSpec>,
    /// Kept in the order of the manifest; names are unique.
    pub instance_types: Vec<InstanceTypeSpec>,
    /// Kept in the order of the manifest; names are unique.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
}

/// The commands that turn a source into a package, run by a builder node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrepareSpec {
    /// The runtime whose environment the commands see.
    #[serde(default)]
    pub runtime: Option<RuntimeSpec>,
    /// At least one script, run in order in the unpacked source.
    pub scripts: Vec<ShellScript>,
    /// Variables for the commands: the application's `env`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// One `commands` list: the lines of one bash script that stops at the first failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShellScript {
    /// The lines, as written.
    pub commands: Vec<String>,
}

/// A runtime plugin, the version asked for, and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeSpec {
    /// For example `paasmaker.runtime.shell`.
    pub plugin: PluginName,
    /// Always text: `1` in the manifest is `"1"` here.
    pub version: String,
    /// What to run.
    pub program: Program,
}

/// What a runtime runs, from its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Program {
    /// Nothing to run: the runtime only supplies an environment (`prepare.runtime`).
    Environment,
    /// A command split into words, with `%(port)d` still in it; executed without a shell.
    Command {
        /// The command as the manifest wrote it.
        launch_command: String,
    },
    /// Files served by `pm` itself.
    Static {
        /// Relative to the instance's directory; never leaves it.
        document_root: String,
    },
    /// A plugin that this release cannot run: no node offers it, so the core refuses the version
    /// and lists what is offered. Its parameters are not kept.
    Unsupported,
}

/// A set of equal processes of a version: a web server, a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceTypeSpec {
    /// Unique in the version.
    pub name: InstanceTypeName,
    /// How many instances the manifest asks for.
    pub quantity: u32,
    /// How an instance is run.
    pub runtime: RuntimeSpec,
    /// Run in the instance's directory before each start that the cluster orders; not before a restart
    /// in place after a crash.
    #[serde(default)]
    pub startup: Vec<ShellScript>,
    /// Where instances may be placed.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// Routed to the current version.
    #[serde(default)]
    pub hostnames: Vec<HostPattern>,
    /// No port, never routed.
    #[serde(default)]
    pub standalone: bool,
    /// Only the current version's instances run; break before make.
    #[serde(default)]
    pub exclusive: bool,
    /// `application.env` with the type's own `env` over it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// None: the port in LISTEN is enough.
    #[serde(default)]
    pub health: Option<HealthSpec>,
    /// How an instance is stopped.
    #[serde(default)]
    pub stop: StopSpec,
    /// How long until the port must be in LISTEN (`start_timeout`).
    pub start_timeout: Span,
    /// How long a standalone process must survive (`standalone_wait`).
    pub standalone_wait: Span,
    /// Kept in the order of the manifest; names are unique. Empty for a standalone type, which has
    /// no port that could be asked.
    #[serde(default)]
    pub crons: Vec<CronSpec>,
}

/// Constraints of the default placement plugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementSpec {
    /// Each must equal the node's tag of the same name.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
    /// The only zone that will do.
    #[serde(default)]
    pub zone: Option<String>,
    /// True when instances are to be spread over zones before nodes.
    #[serde(default)]
    pub spread_zones: bool,
}

/// When an instance counts as healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthSpec {
    /// Begins with a slash; answered with a status below 400 by a healthy instance.
    pub path: String,
    /// Time between probes.
    pub interval: Span,
    /// Time that an answer may take.
    pub timeout: Span,
    /// Failed probes in a row until no traffic is sent.
    pub unhealthy_after: u32,
    /// Failed probes in a row until a restart; 0 never.
    pub restart_after: u32,
}

/// How a process is asked to end, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopSpec {
    /// The signal's number.
    pub signal: StopSignal,
    /// Time between the signal and SIGKILL.
    pub grace: Span,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self {
            signal: StopSignal::Term,
            grace: Span::seconds(30),
        }
    }
}

/// The signals that a manifest may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM, the default.
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGKILL: no grace.
    Kill,
}

/// Something that an application uses and the platform provides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceSpec {
    /// The name in `PM_SERVICES`.
    pub name: ServiceName,
    /// Who provides it.
    pub plugin: PluginName,
    /// Given to the plugin.
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
}

/// The runtime plugins of this release, with the versions that each offers everywhere.
pub const RUNTIME_SHELL: &str = "paasmaker.runtime.shell";
/// Files served by `pm` itself.
pub const RUNTIME_STATIC: &str = "paasmaker.runtime.static";
/// The service whose credentials are its parameters.
pub const SERVICE_PARAMETERS: &str = "paasmaker.service.parameters";
