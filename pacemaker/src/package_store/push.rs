//! Brings an uploaded package to a majority of the voters, before the cluster is told of it.
//!
//! All voters are sent it at the same time, each from where its copy ends. When a majority has it
//! the others are left to fetch what they lack by themselves, so a slow or dead one delays nobody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::api::UPLOAD_OFFSET;
use common::assignment::PackageReference;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Method, StatusCode};
use pacemaker_client::UPLOAD_LENGTH;
use reqwest::{Body, Response};
use tokio::sync::Semaphore;

use super::PackageStore;
use crate::peers::{ANSWER_TIMEOUT, Pacemakers, Peer, package_path};

/// Packages that are pushed at once, each to every voter. Others wait.
const PUSHES_AT_ONCE: usize = 16;
/// How often a peer is tried in a row without a byte of progress.
const ATTEMPTS: u32 = 5;
/// The pause after the first of them; each is twice the last, in all about as long as an election.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may take no byte and give no answer: at the end it flushes up to a gibibyte.
const PEER_PATIENCE: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Pushes packages; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Pushes {
    store: PackageStore,
    peers: Pacemakers,
    slots: Arc<Semaphore>,
}

/// Why a package is not on a majority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// Too few voters could be reached or had room.
    #[error("{stored} of {voters} pacemakers have stored the package, which is no majority")]
    NoMajority {
        /// Those that have.
        stored: usize,
        /// All that count.
        voters: usize,
    },
    /// What lies here is not the package.
    #[error("the package is damaged here; upload it again")]
    Damaged,
}

/// Why a peer does not have it.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    /// It does not answer, or not in time.
    #[error("it does not answer")]
    Silent(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// It refuses for good.
    #[error("it answers {0}")]
    Refused(StatusCode),
    /// It says that the bytes are not the package.
    #[error("it says that the bytes have another digest")]
    Mismatch,
    /// The bytes cannot be read here.
    #[error("the package cannot be read here")]
    Unreadable,
}

/// How far a peer is.
enum Progress {
    Whole,
    Part(u64),
}

impl Pushes {
    /// Pushes from `store`.
    pub(crate) fn new(store: PackageStore, peers: Pacemakers) -> Self {
        Self {
            store,
            peers,
            slots: Arc::new(Semaphore::new(PUSHES_AT_ONCE)),
        }
    }

    /// Returns when a majority of the voters has stored a package that is whole and durable here.
    pub(crate) async fn to_majority(&self, package: &PackageReference) -> Result<(), PushError> {
        let slot = self.slots.acquire().await;
        let group = self.peers.group();
        let mut stored = BTreeSet::from([group.me]);
        let voters: Vec<Peer> = group
            .others()
            .into_iter()
            .filter(|peer| group.is_voter(peer.member))
            .collect();
        let mut pushes: FuturesUnordered<_> = voters
            .iter()
            .map(|peer| self.push(peer, package).map(move |pushed| (peer, pushed)))
            .collect();
        let mut is_damaged = false;
        // Who votes may change meanwhile.
        while !self.peers.group().has_majority(&stored) {
            let Some((peer, pushed)) = pushes.next().await else {
                drop(slot);
                return Err(self.failure(package, &stored, is_damaged).await);
            };
            match pushed {
                Ok(()) => {
                    stored.insert(peer.member);
                }
                Err(error) => {
                    is_damaged |= matches!(error, PeerError::Mismatch | PeerError::Unreadable);
                    tracing::warn!(
                        digest = %package.digest,
                        peer = peer.member,
                        error = &error as &dyn std::error::Error,
                        "a package could not be brought to a peer"
                    );
                }
            }
        }
        Ok(())
    }

