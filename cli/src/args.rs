//! What can be typed: the clap types, kept apart from what they do.
//!
//! Secrets are never arguments: an argument can be read by every user of the machine.

pub(crate) mod agent;
pub(crate) mod cluster;
pub(crate) mod cron;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use common::id::{
    ApplicationName, InstanceId, InstanceTypeName, JobId, VersionNumber, WorkspaceStub,
};
use serde::{Deserialize, Serialize};

use crate::args::agent::AgentArguments;
use crate::args::cluster::{ClusterVerb, NodeVerb};
use crate::args::cron::CronVerb;

/// Exit codes, said once for `pm --help`.
const AFTER_HELP: &str = "\
Results go to stdout, progress to stderr. With --format json stdout has one JSON value (`pm dev` and
`pm logs` have several, see their help) and no progress is shown; an error is one JSON object on stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted while following work that goes on.";

/// Paasmaker: deploys applications and serves them.
#[derive(Debug, Parser)]
#[command(name = "pm", version, after_help = AFTER_HELP, propagate_version = false)]
pub(crate) struct Arguments {
    /// What every verb understands.
    #[command(flatten)]
    pub(crate) global: GlobalArguments,
    /// The verb.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct GlobalArguments {
    /// How results look.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// The cluster's API, such as https://10.0.0.1:4250; several may be given with
    /// commas between them; otherwise the one that `pm login` or `pm dev` chose.
    /// The token comes from PM_TOKEN or from that login.
    #[arg(long, global = true, env = "PM_URL", value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// A file with the certificate (PEM) of the cluster's authority; otherwise the one that the login kept.
    #[arg(long, global = true, env = "PM_CA", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
    /// The workspace that applications are looked up in.
    #[arg(
        long,
        global = true,
        env = "PM_WORKSPACE",
        value_name = "STUB",
        default_value = "default"
    )]
    pub(crate) workspace: WorkspaceStub,
}

/// How results look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Human,
    /// One JSON value.
    Json,
}

/// Everything that `pm` can be told to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a whole cluster on this machine, in the foreground, for development.
    Dev(DevArguments),
    /// Run this machine's part of a cluster, in the foreground; a supervisor such as systemd keeps it running.
    Agent(Box<AgentArguments>),
    /// Remember a cluster's address and token for this user.
    Login(LoginArguments),
    /// Check a manifest without contacting a cluster.
    Validate(ValidateArguments),
    /// Deploy a directory as a new version of its application and follow the deployment.
    Deploy(DeployArguments),
    /// Show an application, or all applications of the workspace.
    Status {
        /// Only this application.
        application: Option<ApplicationName>,
    },
    /// List an application's versions and move them between states.
    #[command(subcommand)]
    Version(VersionVerb),
    /// Go back to the version that was current before.
    Rollback {
        /// The application.
        application: ApplicationName,
        /// Do not wait for it.
        #[arg(long)]
        detach: bool,
    },
    /// Change how many instances of the current version run.
    Scale(ScaleArguments),
    /// Show what an application writes.
    Logs(LogsArguments),
    /// List, show, follow and abort jobs.
    #[command(subcommand)]
    Job(JobVerb),
    /// List, run, suspend and resume an application's web crons, and show how they went.
    #[command(subcommand)]
    Cron(CronVerb),
    /// Show where hostnames go.
    #[command(subcommand)]
    Route(RouteVerb),
    /// Explain why something is as it is.
    Why {
        /// An application's name, `instance:NUMBER` or `job:NUMBER`.
        #[arg(value_name = "APP|instance:N|job:N")]
        subject: Subject,
    },
    /// List and create workspaces.
    #[command(subcommand)]
    Workspace(WorkspaceVerb),
    /// Make a cluster, let machines join it, and show how it stands.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// List, show, drain and remove the machines of the cluster.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Arguments of `pm dev`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Ctrl-C ends the cluster and stops the applications. When it is ended any other way (SIGTERM, a crash, kill -9)
