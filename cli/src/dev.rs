//! `pm dev`: a whole cluster in one process, in the foreground.
//!
//! ```text
//! lock the data directory ─► bind the ports ─► node known? ─ yes ─► heart, router ─► pacemaker ─┐
//!                                                  └── no ─► pacemaker ─► register ─► heart, router ─┤
//!                                                                     log in, deploy, wait for a signal
//! ```
//! A node that is known serves from what is on its disk before the pacemaker has replayed its log.
//! Owns the order of the start and of the end; the roles own everything else.

mod data_directory;
mod node;
mod ports;
mod probe;

use std::path::Path;

use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::access::Access;
use crate::agent::applications;
use crate::agent::process::{self, Ending, Signals};
use crate::agent::roles::Roles;
use crate::agent::telemetry;
use crate::args::{DeployArguments, DevArguments, GlobalArguments};
use crate::connection::Connection;
use crate::credentials::{Login, Logins};
use crate::deploy::{Deployed, deploy};
use crate::dev::data_directory::{Addresses, DataDirectory};
use crate::dev::node::RunningNode;
use crate::error::{CommandError, code};
use crate::output::Output;
use crate::progress::{Progress, write_stderr};

/// Runs the cluster until a signal, or stops what an earlier one left running.
pub(crate) fn run(arguments: &DevArguments, global: &GlobalArguments) -> Result<(), CommandError> {
    let output = Output::new(global.format);
    let data = if arguments.stop {
        DataDirectory::lock_existing(&arguments.data_dir)?
    } else {
        DataDirectory::lock(&arguments.data_dir)?
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::file("start the runtime", &error))?;
    if arguments.stop {
        return runtime.block_on(stop_applications(&data, output));
    }
    let level = if arguments.verbose {
        LevelFilter::INFO
    } else {
        LevelFilter::WARN
    };
    telemetry::start(&data.path().join("pm.log"), level)
        .map_err(|error| CommandError::file("open the log of the roles", &error))?;
    process::die_on_panic();
    process::raise_file_limit();
    let result = runtime.block_on(foreground(arguments, global, &data));
    // A task that hangs must not keep the process: what matters is on disk.
    runtime.shutdown_background();
    result
}

async fn foreground(
    arguments: &DevArguments,
    global: &GlobalArguments,
    data: &DataDirectory,
) -> Result<(), CommandError> {
    let mut signals = Signals::listen()?;
    let output = Output::new(global.format);
    let mut roles = Roles::new(CancellationToken::new());
    let started = tokio::select! {
        node = RunningNode::start(arguments, data, &mut roles) => node.map(Ok),
        ending = signals.next() => Ok(Err(ending)),
    };
    #[cfg(test)]
    roles.watch("faulty role", tokio::spawn(tests::panic()));
    let node = match started {
        Ok(Ok(node)) => {
            telemetry::has_started();
            node
        }
        // Applications of an earlier process may run, and a heart that has started may start others.
        Ok(Err(ending)) => return end(ending, roles, data, output, &mut signals).await,
        Err(error) => {
            roles.abandon().await;
            return Err(error);
        }
    };
    if let Err(error) = log_in(&node) {
        // The cluster is of use without it: PM_URL and PM_TOKEN say the same.
        write_stderr(error.human().trim_end());
    }
    // Last, because whoever waits for this file expects everything else to be done.
    data.keep_addresses(&node.addresses)?;
    announce(&node.addresses, data.path(), output)?;

    let first = {
        let connection = Connection::to(
            Access::plain(&node.addresses.api, &node.administrator_token),
            global.workspace.clone(),
            output,
        )?;
        let router = node.addresses.router.clone();
        let work = first_deployment(arguments, &connection, &router);
        tokio::select! {
            // Following a deployment ends at Ctrl-C too; here that means the whole cluster.
            biased;
            ending = signals.next() => Ok(Some(ending)),
            result = work => result.map(|()| None),
            failure = roles.failure() => Err(role_failed(&failure)),
        }
    };
    let outcome = match first {
        Ok(None) => tokio::select! {
            ending = signals.next() => Ok(ending),
            failure = roles.failure() => Err(role_failed(&failure)),
        },
        Ok(Some(ending)) => Ok(ending),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(ending) => end(ending, roles, data, output, &mut signals).await,
        Err(error) => {
            roles.abandon().await;
            Err(error)
        }
    }
}

/// The first deployment of `--deploy`; when it fails the cluster goes on, so that it can be mended.
async fn first_deployment(
    arguments: &DevArguments,
    connection: &Connection,
    router: &str,
) -> Result<(), CommandError> {
    let output = connection.output;
    let Some(directory) = &arguments.deploy else {
        return Ok(());
    };
    let request = DeployArguments {
        directory: directory.clone(),
        manifest: None,
        no_promote: false,
        detach: false,
    };
    let answered = async {
        let deployed = deploy(connection, &request).await?;
        // A worker has no URL; everything else is asked once, as a browser would.
        let status = match deployed.urls.first() {
            Some(url) => Some(probe::ask(router, url).await?),
            None => None,
        };
        Ok::<_, CommandError>((deployed, status))
    };
    match answered.await {
        Ok((deployed, status)) => output.result(&deployed, |deployed| answers(deployed, status)),
        Err(error) => {
            let text = if output.is_json() {
                error.json()
            } else {
                error.human()
            };
            write_stderr(text.trim_end());
            let next = "The cluster goes on; mend it and `pm deploy` again.";
            connection.progress.line(next);
            Ok(())
        }
    }
}