    async fn failure(
        &self,
        package: &PackageReference,
        stored: &BTreeSet<u64>,
        is_damaged: bool,
    ) -> PushError {
        if is_damaged && !self.store.is_sound(&package.digest).await {
            return PushError::Damaged;
        }
        let voters = self.peers.group().voters;
        let voters: BTreeSet<u64> = voters.into_iter().flatten().collect();
        PushError::NoMajority {
            stored: stored.intersection(&voters).count(),
            voters: voters.len(),
        }
    }

    async fn push(&self, peer: &Peer, package: &PackageReference) -> Result<(), PeerError> {
        let mut best = 0;
        let mut attempts = 0;
        loop {
            let error = match self.progress_of(peer, package).await {
                Ok(Progress::Whole) => return Ok(()),
                Ok(Progress::Part(offset)) => {
                    if offset > best {
                        (best, attempts) = (offset, 0);
                    }
                    match self.send(peer, package, offset).await {
                        Ok(Progress::Whole) => return Ok(()),
                        Ok(Progress::Part(_)) => PeerError::Silent(None),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            attempts += 1;
            let is_final = matches!(error, PeerError::Refused(_) | PeerError::Unreadable);
            if is_final || attempts >= ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep_until(
                tokio::time::Instant::now() + FIRST_PAUSE * 2_u32.pow(attempts - 1),
            )
            .await;
        }
    }

    async fn progress_of(
        &self,
        peer: &Peer,
        package: &PackageReference,
    ) -> Result<Progress, PeerError> {
        let answer = self
            .peers
            .request(peer, Method::HEAD, &package_path(&package.digest))
            .map_err(|error| PeerError::Silent(Some(error.into())))?
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(silent)?;
        match answer.status() {
            StatusCode::OK => Ok(Progress::Whole),
            StatusCode::NOT_FOUND => Ok(Progress::Part(upload_offset(&answer).unwrap_or(0))),
            status => refused(status),
        }
    }

    async fn send(
        &self,
        peer: &Peer,
        package: &PackageReference,
        offset: u64,
    ) -> Result<Progress, PeerError> {
        let bytes = self
            .store
            .read(&package.digest, package.size, offset)
            .await
            .ok()
            .flatten()
            .ok_or(PeerError::Unreadable)?;
        let taken = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&taken);
        let bytes = bytes.inspect(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let sending = self
            .peers
            .request(peer, Method::PUT, &package_path(&package.digest))
            .map_err(|error| PeerError::Silent(Some(error.into())))?
            .header(UPLOAD_OFFSET, offset)
            .header(UPLOAD_LENGTH, package.size)
            .body(Body::wrap_stream(bytes))
            .send();
        let answer = tokio::select! {
            answer = sending => answer.map_err(silent)?,
            () = stalled(&taken) => return Err(PeerError::Silent(None)),
        };
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED => Ok(Progress::Whole),
            // Another transfer was ahead, or it did not arrive in full.
            StatusCode::CONFLICT | StatusCode::ACCEPTED | StatusCode::BAD_REQUEST => {
                Ok(Progress::Part(upload_offset(&answer).unwrap_or(offset)))
            }
            StatusCode::UNPROCESSABLE_ENTITY => Err(PeerError::Mismatch),
            status => refused(status),
        }
    }
}

/// Resolves when nothing has been taken for too long.
async fn stalled(taken: &AtomicU64) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let mut seen = (u64::MAX, tokio::time::Instant::now());
    loop {
        let now = looks.tick().await;
        let count = taken.load(Ordering::Relaxed);
        if count != seen.0 {
            seen = (count, now);
        } else if now.duration_since(seen.1) >= PEER_PATIENCE {
            return;
        }
    }
}

fn silent(error: reqwest::Error) -> PeerError {
    PeerError::Silent(Some(error.without_url().into()))
}

fn refused<T>(status: StatusCode) -> Result<T, PeerError> {
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(PeerError::Silent(None));
    }
    Err(PeerError::Refused(status))
}

fn upload_offset(answer: &Response) -> Option<u64> {
    answer
        .headers()
        .get(UPLOAD_OFFSET)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