the applications go on running, and `pm dev` in the same directory takes them over again; `pm dev --stop`
stops them.
With --format json stdout has one object with the addresses once the cluster runs and, with --deploy, a second
one with what was deployed.
The limit on open files is raised as far as the system allows; applications inherit it.")]
pub(crate) struct DevArguments {
    /// Deploy this directory once the cluster runs, and print where it answers.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) deploy: Option<PathBuf>,
    /// Where everything is kept; made if it does not exist.
    #[arg(long, value_name = "DIR", default_value = ".paasmaker", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: PathBuf,
    /// The port of the API on 127.0.0.1; 0 chooses a free one.
    #[arg(long, value_name = "PORT", default_value_t = 4250)]
    pub(crate) api_port: u16,
    /// The port of the router on 127.0.0.1; 0 chooses a free one.
    #[arg(long, value_name = "PORT", default_value_t = 4253)]
    pub(crate) router_port: u16,
    /// The range of ports for instances; below 32768, so that no outgoing connection can take one.
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-23999")]
    pub(crate) instance_ports: PortRange,
    /// Appended to every generated hostname; fixed by the first start in a data directory.
    #[arg(long, value_name = "HOSTNAME", default_value = "localhost")]
    pub(crate) cluster_hostname: String,
    /// How long the version before stays warm after a switch, in seconds; fixed by the first start.
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub(crate) watch_window: Option<u64>,
    /// Also show what the roles log at level info; without it warnings are shown, and the file pm.log
    /// in the data directory has everything.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Stop the applications that run from the data directory, and end.
    #[arg(long, conflicts_with = "deploy")]
    pub(crate) stop: bool,
}

/// An inclusive range of ports, written `FIRST-LAST`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PortRange(pub(crate) std::ops::RangeInclusive<u16>);

impl std::str::FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "expected FIRST-LAST, such as 20000-23999";
        let (first, last) = text.split_once('-').ok_or(RULE)?;
        let (first, last): (u16, u16) = (
            first.parse().map_err(|_| RULE)?,
            last.parse().map_err(|_| RULE)?,
        );
        if first == 0 || first > last {
            return Err(RULE);
        }
        Ok(Self(first..=last))
    }
}

impl TryFrom<String> for PortRange {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.0.start(), range.0.end())
    }
}

/// Arguments of `pm login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// The cluster's API, such as http://127.0.0.1:4250.
    #[arg(value_hint = ValueHint::Url)]
    pub(crate) cluster: String,
    /// Read the token from standard input; without it PM_TOKEN, or a token that is already known for this
    /// URL, is used.
    #[arg(long)]
    pub(crate) token_stdin: bool,
    /// The SHA-256 of the certificate of the cluster's authority, as the middle part of a join token has it;
    /// the authority is then asked for at the URL and kept. With https only.
    #[arg(long, value_name = "HEX")]
    pub(crate) fingerprint: Option<common::digest::Digest>,
}

/// Arguments of `pm validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArguments {
    /// The directory whose manifest.yml is checked, or a manifest file.
    #[arg(default_value = ".", value_hint = ValueHint::AnyPath)]
    pub(crate) directory: PathBuf,
    /// Print the JSON Schema of manifests instead, for editors.
    #[arg(long)]
    pub(crate) schema: bool,
}

/// Arguments of `pm deploy`.
#[derive(Debug, Args)]
pub(crate) struct DeployArguments {
    /// The directory to deploy.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// The manifest; otherwise manifest.yml in the directory.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,
    /// Start the new version beside the current one, and stop there.
    #[arg(long)]
    pub(crate) no_promote: bool,
    /// Print the job and do not wait for it.
    #[arg(long)]
    pub(crate) detach: bool,
}

/// Verbs about versions.
#[derive(Debug, Subcommand)]
pub(crate) enum VersionVerb {
    /// List the versions of an application.
    List {
        /// The application.
        application: ApplicationName,
    },
    /// Start a version's instances beside the current version.
    Start(VersionTarget),
    /// Stop a version's instances; they stay laid out on their nodes.
    Stop(VersionTarget),
    /// Make a version current.
    Promote(VersionTarget),
    /// Remove a version's instances from their nodes.
    Deregister(VersionTarget),
}

/// One version of an application.
#[derive(Debug, Args)]
pub(crate) struct VersionTarget {
    /// The application.
    pub(crate) application: ApplicationName,
    /// The version's number.
    pub(crate) version: VersionNumber,
    /// Do not wait for it.
    #[arg(long)]
    pub(crate) detach: bool,
}

