//! Starts shims.
//!
//! A shim is executed by the posix_spawn path: `std::process::Command` takes it as long as no
//! `pre_exec`, uid, gid or groups are asked for, so the cost does not grow with the heart's memory.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::process::ProcessIdentity;

/// Starts one shim per run of an instance.
#[derive(Debug)]
pub struct Spawner {
    shim_program: PathBuf,
    arguments: Vec<OsString>,
    /// Shims that this process must reap when they end.
    children: Mutex<Vec<Child>>,
}

/// A shim could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The shim's program could not be executed.
    #[error("could not execute the shim {}", program.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The shim ended before it had started the application and left no record.
    #[error("the shim ended before it had started the application")]
    ShimDied,
    /// The shim could not be identified.
    #[error("could not read the identity of the shim")]
    Identity(#[source] io::Error),
}

impl Spawner {
    /// A spawner that executes `shim_program` with `arguments` before the shim's own ones
    /// (`--directory <run directory>`).
    #[must_use]
    pub fn new(shim_program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self {
            shim_program,
            arguments,
            children: Mutex::new(Vec::new()),
        }
    }

    /// Starts a shim on `run_directory`, which holds a written specification.
    ///
    /// Blocks (about a millisecond) until the application has been executed, and then
    /// `process.json` exists, or until that has failed, and then `exit.json` exists.
    ///
    /// # Errors
    /// When the shim itself could not do its work; then nothing runs.
    pub fn spawn(&self, run_directory: &Path) -> Result<ProcessIdentity, SpawnError> {
        self.reap();
        let mut child = Command::new(&self.shim_program)
            .args(&self.arguments)
            .arg("--directory")
            .arg(run_directory)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| SpawnError::Execute {
                program: self.shim_program.clone(),
                source,
            })?;
        // The child has not been reaped, so its pid is its own.
        let identity = ProcessIdentity::of(child.id()).map_err(SpawnError::Identity)?;
        let mut ready = Vec::new();
        let answered = child
            .stdout
            .take()
            .is_some_and(|mut pipe| pipe.read_to_end(&mut ready).is_ok());
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(child);
        if answered && ready == super::READY {
            Ok(identity)
        } else {
            Err(SpawnError::ShimDied)
        }
    }

    /// Reaps the shims that have ended.
    fn reap(&self) {
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}
