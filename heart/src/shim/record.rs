//! What a shim leaves on disk: who runs (`process.json`) and how it ended (`exit.json`).
//!
//! Both are written to a temporary name and renamed, so a reader sees a whole record or none.
//! They are not fsynced: after a power cut the boot id says that nothing of them runs any more.

use std::fs;
use std::io;
use std::path::Path;

use common::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::ProcessIdentity;
use super::specification::remove_if_present;

const PROCESS: &str = "process.json";
const EXIT: &str = "exit.json";

/// Ends an answer; no JSON text holds it.
pub(super) const ANSWER_END: u8 = b'\n';

/// The processes of a run; written once the application has been executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// The shim, which lives as long as anything of the application does.
    pub shim: ProcessIdentity,
    /// The application's main process, leader of its own session and process group.
    pub application: ProcessIdentity,
    /// The inode of the pipe that takes the application's output; marks who still holds it.
    #[serde(default)]
    pub output_pipe: u64,
}

/// What became of a start: the answer of a shim to its spawner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    /// The application has been executed; `process.json` follows at once.
    Running(ProcessRecord),
    /// It could not be executed; `exit.json` says so too, and the shim is about to end.
    Failed {
        /// The shim.
        shim: ProcessIdentity,
        /// What was tried and what the system answered.
        message: String,
    },
}

impl Started {
    /// The answer that says so.
    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(ANSWER_END);
        line
    }
}

/// How a run ended; written when nothing of the application is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// What happened to the main process.
    #[serde(flatten)]
    pub ending: Ending,
    /// When the record was written, by the machine's clock.
    pub at: Timestamp,
    /// True when the stop had been requested before the main process ended.
    #[serde(default)]
    pub stop_requested: bool,
    /// True when the lease of an exclusive instance was over, so that the shim stopped it.
    #[serde(default)]
    pub cut_off: bool,
    /// Bytes of output that the disk did not take before the end; zero on a healthy disk.
    #[serde(default)]
    pub output_lost: u64,
}

/// What happened to the main process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ending {
    /// It ended by itself.
    Exited {
        /// The exit code, 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It was never executed.
    LaunchFailed {
        /// What was tried and what the system answered.
        message: String,
    },
}

impl ProcessRecord {
    /// Reads the record of a run; `None` when the application has not been executed (yet).
    ///
    /// # Errors
    /// When the file exists and cannot be read or understood.
    pub fn read(run_directory: &Path) -> io::Result<Option<Self>> {
        read(&run_directory.join(PROCESS))
    }

    /// Writes the record.
    pub(crate) fn write(&self, run_directory: &Path) -> io::Result<()> {
        write(self, run_directory, PROCESS)
    }

    /// Removes the record, unless it is another run's.
    pub(crate) fn remove(&self, run_directory: &Path) -> io::Result<()> {
        match Self::read(run_directory)? {
            Some(found) if found == *self => remove_if_present(&run_directory.join(PROCESS)),
            _ => Ok(()),
        }
    }
}

impl ExitRecord {
    /// Reads the record of a run; `None` when it has not ended (or its shim was killed).
    ///
    /// # Errors
    /// When the file exists and cannot be read or understood.
    pub fn read(run_directory: &Path) -> io::Result<Option<Self>> {
        read(&run_directory.join(EXIT))
    }

    /// Writes the record.
    pub(crate) fn write(&self, run_directory: &Path) -> io::Result<()> {
        write(self, run_directory, EXIT)
    }
}

/// Removes the records of an earlier run.
pub(crate) fn remove_all(run_directory: &Path) -> io::Result<()> {
    remove_if_present(&run_directory.join(PROCESS))?;
    remove_if_present(&run_directory.join(EXIT))
}

fn read<Record: DeserializeOwned>(path: &Path) -> io::Result<Option<Record>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write<Record: Serialize>(record: &Record, run_directory: &Path, name: &str) -> io::Result<()> {
    let temporary = run_directory.join(format!("{name}.tmp"));
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(temporary, run_directory.join(name))
}
