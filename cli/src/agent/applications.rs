//! The application processes of a data directory, seen without a heart.
//!
//! Used when a `pm dev` or a `pm agent` has ended: to say what goes on running, and to stop it. Knows only what the
//! heart's shims leave on disk; never touches a process that those records do not name.

use std::path::Path;
use std::time::Duration;

use heart::shim::{ProcessRecord, request_stop};

use crate::error::CommandError;

/// Time between two looks at processes that have been asked to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The records of the runs that have a living shim.
///
/// Only those in the platform's own directories: an application may write anything into its own.
pub(crate) fn running(heart: &Path) -> Vec<ProcessRecord> {
    heart::run_directories(heart)
        .iter()
        .filter_map(|directory| ProcessRecord::read(directory).ok().flatten())
        .filter(|record| record.shim.is_alive())
        .collect()
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

#[cfg(test)]
mod tests {
    use std::fs;

    use heart::shim::ProcessIdentity;

    use super::*;

    #[test]
    fn a_record_in_an_applications_own_directory_names_nobody() {
        let heart = tempfile::tempdir().unwrap();
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        let record = ProcessRecord {
            shim: own.clone(),
            application: own,
            output_pipe: 0,
        };
        let leave = |path: &str| {
            let directory = heart.path().join(path);
            fs::create_dir_all(&directory).unwrap();
            let text = serde_json::to_vec(&record).unwrap();
            fs::write(directory.join("process.json"), text).unwrap();
        };

        leave("instances/1/code");
        leave("instances/1/code/run");
        leave("builds/2/code");
        assert_eq!(running(heart.path()), []);

        leave("instances/1/run");
        assert_eq!(running(heart.path()), std::slice::from_ref(&record));
    }
}
