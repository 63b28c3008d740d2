//! Packages on this pacemaker's disk, named by their digest.
//!
//! ```text
//! packages/ab/abcdef…      whole, verified, durable
//! packages/partial/abcdef… what has arrived of an upload, or of a peer's copy
//!
//! upload ──► receive ──► push to a majority ──► CommitPackage ──► peers that lack it fetch it
//! ```
//! What arrives is written as it comes, never held in memory; when all is there its digest is
//! verified, the file is flushed and renamed into place. A package is there whole or not at all.
//! One writer at a time writes a digest; others of the same digest wait for it. A full disk fails
//! the writer and gives its space back. A package is read with its digest computed along; damage,
//! found then or by [`scrub`], takes the file away, and it is fetched again.
//!
//! | Part | Does |
//! |---|---|
//! | [`push`] | brings an uploaded package to a majority of the voters |
//! | [`fetch`] | gets what the state knows and this disk lacks, in the background and on demand |
//! | [`collect`] | forgets and removes what no version needs |
//! | [`scrub`] | reads everything slowly, to find damage before it is needed |
//!
//! Never does: decide whether the cluster knows a package; that is State.

mod arrival;
pub(crate) mod collect;
#[cfg(test)]
mod fake_http_peer;
pub(crate) mod fetch;
mod places;
pub(crate) mod push;
mod reading;
pub(crate) mod scrub;
mod upload;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::digest::Digest;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::files::sync_directory;
use crate::metrics::Metrics;
use crate::package_store::collect::Collector;
use crate::package_store::fetch::Fetches;
use crate::package_store::places::{Place, Places};
use crate::package_store::push::Pushes;
use crate::package_store::upload::Upload;
use crate::peers::Pacemakers;
use crate::raft::Proposer;
use crate::replica::Replica;

/// The largest package that is taken, bytes. A larger application belongs in several.
pub const PACKAGE_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Uploads that are written at once; each has a thread of its own. Others wait.
const UPLOADS_AT_ONCE: usize = 64;
/// Pieces of an upload that wait for the disk, up to 64 KiB each as HTTP brings them.
const PIECES_WAITING: usize = 16;
/// A broken upload that nobody has gone on with for this long is removed.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of a package is read at once.
const READ_BYTES: usize = 128 * 1024;
/// The longest silence of a sender before its upload counts as broken off.
const SENDER_PATIENCE: Duration = Duration::from_secs(30);
/// The directory of what has not arrived in full.
const PARTIAL: &str = "partial";
/// The end of the name of a package that is being taken away.
const REMOVED_SUFFIX: &str = ".removed";

/// The packages; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct PackageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    places: Places,
    /// The whole packages. The disk is the truth; this saves asking it for each.
    held: RwLock<BTreeSet<Digest>>,
    uploads: Arc<Semaphore>,
    /// Counts packages that turned out to be gone or damaged.
    losses: watch::Sender<u64>,
}

/// What a part of an upload led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// The package is whole and durable.
    Whole,
    /// It was whole before, and nothing was read.
    Already,
    /// So many bytes have arrived so far.
    Part(u64),
}

/// Why a part of an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// It does not begin where the last one ended.
    #[error("the upload goes on at byte {0}")]
    Offset(u64),
    /// There are more bytes than were announced.
    #[error("more bytes than the announced {0}")]
    TooLong(u64),
    /// All arrived, but they are not that package.
    #[error("the bytes have the digest {found}")]
    Mismatch {
        /// Their digest.
        found: Digest,
    },
    /// The sender broke off; what arrived is kept.
    #[error("the upload broke off after {length} bytes")]
    BrokenOff {
        /// Bytes that have arrived in all.
        length: u64,
    },
    /// The disk is full; nothing of the upload is kept.
    #[error("the disk of the package store is full")]
    Full,
    /// The disk refused.
    #[error("storing the package")]
    Io(#[source] io::Error),
}

/// The store and what goes on between it and those of the peers; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Packages {
    /// On this disk.
    pub(crate) store: PackageStore,
    /// From the peers.
    pub(crate) fetches: Fetches,
    /// To the peers.
    pub(crate) pushes: Pushes,
}

impl Packages {
    /// Puts them together; fetches end with `shutdown`.
    pub(crate) fn new(
        store: PackageStore,
        peers: &Pacemakers,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            fetches: Fetches::new(store.clone(), peers.clone(), metrics, shutdown),
            pushes: Pushes::new(store.clone(), peers.clone()),
            store,
        }
    }

    /// Keeps the store complete, sound and free of garbage until `shutdown`.
    pub(crate) async fn run(
        &self,
        replica: Arc<Replica>,
        proposer: Proposer,
        shutdown: CancellationToken,
    ) {
        let collector = Collector::new(self.store.clone(), Arc::clone(&replica), proposer);
        tokio::join!(
            self.fetches.run(&replica),
            scrub::run(&self.store, &shutdown),
            collector.run(&shutdown),
        );
    }
}

