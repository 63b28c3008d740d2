//! Who waits for which log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::id::JobId;
use tokio::sync::watch;

/// A bell per log that someone follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_job: Arc<Mutex<BTreeMap<JobId, watch::Sender<u64>>>>,
}

impl Waiting {
    /// Waits with the others for this log.
    pub(super) fn join(&self, job: JobId) -> watch::Receiver<u64> {
        let mut by_job = self.lock();
        by_job.retain(|_, bell| bell.receiver_count() > 0);
        by_job.entry(job).or_default().subscribe()
    }

    /// Wakes all who wait for this log.
    pub(super) fn wake(&self, job: JobId) {
        if let Some(bell) = self.lock().get(&job) {
            bell.send_modify(|count| *count += 1);
        }
    }

    /// The logs that someone waits for.
    pub(super) fn jobs(&self) -> Vec<JobId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, watch::Sender<u64>>> {
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