fn answers(deployed: &Deployed, status: Option<u16>) -> String {
    let Deployed {
        version,
        application,
        ..
    } = deployed;
    match status {
        None => format!("Version {version} of `{application}` runs; it has no hostname."),
        Some(status) => format!(
            "Version {version} of `{application}` answers (status {status}):\n{}",
            deployed.urls.join("\n")
        ),
    }
}

fn role_failed(failure: &anyhow::Error) -> CommandError {
    tracing::error!(
        error = format!("{failure:#}"),
        "a role ended; the process ends"
    );
    CommandError::new(
        code::FAILED,
        "keep the cluster running",
        format!("{failure:#}"),
    )
    .next("start it again; applications go on running meanwhile")
}

fn log_in(node: &RunningNode) -> Result<(), CommandError> {
    let mut logins = Logins::load()?;
    let before = logins.choose(
        &node.addresses.api,
        Some(Login::new(node.administrator_token.clone(), None)),
    );
    logins.save()?;
    if let Some(before) = before {
        write_stderr(&format!(
            "pm is now logged in to this cluster; `pm login {before}` goes back to the one before."
        ));
    }
    Ok(())
}

fn announce(addresses: &Addresses, data: &Path, output: Output) -> Result<(), CommandError> {
    if output.is_json() {
        return output.result(addresses, |_| String::new());
    }
    write_stderr(&format!(
        "API     {}\nRouter  {}\nData    {}\nCtrl-C ends the cluster and stops the applications.",
        addresses.api,
        addresses.router,
        data.display()
    ));
    Ok(())
}

async fn end(
    ending: Ending,
    roles: Roles,
    data: &DataDirectory,
    output: Output,
    signals: &mut Signals,
) -> Result<(), CommandError> {
    let ended = roles
        .stop()
        .await
        .map_err(|error| CommandError::new(code::FAILED, "end in order", format!("{error:#}")));
    // Whatever a role did: nobody would stop the applications later.
    end_applications(ending, data, output, signals)
        .await
        .and(ended)
}

async fn end_applications(
    ending: Ending,
    data: &DataDirectory,
    output: Output,
    signals: &mut Signals,
) -> Result<(), CommandError> {
    let progress = Progress::new(output);
    let running = applications::running(&data.role("heart"));
    if running.is_empty() {
        return Ok(());
    }
    let left = || {
        progress.line(&format!(
            "{} application processes go on running; `pm dev` takes them over again, `pm dev --stop` stops them.",
            running.len()
        ));
    };
    match ending {
        Ending::Terminate => left(),
        Ending::Interrupt => {
            progress.line(&format!(
                "Stopping {} application processes (Ctrl-C again leaves them running) …",
                running.len()
            ));
            tokio::select! {
                stopped = applications::stop(&running) => stopped?,
                _ = signals.next() => left(),
            }
        }
    }
    Ok(())
}

async fn stop_applications(data: &DataDirectory, output: Output) -> Result<(), CommandError> {
    let running = applications::running(&data.role("heart"));
    applications::stop(&running).await?;
    output.result(&serde_json::json!({ "stopped": running.len() }), |_| {
        format!("Stopped {} application processes.", running.len())
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Verb};

    /// Names the data directory to the process that panics.
    const DATA: &str = "PM_TEST_PANIC_DATA";
    const SAID: &str = "a role has a fault";

    /// What stands beside the roles of a `pm dev` that a test runs.
    pub(super) fn panic() -> impl Future<Output = Result<(), std::convert::Infallible>> {
        std::future::poll_fn(|_| panic!("{SAID}"))
    }

    /// The process whose role panics: this test's program, started again with a data directory.
    fn be_a_dev_whose_role_panics(data: &str) {
        let typed = [
            "pm",
            "dev",
            "--api-port=0",
            "--router-port=0",
            "--instance-ports=21000-21001",
        ];
        let typed = typed.into_iter().chain(["--data-dir", data]);
        let arguments = Arguments::parse_from(typed);
        let Verb::Dev(verb) = &arguments.verb else {
            unreachable!("`pm dev` was typed")
        };
        run(verb, &arguments.global).unwrap();
    }

    #[test]
    fn a_role_that_panics_ends_the_process_within_a_second() {
        if let Ok(data) = std::env::var(DATA) {
            return be_a_dev_whose_role_panics(&data);
        }
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("dev::tests::a_role_that_panics_ends_the_process_within_a_second")
            .env(DATA, directory.path().join("data"))
            .env("XDG_CONFIG_HOME", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains(SAID));
        let panicked = Instant::now();

        let status = child.wait().unwrap();

        assert!(said);
        assert_eq!(status.code(), Some(101));
        assert!(panicked.elapsed() < Duration::from_secs(1));
    }
}
