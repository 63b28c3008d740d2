//! Who is busy with which package: one writer at a time, any number who wait or count on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::digest::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The packages that someone is busy with.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_digest: Mutex<BTreeMap<Digest, Arc<Place>>>,
}

/// One package that someone writes, waits for or counts on.
#[derive(Debug)]
pub(super) struct Place {
    turn: Arc<Semaphore>,
    arrived: watch::Sender<Arrived>,
}

/// How much of a package has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// How often it was begun from the start: another number means other bytes.
    pub(super) beginnings: u64,
    /// Bytes that are in the file.
    pub(super) length: u64,
}

impl Places {
    /// The place of a package; held for as long as its bytes matter.
    pub(super) fn at(&self, digest: &Digest) -> Arc<Place> {
        let mut by_digest = self.lock();
        // Nobody is busy with these any more.
        by_digest.retain(|_, place| Arc::strong_count(place) > 1);
        let place = by_digest.entry(digest.clone()).or_insert_with(|| {
            Arc::new(Place {
                turn: Arc::new(Semaphore::new(1)),
                arrived: watch::Sender::default(),
            })
        });
        Arc::clone(place)
    }

    /// Does something short while nobody is busy with the package, and nobody can begin to be.
    pub(super) fn if_unused<T>(&self, digest: &Digest, work: impl FnOnce() -> T) -> Option<T> {
        let by_digest = self.lock();
        let is_used = by_digest
            .get(digest)
            .is_some_and(|place| Arc::strong_count(place) > 1);
        (!is_used).then(work)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Place>>> {
        self.by_digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits for the right to write.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// Writing begins, or goes on, with the file at this length.
    pub(super) fn begin(&self, length: u64) {
        self.arrived.send_modify(|arrived| {
            arrived.beginnings += u64::from(length == 0);
            arrived.length = length;
        });
    }

    /// The file has grown.
    pub(super) fn grow(&self, length: u64) {
        self.arrived.send_modify(|arrived| arrived.length = length);
    }

    /// Wakes when the file grows.
    pub(super) fn arrived(&self) -> watch::Receiver<Arrived> {
        self.arrived.subscribe()
    }
}
