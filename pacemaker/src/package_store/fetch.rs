//! Gets from the peers what the state knows and this disk lacks.
//!
//! In the background everything, the newest first, so that a new or emptied pacemaker becomes
//! complete; on demand one package, which is read along while it arrives. However many want a
//! package at once, one task fetches it. What is fetched is verified like an upload.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::Generation;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use http::{Method, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{PackageStore, ReceiveError, Received};
use crate::metrics::Metrics;
use crate::peers::{ANSWER_TIMEOUT, Pacemakers, Peer, REPLICA_PACKAGES, package_path};
use crate::replica::Replica;

/// Packages that are fetched at once in the background: a link and a disk are full by then.
const FETCHES_AT_ONCE: usize = 4;
/// Packages of one pass; what is committed meanwhile is newer, and comes first in the next.
const PACKAGES_PER_PASS: usize = 16;
/// The shortest time between two comparisons of the state with the disk.
const COMPARE_INTERVAL: Duration = Duration::from_millis(100);
/// Comparisons take at most this part of the time, however large the state is and fast it changes.
const COMPARE_SHARE: u32 = 20;
/// The longest time between two; the disk itself is asked then too.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The pause after a pass in which something could not be had.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest such pause: each is twice the last.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a peer may take to say what it lacks; who asks comes back soon.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// How often one peer is asked in a row when transfers cross each other.
const CROSSINGS_MAX: u32 = 5;

/// What became of a fetch; none while it is under way.
pub(super) type Outcome = Option<Result<(), FetchError>>;

/// Why a package could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// All were asked.
    #[error("no other pacemaker has the package")]
    Nowhere,
    /// Some did not answer.
    #[error("the other pacemakers that may have the package do not answer")]
    Unreachable,
    /// There is no room.
    #[error("the disk of the package store is full")]
    Full,
    /// The disk refused; the log says why.
    #[error("the package could not be written")]
    Disk,
    /// The pacemaker stops.
    #[error("the pacemaker is stopping")]
    Stopping,
}