/// While this is held, the collector leaves a package alone.
#[derive(Debug)]
pub(crate) struct Kept {
    _place: Arc<Place>,
}

impl PackageStore {
    /// Makes the directories, notes what is there, and removes uploads that were given up. Blocks.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        let partial = directory.join(PARTIAL);
        fs::create_dir_all(&partial)?;
        sync_directory(&directory)?;
        for item in fs::read_dir(&partial)? {
            let item = item?;
            if item.file_name().to_string_lossy().ends_with(REMOVED_SUFFIX) {
                fs::remove_file(item.path())?;
            }
        }
        let store = Self {
            inner: Arc::new(Inner {
                directory,
                places: Places::default(),
                held: RwLock::default(),
                uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
                losses: watch::Sender::new(0),
            }),
        };
        store.remove_stale()?;
        store.look()?;
        Ok(store)
    }

    /// Asks the disk which packages are whole: someone may have taken some away. Blocks.
    pub(crate) fn look(&self) -> io::Result<()> {
        let before = self.held().clone();
        let found = whole_packages(&self.inner.directory)?;
        let gone: Vec<&Digest> = before.difference(&found).collect();
        for digest in &gone {
            tracing::warn!(%digest, "a package is gone from the disk");
            self.held_mut().remove(digest);
        }
        self.held_mut().extend(found.iter().cloned());
        if !gone.is_empty() {
            self.note_loss();
        }
        Ok(())
    }

    /// True when the package is whole here, as far as is known without asking the disk.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.held().contains(digest)
    }

    /// The whole packages, in order.
    pub(crate) fn held_packages(&self) -> BTreeSet<Digest> {
        self.held().clone()
    }

    /// Wakes when a package turned out to be gone or damaged.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.inner.losses.subscribe()
    }

    /// The length of a whole package.
    pub(crate) async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let size = length(&self.whole(digest)).await?;
        if size.is_none() && self.held_mut().remove(digest) {
            tracing::warn!(%digest, "a package is gone from the disk");
            self.note_loss();
        }
        Ok(size)
    }

    /// Makes sure that a whole package survives a power cut, and makes it look new: whoever put it
    /// into its place may have been killed before it was flushed there, and long ago.
    pub(crate) async fn make_durable(&self, digest: &Digest) -> io::Result<()> {
        let (whole, directory) = (self.whole(digest), self.inner.directory.clone());
        tokio::task::spawn_blocking(move || {
            let file = fs::File::options().append(true).open(&whole)?;
            file.set_modified(SystemTime::now())?;
            file.sync_all()?;
            for above in whole.ancestors().skip(1) {
                sync_directory(above)?;
                if above == directory {
                    break;
                }
            }
            Ok(())
        })
        .await
        .map_err(io::Error::other)?
    }

    /// How much of a package has arrived.
    pub(crate) async fn partial_size(&self, digest: &Digest) -> io::Result<u64> {
        Ok(length(&self.partial(digest)).await?.unwrap_or(0))
    }

    /// Keeps the collector away from a package.
    pub(crate) fn keep(&self, digest: &Digest) -> Kept {
        Kept {
            _place: self.inner.places.at(digest),
        }
    }

    /// Takes the bytes of `digest` from `offset` on; in all there are `total`.
    ///
    /// What has arrived when the sender breaks off, or when this future is dropped, is kept.
    pub(crate) async fn receive<E>(
        &self,
        digest: &Digest,
        offset: u64,
        total: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Received, ReceiveError> {
        let closed = || ReceiveError::Io(io::Error::other("the store is closed"));
        let place = self.inner.places.at(digest);
        let mine = place.turn().await.ok_or_else(closed)?;
        let slot = Arc::clone(&self.inner.uploads).acquire_owned().await;
        let slot = slot.map_err(|_| closed())?;
        if self.size(digest).await.map_err(ReceiveError::Io)?.is_some() {
            return Ok(Received::Already);
        }
        let (pieces, waiting) = tokio::sync::mpsc::channel(PIECES_WAITING);
        let upload = Upload {
            digest: digest.clone(),
            partial: self.partial(digest),
            whole: self.whole(digest),
            offset,
            total,
        };
        let inner = Arc::clone(&self.inner);
        // The thread goes on to the end of what it was given even when the sender has gone, and
        // only then lets the next upload of this digest begin.
        let writer = tokio::task::spawn_blocking(move || {
            let result = upload.run(waiting, &place);
            if let Ok(Received::Whole) = &result {
                inner.note_whole(&upload.digest);
            }
            drop((mine, slot));
            result
        });
        let mut is_broken = false;
        loop {
            match tokio::time::timeout(SENDER_PATIENCE, body.next()).await {
                Ok(Some(Ok(piece))) => {
                    if pieces.send(piece).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Ok(Some(Err(_))) | Err(_) => {
                    is_broken = true;
                    break;
                }
            }
        }
        drop(pieces);
        let result = writer
            .await
            .map_err(|error| ReceiveError::Io(io::Error::other(error)))?;
        match result? {
            Received::Part(length) if is_broken => Err(ReceiveError::BrokenOff { length }),
            received => Ok(received),
        }
    }

    /// Removes a whole package, unless someone counts on it; true when it is gone. Blocks.
    pub(crate) fn remove_unused(&self, digest: &Digest) -> io::Result<bool> {
        let taken = self
            .inner
            .places
            .if_unused(digest, || self.inner.take_away(digest));
        let Some(taken) = taken else {
            return Ok(false);
        };
        if let Some(removed) = taken? {
            fs::remove_file(removed)?;
        }
        Ok(true)
    }

    /// Removes a whole package whose bytes are not what they should be, whoever counts on it:
    /// those who need it fetch it anew. Blocks.
    pub(crate) fn remove_damaged(&self, digest: &Digest) -> io::Result<()> {
        tracing::error!(%digest, "a package is damaged on the disk; it is removed and fetched again");
        let taken = self.inner.take_away(digest);
        self.note_loss();
        match taken? {
            Some(removed) => fs::remove_file(removed),
            None => Ok(()),
        }
    }

    /// Removes uploads that were given up. Blocks.
    pub(crate) fn remove_stale(&self) -> io::Result<()> {
        let now = SystemTime::now();
        for item in fs::read_dir(self.inner.directory.join(PARTIAL))? {
            let item = item?;
            let Some(digest) = digest_of(&item) else {
                continue;
            };
            let changed = item.metadata()?.modified()?;
            if now.duration_since(changed).unwrap_or_default() <= PARTIAL_MAX_AGE {
                continue;
            }
            let path = item.path();
            tracing::info!(path = %path.display(), "removing an upload that was given up");
            if let Some(removed) = self
                .inner
                .places
                .if_unused(&digest, || fs::remove_file(path))
            {
                removed?;
            }
        }
        Ok(())
    }

    /// When a whole package was written or last asked for. Blocks.
    pub(crate) fn modified(&self, digest: &Digest) -> io::Result<SystemTime> {
        fs::metadata(self.whole(digest))?.modified()
    }

    fn whole(&self, digest: &Digest) -> PathBuf {
        self.inner.whole(digest)
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.inner.directory.join(PARTIAL).join(digest.as_str())
    }

    fn note_loss(&self) {
        self.inner.losses.send_modify(|count| *count += 1);
    }

    fn held(&self) -> RwLockReadGuard<'_, BTreeSet<Digest>> {
        self.inner
            .held
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn held_mut(&self) -> RwLockWriteGuard<'_, BTreeSet<Digest>> {
        self.inner.held_mut()
    }
}

