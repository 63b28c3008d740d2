//! The `pm` command: reads what was typed, does it, and ends with an exit code.
//!
//! `pm shim` and `pm static` are started by the heart once per instance; they are dispatched before
//! anything else is set up, because they must start fast and stay small.

mod access;
mod agent;
mod args;
mod cluster;
mod completions;
mod configuration;
mod connection;
mod credentials;
mod cron;
mod deploy;
mod dev;
mod error;
mod follow;
mod job;
mod login;
mod logs;
mod manifest;
mod node;
mod output;
mod progress;
mod rollback;
mod route;
mod scale;
mod status;
mod validate;
mod version;
mod why;
mod workspace;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::cluster::ClusterVerb;
use crate::args::{Arguments, GlobalArguments, Verb};
use crate::connection::Connection;
use crate::error::CommandError;
use crate::output::Output;

/// Much less of the processors than the C library's for the control plane and the router, whose
/// requests are many small pieces of memory that other threads give back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(verb) if verb == "shim" => return heart::shim::main(),
        Some(verb) if verb == "static" => return heart::static_site::main(),
        Some(_) | None => {}
    }
    let arguments = Arguments::parse();
    let output = Output::new(arguments.global.format);
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = if output.is_json() {
                error.json()
            } else {
                error.human()
            };
            // Nobody is left to tell when stderr is closed; the exit code still speaks.
            std::io::stderr()
                .lock()
                .write_all(text.as_bytes())
                .unwrap_or_default();
            ExitCode::from(error.exit_code)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), CommandError> {
    let output = Output::new(arguments.global.format);
    match arguments.verb {
        Verb::Cluster(ClusterVerb::Init(verb)) => cluster::init::run(&verb, output),
        Verb::Validate(verb) => validate::run(&verb, output),
        Verb::Completions { shell } => completions::run(shell, output),
        Verb::Agent(verb) => agent::run(*verb, output),
        Verb::Dev(verb) => dev::run(&verb, &arguments.global),
        verb => runtime()?.block_on(talk(verb, &arguments.global)),
    }
}

/// One thread is enough to wait for a cluster.
fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::file("start the runtime", &error))
}

/// The verbs that speak with a cluster.
async fn talk(verb: Verb, global: &GlobalArguments) -> Result<(), CommandError> {
    let opened = std::cell::OnceCell::new();
    let connection = || {
        let connection = Connection::open(global)?;
        let (client, url) = (connection.client.clone(), connection.url.clone());
        opened.set((client, url)).unwrap_or_default();
        Ok::<_, CommandError>(connection)
    };
    let done = match verb {
        Verb::Cluster(ClusterVerb::Init(_)) => unreachable!("done before a runtime was started"),
        Verb::Cluster(verb) => cluster::run(&connection()?, &verb).await,
        Verb::Login(verb) => login::run(&verb, global).await,
        Verb::Deploy(verb) => deploy::run(&verb, global).await,
        Verb::Status { application } => status::run(&connection()?, application.as_ref()).await,
        Verb::Version(verb) => version::run(&connection()?, &verb).await,
        Verb::Rollback {
            application,
            detach,
        } => rollback::run(&connection()?, &application, detach).await,
        Verb::Scale(verb) => scale::run(&connection()?, &verb).await,
        Verb::Logs(verb) => logs::run(&connection()?, &verb).await,
        Verb::Job(verb) => job::run(&connection()?, &verb).await,
        Verb::Cron(verb) => cron::run(&connection()?, &verb).await,
        Verb::Route(verb) => route::run(&connection()?, &verb).await,
        Verb::Why { subject } => why::run(&connection()?, &subject).await,
        Verb::Workspace(verb) => workspace::run(&connection()?, &verb).await,
        Verb::Node(verb) => node::run(&connection()?, &verb).await,
        Verb::Validate(_) | Verb::Completions { .. } | Verb::Dev(_) | Verb::Agent(_) => {
            unreachable!("done before a runtime was started")
        }
    };
    if let (Ok(()), Some((client, url))) = (&done, opened.into_inner()) {
        access::refresh(&client, &url).await;
    }
    done
}
