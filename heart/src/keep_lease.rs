//! Keeps the lease of exclusive instances extended, and never waits long for the disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::shim::{BootTime, LeaseFile};

/// The disk takes some microseconds; reports must go on when it hangs.
const PATIENCE: Duration = Duration::from_millis(200);

/// Extends the lease.
#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    file: Arc<Mutex<LeaseFile>>,
    /// A write that the disk has not taken yet.
    writing: Option<JoinHandle<bool>>,
    /// False after a failed write, which is logged once.
    is_written: bool,
}

impl LeaseKeeper {
    pub(crate) fn new(file: LeaseFile) -> Self {
        Self {
            file: Arc::new(Mutex::new(file)),
            writing: None,
            is_written: true,
        }
    }

    /// Extends the lease, unless an earlier extension still waits for the disk: shims then stop
    /// what they cannot see to be allowed, which is safe.
    pub(crate) async fn extend(&mut self, until: BootTime) {
        if let Some(writing) = self.writing.take_if(|writing| writing.is_finished()) {
            self.is_written = writing.await.unwrap_or(false);
        }
        if self.writing.is_some() {
            return;
        }
        let (file, was_written) = (Arc::clone(&self.file), self.is_written);
        let mut writing = tokio::task::spawn_blocking(move || {
            // The lock guards one number; a panic elsewhere leaves it whole.
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let extended = file.extend(until);
            if let Err(error) = &extended
                && was_written
            {
                tracing::error!(%error, "extending the lease of exclusive instances, which will be stopped");
            }
            extended.is_ok()
        });
        match tokio::time::timeout(PATIENCE, &mut writing).await {
            Ok(written) => self.is_written = written.unwrap_or(false),
            Err(_elapsed) => {
                tracing::warn!("the disk takes long to extend the lease of exclusive instances");
                self.writing = Some(writing);
            }
        }
    }
}