/// Arguments of `pm scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArguments {
    /// The application.
    pub(crate) application: ApplicationName,
    /// New quantities, such as web=3.
    #[arg(required = true, value_name = "TYPE=N")]
    pub(crate) quantities: Vec<Quantity>,
    /// Do not wait until that many run.
    #[arg(long)]
    pub(crate) detach: bool,
}

/// A quantity for an instance type, written `web=3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantity {
    /// Of what.
    pub(crate) instance_type: InstanceTypeName,
    /// How many.
    pub(crate) quantity: u32,
}

impl std::str::FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((instance_type, quantity)) = text.split_once('=') else {
            return Err("expected TYPE=N, such as web=3".to_owned());
        };
        Ok(Self {
            instance_type: instance_type
                .parse()
                .map_err(|error: common::id::NameError| error.to_string())?,
            quantity: quantity
                .parse()
                .map_err(|_| format!("`{quantity}` is not a number of instances"))?,
        })
    }
}

/// Arguments of `pm logs`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With --format json each line is one object on a line of its own: {\"instance\": N, \"type\": TYPE, \"line\": TEXT}.")]
pub(crate) struct LogsArguments {
    /// The application.
    pub(crate) application: ApplicationName,
    /// Go on showing what is written, also by instances that start later.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only instances of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) instance_type: Option<InstanceTypeName>,
    /// Only this instance, of any version.
    #[arg(long, value_name = "N")]
    pub(crate) instance: Option<InstanceId>,
    /// How many lines of each instance's past to show.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: u32,
}

/// Verbs about jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobVerb {
    /// List jobs, newest first.
    List {
        /// Only of this application.
        application: Option<ApplicationName>,
        /// At most this many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show a job and its steps.
    Show {
        /// The job's number.
        job: JobId,
    },
    /// Follow a job until it ends; fails when the job fails.
    Follow {
        /// The job's number.
        job: JobId,
    },
    /// End a job that is under way; what it started is undone.
    Abort {
        /// The job's number.
        job: JobId,
    },
}

/// Verbs about routes.
#[derive(Debug, Subcommand)]
pub(crate) enum RouteVerb {
    /// List hostnames and the instances that answer for them.
    List,
}

/// Verbs about workspaces.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceVerb {
    /// List the workspaces.
    List,
    /// Make a workspace.
    Create {
        /// The name in hostnames and on the command line.
        stub: WorkspaceStub,
        /// The display name; otherwise the stub.
        #[arg(long)]
        name: Option<String>,
        /// A tag that applications see in PM_METADATA, as KEY=VALUE; may be repeated.
        #[arg(long = "tag", value_name = "KEY=VALUE")]
        tags: Vec<Tag>,
    },
}

/// A tag, written `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Left of the first equals sign.
    pub(crate) key: String,
    /// Right of it.
    pub(crate) value: String,
}

impl std::str::FromStr for Tag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            Some(_) | None => Err("expected KEY=VALUE"),
        }
    }
}

/// What `pm why` is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// An application of the workspace.
    Application(ApplicationName),
    /// An instance.
    Instance(InstanceId),
    /// A job.
    Job(JobId),
}

impl std::str::FromStr for Subject {
    type Err = String;

    /// A bare word is always an application: an application may be called `12`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| format!("`{digits}` is not a number");
        if let Some(digits) = text.strip_prefix("instance:") {
            return digits
                .parse()
                .map(Self::Instance)
                .map_err(|_| number(digits));
        }
        if let Some(digits) = text.strip_prefix("job:") {
            return digits.parse().map(Self::Job).map_err(|_| number(digits));
        }
        text.parse()
            .map(Self::Application)
            .map_err(|error: common::id::NameError| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn subjects_of_why_are_told_apart() {
        assert_eq!("job:3".parse(), Ok(Subject::Job(JobId(3))));
        assert_eq!("instance:12".parse(), Ok(Subject::Instance(InstanceId(12))));
        assert!(matches!("12".parse(), Ok(Subject::Application(_))));
        assert!("job:x".parse::<Subject>().is_err());
        assert!("a b".parse::<Subject>().is_err());
    }

    #[test]
    fn quantities_and_ranges_are_checked() {
        assert!("web=3".parse::<Quantity>().is_ok());
        assert!("web".parse::<Quantity>().is_err());
        assert!("web=-1".parse::<Quantity>().is_err());
        assert!("20000-20010".parse::<PortRange>().is_ok());
        assert!("2-1".parse::<PortRange>().is_err());
    }
}
