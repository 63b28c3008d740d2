//! Packages on this pacemaker's disk, named by their digest.
//!
//! ```text
//! packages/ab/abcdef…      whole, verified, durable
//! packages/partial/abcdef… what has arrived of an upload
//! ```
//! An upload is written as it arrives, never held in memory; when all is there its digest is
//! verified, the file is flushed and renamed into place. A package is there whole or not at all.
//! One upload at a time writes a digest; others of the same digest wait for it. A full disk fails
//! the upload and gives its space back.
//!
//! Never does: decide whether the cluster knows a package (that is State), or remove a whole one:
//! collecting packages that no version refers to is not done yet.

mod upload;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::digest::Digest;
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncSeekExt as _;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use crate::files::sync_directory;
use crate::package_store::upload::Upload;

/// The largest package that is taken, bytes. A larger application belongs in several.
pub const PACKAGE_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Uploads that are written at once; each has a thread of its own. Others wait.
const UPLOADS_AT_ONCE: usize = 64;
/// Pieces of an upload that wait for the disk, up to 64 KiB each as HTTP brings them.
const PIECES_WAITING: usize = 16;
/// A broken upload that nobody has gone on with for this long is removed at the next start.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of a package is read at once while it is sent.
const READ_BYTES: usize = 128 * 1024;
/// The longest silence of a sender before its upload counts as broken off.
const SENDER_PATIENCE: Duration = Duration::from_secs(30);

/// The packages.
#[derive(Clone, Debug)]
pub(crate) struct PackageStore {
    directory: PathBuf,
    busy: Arc<Mutex<BTreeMap<Digest, Arc<Semaphore>>>>,
    uploads: Arc<Semaphore>,
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

impl PackageStore {
    /// Makes the directories and removes uploads that were given up. Blocks.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        let partial = directory.join("partial");
        fs::create_dir_all(&partial)?;
        sync_directory(&directory)?;
        remove_stale(&partial)?;
        Ok(Self {
            directory,
            busy: Arc::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
        })
    }

    /// The length of a whole package.
    pub(crate) async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        length(&self.whole(digest)).await
    }

    /// Makes sure that a whole package survives a power cut: whoever put it into its place may
    /// have been killed before it was flushed there.
    pub(crate) async fn make_durable(&self, digest: &Digest) -> io::Result<()> {
        let (whole, directory) = (self.whole(digest), self.directory.clone());
        tokio::task::spawn_blocking(move || {
            fs::File::open(&whole)?.sync_all()?;
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
        let turn = self.turn(digest);
        let mine = turn.acquire_owned().await;
        let slot = Arc::clone(&self.uploads).acquire_owned().await;
        let (Ok(mine), Ok(slot)) = (mine, slot) else {
            return Err(ReceiveError::Io(io::Error::other("the store is closed")));
        };
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
        // The thread goes on to the end of what it was given even when the sender has gone, and
        // only then lets the next upload of this digest begin.
        let writer = tokio::task::spawn_blocking(move || {
            let result = upload.run(waiting);
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

    /// The bytes of a whole package from `offset` on.
    pub(crate) async fn read(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let mut file = tokio::fs::File::open(self.whole(digest)).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(ReaderStream::with_capacity(file, READ_BYTES))
    }

    fn whole(&self, digest: &Digest) -> PathBuf {
        let name = digest.as_str();
        let (shard, _) = name.split_at(2);
        self.directory.join(shard).join(name)
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.directory.join("partial").join(digest.as_str())
    }

    fn turn(&self, digest: &Digest) -> Arc<Semaphore> {
        let mut busy = self.busy();
        // Nobody holds or awaits these any more.
        busy.retain(|_, turn| Arc::strong_count(turn) > 1);
        let turn = busy
            .entry(digest.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        Arc::clone(turn)
    }

    fn busy(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Semaphore>>> {
        self.busy
            .lock()
            .expect("no one panics while holding the map of uploads")
    }
}

async fn length(path: &Path) -> io::Result<Option<u64>> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_stale(partial: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    for item in fs::read_dir(partial)? {
        let item = item?;
        let changed = item.metadata()?.modified()?;
        if now.duration_since(changed).unwrap_or_default() > PARTIAL_MAX_AGE {
            tracing::info!(path = %item.path().display(), "removing an upload that was given up");
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
