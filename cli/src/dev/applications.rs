//! The application processes of a data directory, seen without a heart.
//!
//! Used when a `pm dev` has ended: to say what goes on running, and to stop it. Knows only what the
//! heart's shims leave on disk; never touches a process that those records do not name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use heart::shim::{ProcessRecord, request_stop};

use crate::error::CommandError;

/// How deep records lie below the heart's directory; deeper are the applications' own files.
const RECORD_DEPTH_MAX: usize = 4;
/// Time between two looks at processes that have been asked to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The records of the runs that have a living shim.
pub(crate) fn running(heart: &Path) -> Vec<ProcessRecord> {
    let mut records = Vec::new();
    collect(heart, 0, &mut records);
    records
}

fn collect(directory: &Path, depth: usize, records: &mut Vec<ProcessRecord>) {
    if let Ok(Some(record)) = ProcessRecord::read(directory)
        && record.shim.is_alive()
    {
        records.push(record);
        return;
    }
    if depth == RECORD_DEPTH_MAX {
        return;
    }
    // A directory that vanishes meanwhile has nothing running in it.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let directories = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path());
    let mut directories: Vec<PathBuf> = directories.collect();
    directories.sort();
    for directory in directories {
        collect(&directory, depth + 1, records);
    }
}

/// Asks all of them to stop and waits until they have; their grace bounds the wait.
pub(crate) async fn stop(records: &[ProcessRecord]) -> Result<(), CommandError> {
    for record in records {
        request_stop(&record.shim).map_err(|error| {
            CommandError::file(
                format!(
                    "stop the application with process {}",
                    record.application.pid
                ),
                &error,
            )
        })?;
    }
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    while records.iter().any(|record| record.shim.is_alive()) {
        interval.tick().await;
    }
    Ok(())
}
