//! Whether the disk has room for the log: a log that cannot be written ends the process, so nothing
//! new is taken in while there is still room for what is under way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Room that is kept for what is under way: the largest entries, a snapshot, and the store's own
/// growth, which comes in steps.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;
/// How old an answer of the system may be.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Looks at the disk of a directory; clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Room {
    directory: PathBuf,
    seen: Arc<Mutex<Option<(Instant, bool)>>>,
}

impl Room {
    /// Of the disk that holds `directory`.
    pub(super) fn of(directory: PathBuf) -> Self {
        Self {
            directory,
            seen: Arc::default(),
        }
    }

    /// True when a command can be taken in. A disk that does not say is not full.
    pub(super) fn is_there(&self) -> bool {
        let mut seen = self
            .seen
            .lock()
            .expect("no one panics while looking at the disk");
        if let Some((at, has_room)) = *seen
            && at.elapsed() < LOOK_INTERVAL
        {
            return has_room;
        }
        let disk = rustix::fs::statvfs(&self.directory);
        let has_room = disk.map_or(true, |disk| {
            disk.f_bavail.saturating_mul(disk.f_frsize) >= RESERVE_BYTES
        });
        let before = seen.replace((Instant::now(), has_room));
        if before.is_none_or(|(_, before)| before) && !has_room {
            tracing::error!(directory = %self.directory.display(), "the disk of the log is full; nothing is changed any more until there is room");
        } else if before.is_some_and(|(_, before)| !before) && has_room {
            tracing::info!("the disk of the log has room again");
        }
        has_room
    }
}