/// Fetches packages; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Fetches {
    store: PackageStore,
    peers: Pacemakers,
    metrics: Metrics,
    running: Arc<Mutex<BTreeMap<Digest, watch::Receiver<Outcome>>>>,
    /// How often each package could not be had since the disk was last complete.
    failures: Arc<Mutex<BTreeMap<Digest, u32>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Fetches {
    /// Fetches into `store` until `shutdown`.
    pub(crate) fn new(
        store: PackageStore,
        peers: Pacemakers,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            store,
            peers,
            metrics,
            running: Arc::default(),
            failures: Arc::default(),
            tasks: TaskTracker::new(),
            shutdown,
        }
    }

    /// Fetches a package; reads its bytes from `offset` on as they arrive.
    pub(crate) fn stream(
        &self,
        package: &PackageReference,
        offset: u64,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let outcome = self.begin(package);
        self.store.read_along(package, offset, outcome)
    }

    /// True when a peer has the package whole.
    pub(crate) async fn is_elsewhere(&self, digest: &Digest) -> bool {
        let looks = self
            .peers
            .group()
            .others()
            .into_iter()
            .map(|peer| async move {
                let request = self
                    .peers
                    .request(&peer, Method::HEAD, &package_path(digest));
                let Ok(request) = request else {
                    return false;
                };
                let looked = request.timeout(ANSWER_TIMEOUT).send().await;
                looked.is_ok_and(|answer| answer.status() == StatusCode::OK)
            });
        let mut looks: FuturesUnordered<_> = looks.collect();
        while let Some(is_there) = looks.next().await {
            if is_there {
                return true;
            }
        }
        false
    }

    /// True when a peer lacks nothing that is here: what was stored on a majority before that peer
    /// had a vote is on a majority with it, too.
    pub(crate) async fn has_all(&self, member: u64) -> bool {
        let Some(peer) = self.peers.group().other(member) else {
            return false;
        };
        let Ok(request) = self.peers.request(&peer, Method::GET, REPLICA_PACKAGES) else {
            return false;
        };
        let asking = async {
            let answer = request.send().await.ok()?.error_for_status().ok()?;
            answer.json::<Vec<Digest>>().await.ok()
        };
        match tokio::time::timeout(QUESTION_TIMEOUT, asking).await {
            Ok(Some(lacking)) => !lacking.iter().any(|digest| self.store.holds(digest)),
            Ok(None) | Err(_) => false,
        }
    }

    /// Keeps this disk complete until the shutdown.
    pub(crate) async fn run(&self, replica: &Replica) {
        let mut changes = replica.changes();
        let mut losses = self.store.losses();
        let mut pause = FIRST_PAUSE;
        let mut looked = Instant::now();
        while !self.shutdown.is_cancelled() {
            changes.mark_unchanged();
            losses.mark_unchanged();
            if looked.elapsed() >= LOOK_INTERVAL {
                self.look().await;
                looked = Instant::now();
            }
            let begun = Instant::now();
            let count = count_of(replica);
            let lacking = self.lacking(replica);
            let next = begun + COMPARE_INTERVAL.max(begun.elapsed() * COMPARE_SHARE);
            let until = if lacking.is_empty() {
                pause = FIRST_PAUSE;
                looked + LOOK_INTERVAL
            } else if self.fetch_all(&lacking).await {
                pause = FIRST_PAUSE;
                next
            } else {
                let until = Instant::now() + pause;
                pause = PAUSE_MAX.min(pause * 2);
                until
            };
            tokio::select! {
                () = other_count(&mut changes, replica, count) => {}
                _ = losses.changed() => {}
                () = tokio::time::sleep_until(until) => {}
                () = self.shutdown.cancelled() => {}
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn look(&self) {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.look()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "looking through the packages failed"),
            Err(error) => tracing::error!(%error, "looking through the packages panicked"),
        }
    }

    /// What this disk lacks: the newest first, and last what could not be had before.
    pub(crate) fn lacking(&self, replica: &Replica) -> Vec<PackageReference> {
        let held = self.store.held_packages();
        let mut failures = self.failures();
        let mut lacking: Vec<_> = replica.read(|state| {
            state
                .packages()
                .iter()
                .filter(|(digest, _)| !held.contains(*digest))
                .map(|(digest, record)| {
                    let failures = failures.get(digest).copied().unwrap_or(0);
                    (
                        failures,
                        Reverse(record.committed),
                        digest.clone(),
                        record.size,
                    )
                })
                .collect()
        });
        lacking.sort_unstable();
        let count = i64::try_from(lacking.len()).unwrap_or(i64::MAX);
        self.metrics.packages_lacking.set(count);
        if lacking.is_empty() {
            failures.clear();
        }
        lacking
            .into_iter()
            .map(|(_, _, digest, size)| PackageReference { digest, size })
            .collect()
    }

    /// True when all could be had.
    async fn fetch_all(&self, packages: &[PackageReference]) -> bool {
        let mut waiting = packages.iter().take(PACKAGES_PER_PASS);
        let mut running = FuturesUnordered::new();
        let mut is_complete = true;
        loop {
            while running.len() < FETCHES_AT_ONCE
                && let Some(package) = waiting.next()
            {
                running.push(self.fetch_one(package));
            }
            match running.next().await {
                Some(is_there) => is_complete &= is_there,
                None => return is_complete,
            }
        }
    }

    async fn fetch_one(&self, package: &PackageReference) -> bool {
        let mut outcome = self.begin(package);
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Ok(()))) => true,
            Ok(Some(Err(error))) => {
                tracing::warn!(digest = %package.digest, %error, "a package is lacking");
                *self.failures().entry(package.digest.clone()).or_insert(0) += 1;
                false
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Joins the fetch of this package, or begins one.
    fn begin(&self, package: &PackageReference) -> watch::Receiver<Outcome> {
        let mut running = self.running();
        if let Some(outcome) = running.get(&package.digest) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(package.digest.clone(), outcome.clone());
        drop(running);
        let (fetches, package) = (self.clone(), package.clone());
        self.tasks.spawn(async move {
            let fetched = tokio::select! {
                fetched = fetches.fetch(&package) => fetched,
                () = fetches.shutdown.cancelled() => Err(FetchError::Stopping),
            };
            fetches.running().remove(&package.digest);
            sender.send_replace(Some(fetched));
        });
        outcome
    }

    async fn fetch(&self, package: &PackageReference) -> Result<(), FetchError> {
        let mut error = FetchError::Nowhere;
        let mut peers = self.peers.group().others();
        if !peers.is_empty() {
            // Different packages come from different peers.
            let first = usize::from(package.digest.as_str().as_bytes()[0]) % peers.len();
            peers.rotate_left(first);
        }
        for peer in peers {
            match self.fetch_from(&peer, package).await {
                Ok(()) => {
                    tracing::info!(digest = %package.digest, from = peer.member, "fetched a package");
                    return Ok(());
                }
                Err(FetchError::Nowhere) => {}
                Err(FetchError::Unreachable) => error = FetchError::Unreachable,
                Err(other) => return Err(other),
            }
        }
        Err(error)
    }

    async fn fetch_from(&self, peer: &Peer, package: &PackageReference) -> Result<(), FetchError> {
        let digest = &package.digest;
        for _ in 0..CROSSINGS_MAX {
            let offset = self
                .store
                .partial_size(digest)
                .await
                .map_err(|error| disk(&error))?;
            let request = self
                .peers
                .request(peer, Method::GET, &package_path(digest))
                .map_err(|_| FetchError::Unreachable)?
                .header(http::header::RANGE, format!("bytes={offset}-"));
            let answer = match tokio::time::timeout(ANSWER_TIMEOUT, request.send()).await {
                Ok(Ok(answer)) if answer.status().is_success() => answer,
                Ok(Ok(answer)) if answer.status() == StatusCode::NOT_FOUND => {
                    return Err(FetchError::Nowhere);
                }
                Ok(_) | Err(_) => return Err(FetchError::Unreachable),
            };
            let received = self
                .store
                .receive(digest, offset, package.size, answer.bytes_stream())
                .await;
            match received {
                Ok(Received::Whole | Received::Already) => return Ok(()),
                // Another transfer was ahead.
                Err(ReceiveError::Offset(_)) => {}
                Ok(Received::Part(_)) | Err(ReceiveError::BrokenOff { .. }) => {
                    return Err(FetchError::Unreachable);
                }
                Err(error @ (ReceiveError::Mismatch { .. } | ReceiveError::TooLong(_))) => {
                    tracing::warn!(%digest, from = peer.member, %error, "a peer's package is wrong");
                    return Err(FetchError::Nowhere);
                }
                Err(ReceiveError::Full) => return Err(FetchError::Full),
                Err(ReceiveError::Io(error)) => return Err(disk(&error)),
            }
        }
        Err(FetchError::Unreachable)
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<Digest, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Digest, watch::Receiver<Outcome>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_of(replica: &Replica) -> usize {
    replica.read(|state| state.packages().len())
}

/// Resolves when the state knows another number of packages. Most changes of the state are of other
/// things, and comparing everything at each would hold them up.
async fn other_count(changes: &mut watch::Receiver<Generation>, replica: &Replica, count: usize) {
    while count_of(replica) == count {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn disk(error: &io::Error) -> FetchError {
    tracing::error!(%error, "storing a fetched package failed");
    FetchError::Disk
}

#[cfg(test)]
mod tests;
