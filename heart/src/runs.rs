//! Runs of shims as the heart sees them: launched, waited for, asked to end, looked up on disk.
//!
//! One pidfd per process and no thread: the pidfd of the shim becomes readable when everything of
//! the run is over. How it ended is on disk, so it does not matter which heart looks.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::id::InstanceId;
use common::instance::{Failure, FailureCode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::crash_point::{Crash, CrashPoint};
use crate::failure::{failure, failure_of};
use crate::fetch::remove_if_present;
use crate::shim::{
    self, Ending, ProcessIdentity, ProcessRecord, SpawnError, Spawner, Specification, Started,
};

/// How often a process is looked at whose end cannot be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The pause between two tries to kill what is left of a run.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often a start without an answer is called off; each try takes some seconds when it fails.
const CALL_OFF_TRIES: usize = 3;

/// Launches shims; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    spawner: Arc<Spawner>,
    crash: Crash,
}

impl Runs {
    /// Runs of `<shim_program> shim …`.
    pub(crate) fn new(shim_program: PathBuf, crash: Crash) -> Self {
        Self {
            spawner: Arc::new(Spawner::new(shim_program, vec!["shim".into()])),
            crash,
        }
    }

    /// Starts a process under a new shim; returns when it has been executed.
    ///
    /// Cannot be interrupted: a process that has been started is always returned.
    pub(crate) async fn launch(
        &self,
        specification: Specification,
        run_directory: PathBuf,
    ) -> Result<ProcessRecord, Failure> {
        let spawner = Arc::clone(&self.spawner);
        let crash = self.crash;
        let launched = tokio::task::spawn_blocking(move || {
            crash.at(CrashPoint::BeforeSpawn);
            let launched = launch(&spawner, &specification, &run_directory);
            crash.at(CrashPoint::AfterSpawn);
            launched
        });
        launched
            .await
            .map_err(|error| failure_of(FailureCode::LaunchFailed, &error))?
    }
}

fn launch(
    spawner: &Spawner,
    specification: &Specification,
    run_directory: &Path,
) -> Result<ProcessRecord, Failure> {
    let disk = |error: io::Error| {
        let text = format!("the specification of the process could not be written: {error}");
        failure(FailureCode::Disk, text)
    };
    remove_if_present(&run_directory.join(PASSED)).map_err(disk)?;
    specification.write(run_directory).map_err(disk)?;
    match spawner.spawn(run_directory) {
        Ok(Started::Running(record)) => Ok(record),
        Ok(Started::Failed { message, .. }) => Err(failure(FailureCode::LaunchFailed, message)),
        Err(error) => {
            match error {
                SpawnError::NoAnswer | SpawnError::Ask(_) => {
                    call_off(run_directory, specification.instance);
                }
                SpawnError::Execute { .. } | SpawnError::ShimDied => {}
            }
            Err(failure_of(FailureCode::LaunchFailed, &error))
        }
    }
}

/// Takes a start back that may yet happen, or the next try would be the second of two.
fn call_off(run_directory: &Path, instance: InstanceId) {
    for _ in 0..CALL_OFF_TRIES {
        match shim::call_off(run_directory, instance) {
            Ok(()) => return,
            Err(error) => tracing::error!(%instance, %error, "calling a start off"),
        }
    }
}

/// Waits until nothing of the run is left.
///
/// By the shim's pidfd; where none can be had (too many open files), by looking again and again.
pub(crate) async fn wait(shim: &ProcessIdentity) {
    match wait_by_pidfd(shim).await {
        Ok(()) => {}
        Err(error) => {
            tracing::warn!(shim = shim.pid, %error, "waiting for a process by looking");
            let mut looks = tokio::time::interval(LOOK_EVERY);
            while shim.is_alive() {
                looks.tick().await;
            }
        }
    }
}

async fn wait_by_pidfd(shim: &ProcessIdentity) -> io::Result<()> {
    let Some(pidfd) = shim.open_pidfd()? else {
        return Ok(());
    };
    let pidfd = watched(pidfd)?;
    drop(pidfd.readable().await?);
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "only the caller of register_with_interest can know that the descriptor stays the same"
)]
fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd answers with the one descriptor that it owns, open for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// Notes on disk that a run has passed its start check, before anybody is told.
///
/// A heart that adopts the process must not call it starting again: routers would turn away. Not
/// fsynced: after a power cut there is no process to adopt.
pub(crate) fn note_passed(run_directory: &Path) -> io::Result<()> {
    std::fs::write(run_directory.join(PASSED), "")
}

/// True when the run in this directory has passed its start check.
pub(crate) fn has_passed(run_directory: &Path) -> bool {
    run_directory.join(PASSED).exists()
}

/// The file that says that the run has passed its start check; the next run removes it.
const PASSED: &str = "passed";

/// Asks a process to end; failures are logged, since the heart kills what does not end.
pub(crate) fn request_stop(process: &ProcessRecord) {
    if let Err(error) = shim::request_stop(&process.shim) {
        tracing::warn!(shim = process.shim.pid, %error, "asking a process to end");
    }
}

/// Kills what is left of a run, the shim included, and waits until it is gone.
pub(crate) async fn kill(run_directory: PathBuf, instance: InstanceId) -> io::Result<()> {
    tokio::task::spawn_blocking(move || shim::kill_tree(&run_directory, instance))
        .await
        .map_err(io::Error::other)?
}

/// Kills what is left of a run, and tries again when that fails: what is told to have ended is
/// started anew. False when nothing has helped.
pub(crate) async fn kill_for_certain(
    run_directory: &Path,
    instance: InstanceId,
    tries: usize,
) -> bool {
    let mut pauses = tokio::time::interval(KILL_AGAIN_AFTER);
    for _ in 0..tries {
        pauses.tick().await;
        match kill(run_directory.to_owned(), instance).await {
            Ok(()) => return true,
            Err(error) => tracing::error!(%instance, %error, "killing what a run left behind"),
        }
    }
    false
}

/// Kills what is left of the run of `process`, and nothing of a later one in the same directory.
pub(crate) async fn kill_run(
    run_directory: PathBuf,
    instance: InstanceId,
    process: ProcessRecord,
) -> io::Result<()> {
    tokio::task::spawn_blocking(move || shim::kill_tree_of(&run_directory, instance, &process))
        .await
        .map_err(io::Error::other)?
}

/// How a run ended, in words: "exited with code 1".
pub(crate) fn describe(ending: Option<&Ending>) -> String {
    match ending {
        Some(Ending::Exited { code }) => format!("exited with code {code}"),
        Some(Ending::Signalled { signal }) => match signal_name(*signal) {
            Some(name) => format!("was ended by {name} (signal {signal})"),
            None => format!("was ended by signal {signal}"),
        },
        Some(Ending::LaunchFailed { message }) => format!("was not started: {message}"),
        None => "was lost: its shim was killed".to_owned(),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    nix::sys::signal::Signal::try_from(signal)
        .ok()
        .map(nix::sys::signal::Signal::as_str)
}

/// The end of what a run has put out since `start`.
pub(crate) fn tail_since(log_directory: &Path, start: u64) -> String {
    let limit = 2 * common::instance::OUTPUT_TAIL_MAX_BYTES;
    let tail = shim::log::length(log_directory).and_then(|end| {
        let from = end.saturating_sub(limit as u64).max(start);
        shim::log::read(log_directory, from, limit)
    });
    match tail {
        Ok(chunk) => crate::failure::output_tail(&chunk.bytes),
        Err(error) => format!("(the output could not be read: {error})"),
    }
}
