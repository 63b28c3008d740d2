//! `pm agent`: this machine's part of a cluster, in the foreground.
//!
//! ```text
//! lock the data directory ─► settings ─► joined? ── no ─► join (once) ─┐
//!                                           └─ yes ──────────────────┤
//!   port (TLS) ─► heart, router: serve from what is on disk ─► pacemaker ─► tell the cluster, renew, follow
//! ```
//! A node that has joined needs nobody to start: heart and router go on from their disks before any
//! pacemaker answers. Owns the order of the start and of the end, the one port ([`http`]), the log
//! ([`telemetry`]) and the process ([`process`]); `pm dev` shares them. The roles own everything else.

pub(crate) mod applications;
pub(crate) mod directory;
pub(crate) mod http;
mod join;
mod membership;
mod node;
pub(crate) mod node_directory;
pub(crate) mod plan;
pub(crate) mod process;
mod renewal;
pub(crate) mod roles;
pub(crate) mod start;
pub(crate) mod telemetry;

pub(crate) use join::remembered;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::agent::node::RunningNode;
use crate::agent::node_directory::NodeDirectory;
use crate::agent::process::Signals;
use crate::agent::roles::Roles;
use crate::args::agent::{AgentArguments, NodeSettings};
use crate::configuration;
use crate::error::{CommandError, code};
use crate::output::Output;
use crate::progress::write_stderr;

/// Runs the node until a signal.
pub(crate) fn run(arguments: AgentArguments, output: Output) -> Result<(), CommandError> {
    let AgentArguments {
        configuration,
        settings: mut given,
        join_file,
        verbose,
        stop,
    } = arguments;
    if let Some(path) = join_file {
        given.join = Some(join::token_in(&path)?);
    }
    let settings = configuration::settings(&configuration, given.clone())?;
    let directory = configuration::data_directory(&settings);
    if stop {
        return stop_applications(&NodeDirectory::lock_existing(&directory)?, output);
    }
    let directory = NodeDirectory::lock(&directory)?;
    let level = if verbose {
        LevelFilter::INFO
    } else {
        LevelFilter::WARN
    };
    telemetry::start(&directory.path().join("pm.log"), level)
        .map_err(|error| CommandError::file("open the log of the roles", &error))?;
    process::die_on_panic();
    process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::file("start the runtime", &error))?;
    let result = runtime.block_on(foreground(directory, settings, given, output));
    // A task that hangs must not keep the process: what matters is on disk.
    runtime.shutdown_background();
    result
}

async fn foreground(
    directory: NodeDirectory,
    settings: NodeSettings,
    given: NodeSettings,
    output: Output,
) -> Result<(), CommandError> {
    let mut signals = Signals::listen()?;
    let mut roles = Roles::new(CancellationToken::new());
    let starting = async {
        let identity = match directory.identity()? {
            Some(identity) => identity,
            None => join_now(&directory, &settings, &given).await?,
        };
        let settings = settings.or(directory.record()?.given);
        RunningNode::start(Arc::new(directory), identity, settings, &mut roles).await
    };
    let started = tokio::select! {
        node = starting => node.map(Some),
        _ = signals.next() => Ok(None),
    };
    let node = match started {
        Ok(Some(node)) => node,
        Ok(None) => return end(roles).await,
        Err(error) => {
            roles.abandon().await;
            return Err(error);
        }
    };
    announce(&node, output)?;
    tokio::select! {
        _ = signals.next() => end(roles).await,
        failure = roles.failure() => {
            tracing::error!(error = format!("{failure:#}"), "a role ended; the process ends");
            roles.abandon().await;
            Err(CommandError::new(code::FAILED, "keep the node running", format!("{failure:#}"))
                .next("start it again; applications go on running meanwhile"))
        }
    }
}

/// Stops what an agent has left running.
fn stop_applications(directory: &NodeDirectory, output: Output) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::file("start the runtime", &error))?;
    let running = applications::running(&directory.role("heart"));
    runtime.block_on(applications::stop(&running))?;
    output.result(&serde_json::json!({ "stopped": running.len() }), |_| {
        format!("Stopped {} application processes.", running.len())
    })
}

async fn join_now(
    directory: &NodeDirectory,
    settings: &NodeSettings,
    given: &NodeSettings,
) -> Result<pacemaker_client::tls::NodeIdentity, CommandError> {
    let Some(token) = &settings.join else {
        let path = directory.path().display();
        return Err(CommandError::new(
            code::NOT_JOINED,
            "start this node",
            format!("the data directory {path} belongs to no cluster yet"),
        )
        .next(
            "on the first machine: `pm cluster init`; on every other one: `pm agent --join TOKEN`, with a token of `pm cluster token`",
        ));
    };
    join::run(directory, token, settings, given).await
}

fn announce(node: &RunningNode, output: Output) -> Result<(), CommandError> {
    if output.is_json() {
        return output.result(&node.addresses, |_| String::new());
    }
    let roles: Vec<String> = node.roles.iter().map(crate::output::word).collect();
    write_stderr(&format!(
        "Node {} of cluster {} runs: {}\nAPI     {}",
        node.addresses.node,
        node.cluster,
        roles.join(" "),
        node.addresses.api,
    ));
    if let Some(router) = &node.addresses.router {
        write_stderr(&format!("Router  {router}"));
    }
    write_stderr(&format!("Data    {}", node.data.display()));
    Ok(())
}

/// Ends the roles; the applications go on.
async fn end(roles: Roles) -> Result<(), CommandError> {
    roles
        .stop()
        .await
        .map_err(|error| CommandError::new(code::FAILED, "end in order", format!("{error:#}")))
}
