//! Makes an instance's directory: its own writable copy of the package's tree.

use std::io;
use std::path::Path;

use common::assignment::AssignedInstance;
use common::instance::{Failure, FailureCode};
use tokio_util::sync::CancellationToken;

use super::{Executor, Shared};
use crate::crash_point::{Crash, CrashPoint};
use crate::directories::WorkDirectory;
use crate::failure::{failure, failure_of};
use crate::fetch::remove_if_present;
use crate::local::Event;
use crate::package;

impl Executor {
    /// Fetches the package when this node has it not, and copies its tree.
    pub(crate) fn lay_out(&self, assigned: AssignedInstance, cancelled: CancellationToken) {
        let executor = self.clone();
        self.spawn(async move {
            let outcome = executor.make_directory(&assigned, &cancelled).await;
            if let Err(failure) = &outcome
                && failure.code != FailureCode::Aborted
            {
                let reason = &failure.message;
                tracing::warn!(instance = %assigned.id, %reason, "laying out an instance");
            }
            executor
                .tell(Event::LaidOut {
                    instance: assigned.id,
                    outcome,
                })
                .await;
        });
    }
}

impl Shared {
    async fn make_directory(
        &self,
        assigned: &AssignedInstance,
        cancelled: &CancellationToken,
    ) -> Result<(), Failure> {
        let lease = self.packages.ensure(&assigned.package, cancelled).await?;
        let permit = self.copies.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        if cancelled.is_cancelled() {
            return Err(failure(FailureCode::Aborted, "laying out was given up"));
        }
        let directory = self.directories.instance(assigned.id);
        let crash = self.crash;
        let copied = tokio::task::spawn_blocking(move || {
            let copied = copy(&lease.tree(), &directory, crash);
            if copied.is_err() {
                // The first error is the one to tell; what is left is removed before the next try.
                remove_if_present(&directory.partial_code()).ok();
            }
            copied
        });
        copied
            .await
            .map_err(|error| failure_of(FailureCode::Disk, &error))?
            .map_err(|error| {
                let text = format!("the instance's directory could not be made: {error}");
                failure(FailureCode::Disk, text)
            })
    }
}

fn copy(tree: &Path, directory: &WorkDirectory, crash: Crash) -> io::Result<()> {
    std::fs::create_dir_all(directory.root())?;
    remove_if_present(&directory.partial_code())?;
    remove_if_present(&directory.code())?;
    package::copy_tree(tree, &directory.partial_code())?;
    crash.at(CrashPoint::AfterCopy);
    std::fs::rename(directory.partial_code(), directory.code())?;
    crash.at(CrashPoint::AfterLayOut);
    Ok(())
}
