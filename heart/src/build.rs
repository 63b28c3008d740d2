//! Builds: a source becomes a package by its prepare commands.
//!
//! ```text
//! fetch ─► copy ─► commands ──────────────► pack ─► upload ─► Succeeded
//!                     └─ output ─► job log
//! ```
//! A build has its own directory, which is removed when it ends, whatever the end. Redoing one is
//! harmless, so a heart that restarts begins its builds again. What a build does is told by
//! [`Event::BuildChanged`]; it never touches an instance.

mod output;

use std::path::PathBuf;

use common::assignment::{AssignedBuild, BuildState, PackageReference};
use common::id::{InstanceId, JobId};
use common::instance::{Failure, FailureCode};
use tokio_util::sync::CancellationToken;

use crate::directories::WorkDirectory;
use crate::environment;
use crate::execute::{Executor, Shared};
use crate::failure::{failure, failure_of};
use crate::fetch::remove_if_present;
use crate::local::Event;
use crate::package::{self, EXCLUDED_NAMES};
use crate::script::Scripts;
use crate::shim::LogLimits;

use output::Forwarder;

/// Stands where a run wants to know its instance: numbers of instances begin at 1.
pub(crate) const NO_INSTANCE: InstanceId = InstanceId(0);

/// Output that may wait on disk for a slow pacemaker; what is older is dropped and marked.
const LOG_LIMITS: LogLimits = LogLimits {
    segment_bytes: 8 << 20,
    segments: 4,
};

/// True when nothing more will happen to a build.
pub(crate) const fn is_final(state: &BuildState) -> bool {
    match state {
        BuildState::Running => false,
        BuildState::Succeeded { .. } | BuildState::Failed { .. } => true,
    }
}

impl Executor {
    /// Carries out a build, or gives it up when `cancelled`.
    pub(crate) fn build(&self, assigned: AssignedBuild, cancelled: CancellationToken) {
        let executor = self.clone();
        self.spawn(async move {
            let job = assigned.job;
            tracing::info!(%job, "build begins");
            let state = match executor.carry_out(&assigned, &cancelled).await {
                Ok(package) => BuildState::Succeeded { package },
                Err(failure) => {
                    tracing::info!(%job, reason = %failure.message, "build failed");
                    BuildState::Failed { failure }
                }
            };
            executor.tell(Event::BuildChanged { job, state }).await;
        });
    }
}

impl Shared {
    async fn carry_out(
        &self,
        assigned: &AssignedBuild,
        cancelled: &CancellationToken,
    ) -> Result<PackageReference, Failure> {
        let permit = tokio::select! {
            permit = self.builds.acquire() => permit,
            () = cancelled.cancelled() => return Err(given_up()),
        };
        let _permit = permit.expect("the semaphore is never closed");
        let directory = self.directories.build(assigned.job);
        let outcome = self.work(assigned, &directory, cancelled).await;
        let root = directory.root().to_owned();
        remove(assigned.job, root).await;
        outcome
    }

    async fn work(
        &self,
        assigned: &AssignedBuild,
        directory: &WorkDirectory,
        cancelled: &CancellationToken,
    ) -> Result<PackageReference, Failure> {
        self.copy_source(assigned, directory, cancelled).await?;
        self.run_commands(assigned, directory, cancelled).await?;
        let (code, file) = (directory.code(), directory.root().join("package"));
        let packed = file.clone();
        let package =
            tokio::task::spawn_blocking(move || package::pack(&code, &packed, EXCLUDED_NAMES))
                .await
                .map_err(|error| failure_of(FailureCode::Disk, &error))?
                .map_err(|error| failure_of(FailureCode::Disk, &error))?;
        tokio::select! {
            uploaded = self.upload(&package, file) => uploaded?,
            () = cancelled.cancelled() => return Err(given_up()),
        }
        Ok(package)
    }

    async fn copy_source(
        &self,
        assigned: &AssignedBuild,
        directory: &WorkDirectory,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let lease = self.packages.ensure(&assigned.source, cancelled).await?;
        let directory = directory.clone();
        blocking(move || {
            remove_if_present(directory.root())?;
            std::fs::create_dir_all(directory.temporary())?;
            package::copy_tree(&lease.tree(), &directory.code())
        })
        .await
    }

    async fn run_commands(
        &self,
        assigned: &AssignedBuild,
        directory: &WorkDirectory,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let scripts = Scripts {
            scripts: &assigned.scripts,
            instance: NO_INSTANCE,
            run_directory: directory.run(),
            directory: directory.code(),
            environment: environment::of_build(assigned, &self.node_tags, directory),
            log_directory: directory.log(),
            log_limits: LOG_LIMITS,
            limit: assigned.timeout,
            code: FailureCode::PrepareFailed,
            lease: None,
        };
        let over = CancellationToken::new();
        let forwarder = Forwarder::new(self.client.clone(), assigned.job, directory.log());
        let forwarding = forwarder.run(over.clone());
        let running = async {
            let outcome = scripts.run(&self.runs, cancelled).await;
            over.cancel();
            outcome
        };
        let ((), outcome) = tokio::join!(forwarding, running);
        outcome
    }

    /// Uploads until it succeeds or is refused: a pacemaker that is away comes back.
    async fn upload(&self, package: &PackageReference, file: PathBuf) -> Result<(), Failure> {
        /// The pause between two tries, beyond those that the client makes itself.
        const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
        let mut pauses = tokio::time::interval(PAUSE);
        loop {
            pauses.tick().await;
            match self.client.upload_package(package, &file, &|_| {}).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_unreachable() => {}
                Err(error) => {
                    let reason = crate::failure::chain(&error);
                    let text = format!("the package could not be stored: {reason}");
                    return Err(failure(FailureCode::FetchFailed, text));
                }
            }
        }
    }
}

/// Removes a build's directory. What cannot be removed is left to the next heart, which removes all
/// of them: it says nothing of the package, which may be stored already.
async fn remove(job: JobId, root: PathBuf) {
    if let Err(failure) = blocking(move || remove_if_present(&root)).await {
        tracing::error!(%job, reason = %failure.message, "removing a build's directory");
    }
}

fn given_up() -> Failure {
    failure(FailureCode::Aborted, "the build was given up")
}

async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|error| {
            let text = format!("the build's directory could not be made or removed: {error}");
            failure(FailureCode::Disk, text)
        })
}
