//! The packages on this node: fetched once, verified, unpacked once, kept for a while.
//!
//! ```text
//! download ──► partial/<digest>.package ──verify──► unpack ──► partial/<digest>.tree ──rename──► <digest>/
//!  (resumes)                              (P3)       (P1, P2)
//! ```
//! However many instances want a package at once, one task fetches it and all share its result. A
//! tree under its final name is complete; nothing ever runs in it, instances get copies. What a
//! killed heart leaves is a partial download, which is gone on with, or a partial tree, which is
//! removed.

mod cache;
mod download;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use common::assignment::PackageReference;
use common::digest::Digest;
use common::instance::{Failure, FailureCode};
use pacemaker_client::Client;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crash_point::{Crash, CrashPoint};
use crate::directories::Directories;
use crate::failure::{failure, failure_of};
use crate::package::{self, Limits, UnpackError};

pub(crate) use crate::removal::remove_if_present;
pub(crate) use cache::About;

/// Packages that are fetched and unpacked at once: the network and one core are full by then.
const FETCHES_AT_ONCE: usize = 4;

type Outcome = Option<Result<(), Failure>>;

/// Every package that this node has or is getting.
#[derive(Debug)]
pub(crate) struct Packages {
    directories: Directories,
    client: Client,
    crash: Crash,
    boot_id: String,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    permits: Semaphore,
    /// Fetches under way.
    fetching: Mutex<HashMap<Digest, watch::Receiver<Outcome>>>,
    /// Trees that are being copied from, and so must stay.
    leases: Mutex<HashMap<Digest, usize>>,
}

/// A promise that a package's tree stays where it is until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    packages: Arc<Packages>,
    digest: Digest,
}

impl Lease {
    /// The unpacked tree.
    pub(crate) fn tree(&self) -> PathBuf {
        self.packages.directories.package(&self.digest).join("tree")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self
            .packages
            .leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = leases.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&self.digest);
            }
        }
    }
}

impl Packages {
    pub(crate) fn new(
        directories: Directories,
        client: Client,
        crash: Crash,
        boot_id: String,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            directories,
            client,
            crash,
            boot_id,
            shutdown,
            tasks: TaskTracker::new(),
            permits: Semaphore::new(FETCHES_AT_ONCE),
            fetching: Mutex::default(),
            leases: Mutex::default(),
        })
    }

    /// Makes sure that a package is on this node, unpacked, and keeps it there for the caller.
    ///
    /// # Errors
    /// [`FailureCode::Aborted`] when `cancelled` comes first; otherwise why it cannot be had.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        package: &PackageReference,
        cancelled: &CancellationToken,
    ) -> Result<Lease, Failure> {
        let lease = self.lease(&package.digest);
        if lease.tree().is_dir() {
            self.touch(&package.digest);
            return Ok(lease);
        }
        let mut outcome = self.join_fetch(package);
        let aborted = || failure(FailureCode::Aborted, "the fetch was given up");
        tokio::select! {
            () = cancelled.cancelled() => Err(aborted()),
            done = outcome.wait_for(Option::is_some) => match done.as_deref() {
                Ok(Some(Ok(()))) => Ok(lease),
                Ok(Some(Err(failure))) => Err(failure.clone()),
                Ok(None) | Err(_) => Err(aborted()),
            },
        }
    }

    /// Waits until every fetch has ended; they end soon once the heart is shut down.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lease(self: &Arc<Self>, digest: &Digest) -> Lease {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        *leases.entry(digest.clone()).or_default() += 1;
        drop(leases);
        Lease {
            packages: Arc::clone(self),
            digest: digest.clone(),
        }
    }

    /// Joins the fetch that is under way, or begins one.
    fn join_fetch(self: &Arc<Self>, package: &PackageReference) -> watch::Receiver<Outcome> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = fetching.get(&package.digest)
            // A fetch that ended in this moment is not joined: it may have failed long ago.
            && under_way.borrow().is_none()
            && under_way.has_changed().is_ok()
        {
            return under_way.clone();
        }
        let (sender, receiver) = watch::channel(None);
        // The map holds no receiver that counts: a fetch that nobody waits for gives up.
        fetching.insert(package.digest.clone(), receiver.clone());
        let packages = Arc::clone(self);
        let package = package.clone();
        self.tasks.spawn(async move {
            let result = packages.fetch(&package, &sender).await;
            packages
                .fetching
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&package.digest);
            sender.send_replace(Some(result));
        });
        receiver
    }

    async fn fetch(
        &self,
        package: &PackageReference,
        outcome: &watch::Sender<Outcome>,
    ) -> Result<(), Failure> {
        let permit = self.permits.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        let file = tokio::select! {
            file = self.download(package) => file?,
            () = abandoned(outcome) => {
                return Err(failure(FailureCode::Aborted, "nobody waits for the package any more"));
            }
            () = self.shutdown.cancelled() => {
                return Err(failure(FailureCode::Aborted, "the heart ends"));
            }
        };
        self.crash.at(CrashPoint::AfterVerify);
        self.unpack(package, file).await
    }

    /// Unpacks under a temporary name, then renames: the final name means complete.
    async fn unpack(&self, package: &PackageReference, file: PathBuf) -> Result<(), Failure> {
        let partial = self
            .directories
            .partial_packages()
            .join(format!("{}.tree", package.digest));
        let target = self.directories.package(&package.digest);
        let (crash, boot_id) = (self.crash, self.boot_id.clone());
        let unpacked = tokio::task::spawn_blocking(move || {
            let disk = |error: std::io::Error| failure_of(FailureCode::Disk, &error);
            remove_if_present(&partial).map_err(disk)?;
            std::fs::create_dir_all(&partial).map_err(disk)?;
            let archive = std::fs::File::open(&file).map_err(disk)?;
            let unpacked = package::unpack(archive, &partial.join("tree"), &Limits::default());
            let summary = match unpacked {
                Ok(summary) => summary,
                Err(error) => {
                    remove_if_present(&partial).map_err(disk)?;
                    return Err(unpack_failure(&error));
                }
            };
            crash.at(CrashPoint::AfterUnpack);
            About::new(&summary, boot_id)
                .write(&partial)
                .map_err(disk)?;
            std::fs::rename(&partial, &target).map_err(disk)?;
            crash.at(CrashPoint::AfterRename);
            std::fs::remove_file(&file).map_err(disk)
        });
        unpacked
            .await
            .map_err(|error| failure_of(FailureCode::Disk, &error))?
    }
}

/// Resolves when only the map of fetches still listens.
async fn abandoned(outcome: &watch::Sender<Outcome>) {
    let mut looks = tokio::time::interval(ABANDONED_EVERY);
    loop {
        looks.tick().await;
        if outcome.receiver_count() <= 1 {
            return;
        }
    }
}

/// How often a download looks whether anybody still waits for it.
const ABANDONED_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

fn unpack_failure(error: &UnpackError) -> Failure {
    let code = match error {
        UnpackError::Refused { .. } | UnpackError::LimitExceeded { .. } => {
            FailureCode::PackageRefused
        }
        UnpackError::Damaged { .. } => FailureCode::PackageDamaged,
        UnpackError::StorageFull { .. } | UnpackError::Write { .. } => FailureCode::Disk,
    };
    failure_of(code, error)
}