impl Inner {
    fn whole(&self, digest: &Digest) -> PathBuf {
        let name = digest.as_str();
        let (shard, _) = name.split_at(2);
        self.directory.join(shard).join(name)
    }

    fn held_mut(&self) -> RwLockWriteGuard<'_, BTreeSet<Digest>> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_whole(&self, digest: &Digest) {
        self.held_mut().insert(digest.clone());
    }

    /// Takes a whole package out of its place; answers where it is to be deleted. Removing a large
    /// file takes a while, a rename does not.
    fn take_away(&self, digest: &Digest) -> io::Result<Option<PathBuf>> {
        self.held_mut().remove(digest);
        let removed = self
            .directory
            .join(PARTIAL)
            .join(format!("{digest}{REMOVED_SUFFIX}"));
        match fs::rename(self.whole(digest), &removed) {
            Ok(()) => Ok(Some(removed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn length(path: &Path) -> io::Result<Option<u64>> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files of all shards whose names are digests.
fn whole_packages(directory: &Path) -> io::Result<BTreeSet<Digest>> {
    let mut found = BTreeSet::new();
    for shard in fs::read_dir(directory)? {
        let shard = shard?;
        if shard.file_name() == PARTIAL || !shard.file_type()?.is_dir() {
            continue;
        }
        for item in fs::read_dir(shard.path())? {
            found.extend(digest_of(&item?));
        }
    }
    Ok(found)
}

fn digest_of(item: &fs::DirEntry) -> Option<Digest> {
    item.file_name().to_str()?.parse().ok()
}

#[cfg(test)]
mod tests;
