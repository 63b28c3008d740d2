//! The garbage of packages: forgotten by the cluster, then removed from each disk.
//!
//! ```text
//! needless for a while ──leader──► ForgetPackages ──the log──► absent for a while ──each──► removed
//! ```
//! The leader proposes what it has itself seen needless for [`PACKAGE_GRACE`]; the log judges again,
//! so a deployment that came first wins. Each pacemaker removes files that the state has not known
//! for [`ABSENT_GRACE`], and only after it has caught up with the log: a file may be younger than
//! what is applied here. An upload under way keeps its file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::digest::Digest;
use pacemaker_core::command::Command;
use pacemaker_core::state::limits::PACKAGE_GRACE;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::PackageStore;
use crate::raft::Proposer;
use crate::replica::Replica;

/// Time between two passes.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a file without an entry in the state stays: an upload that waits for a majority is gone
/// on with meanwhile, and a package that is committed again just after it was forgotten is still
/// everywhere.
const ABSENT_GRACE: Duration = Duration::from_secs(60 * 60);
/// Packages forgotten by one entry of the log.
const FORGET_AT_ONCE: usize = 1_000;

/// Finds what may go.
#[derive(Debug)]
pub(crate) struct Collector {
    store: PackageStore,
    replica: Arc<Replica>,
    proposer: Proposer,
    needless: Since,
    absent: Since,
}

/// Since when something has been so, as seen by this process.
#[derive(Debug, Default)]
struct Since(BTreeMap<Digest, Instant>);

impl Since {
    /// Notes what is so now; answers what has been so for `grace`.
    fn note(
        &mut self,
        now_so: &BTreeSet<Digest>,
        now: Instant,
        grace: Duration,
    ) -> BTreeSet<Digest> {
        self.0.retain(|digest, _| now_so.contains(digest));
        for digest in now_so {
            self.0.entry(digest.clone()).or_insert(now);
        }
        let is_over = |since: &Instant| now.duration_since(*since) >= grace;
        self.0
            .iter()
            .filter(|(_, since)| is_over(since))
            .map(|(digest, _)| digest.clone())
            .collect()
    }
}

impl Collector {
    /// Collects from `store`.
    pub(crate) fn new(store: PackageStore, replica: Arc<Replica>, proposer: Proposer) -> Self {
        Self {
            store,
            replica,
            proposer,
            needless: Since::default(),
            absent: Since::default(),
        }
    }

    /// Collects until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                now = interval.tick() => {
                    self.forget(now).await;
                    self.remove(now, SystemTime::now()).await;
                }
            }
        }
    }

    /// On the leader: proposes to forget what has been needless for long enough.
    async fn forget(&mut self, now: Instant) {
        if !self.proposer.status().is_leader {
            self.needless = Since::default();
            return;
        }
        let time = self.replica.now();
        let needless = self.replica.read(|state| state.needless_packages(time));
        let ripe = self.needless.note(&needless, now, PACKAGE_GRACE.duration());
        let digests: BTreeSet<Digest> = ripe.into_iter().take(FORGET_AT_ONCE).collect();
        if digests.is_empty() {
            return;
        }
        let count = digests.len();
        match self
            .proposer
            .propose(Command::ForgetPackages { digests })
            .await
        {
            Ok(Ok(_)) => tracing::info!(count, "packages that no version needs are forgotten"),
            Ok(Err(rejection)) => tracing::warn!(%rejection, "packages were not forgotten"),
            Err(error) => tracing::warn!(%error, "packages could not be forgotten"),
        }
    }

    /// Everywhere: removes files that the state has not known for long enough.
    async fn remove(&mut self, now: Instant, time: SystemTime) {
        let absent = self.absent_now();
        let mut ripe = self.absent.note(&absent, now, ABSENT_GRACE);
        // What is applied here may be older than the file.
        if !ripe.is_empty()
            && let Err(error) = self.proposer.barrier().await
        {
            tracing::debug!(%error, "no packages are removed before the log has been caught up with");
            ripe.clear();
        }
        let absent = self.absent_now();
        let store = self.store.clone();
        let removal = tokio::task::spawn_blocking(move || {
            for digest in ripe.intersection(&absent) {
                match remove(&store, digest, time) {
                    Ok(true) => tracing::info!(%digest, "removed a package that nothing needs"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%digest, %error, "removing a package failed"),
                }
            }
            if let Err(error) = store.remove_stale() {
                tracing::warn!(%error, "removing uploads that were given up failed");
            }
        });
        if let Err(error) = removal.await {
            tracing::error!(%error, "removing packages panicked");
        }
    }

    fn absent_now(&self) -> BTreeSet<Digest> {
        let held = self.store.held_packages();
        self.replica.read(|state| {
            held.into_iter()
                .filter(|digest| !state.has_package(digest))
                .collect()
        })
    }
}

fn remove(store: &PackageStore, digest: &Digest, time: SystemTime) -> io::Result<bool> {
    let age = time
        .duration_since(store.modified(digest)?)
        .unwrap_or_default();
    if age < ABSENT_GRACE {
        return Ok(false);
    }
    store.remove_unused(digest)
}

#[cfg(test)]
mod tests;
