//! What a shim is told: one file in its run directory, written before the shim starts.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use common::application::StopSignal;
use common::id::InstanceId;
use common::time::Span;
use serde::{Deserialize, Serialize};

use super::lease::Lease;

/// The file's name in the run directory.
const FILE_NAME: &str = "specification.json";

/// Larger than a specification is as a rule.
const USUAL_BYTES: usize = 8 << 10;

/// The variable that marks every process of one run; its value is in the specification file.
pub(crate) const RUN_VARIABLE: &str = "PM_RUN";

/// Everything that a shim must know to run one instance once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Specification {
    /// The instance that is run.
    pub instance: InstanceId,
    /// The program and its arguments; the program is looked up in the environment's `PATH`.
    pub arguments: Vec<String>,
    /// The whole environment of the application; nothing is inherited. `PM_RUN` is added.
    pub environment: BTreeMap<String, String>,
    /// The working directory.
    pub directory: PathBuf,
    /// Sent to the application's process group when a stop is requested.
    pub stop_signal: StopSignal,
    /// Time between the stop signal and SIGKILL of the whole tree.
    pub grace: Span,
    /// Where the output goes; shared by all runs of the instance, one after the other.
    pub log_directory: PathBuf,
    /// How much output is kept.
    pub log_limits: LogLimits,
    /// What an exclusive instance must hold to run; none for any other.
    #[serde(default)]
    pub lease: Option<Lease>,
}

/// How much output of an instance is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A segment that has reached this length is closed and the next one begun.
    pub segment_bytes: u64,
    /// How many segments are kept, the one being written included; at least one.
    pub segments: u32,
}

impl Default for LogLimits {
    /// 4 × 4 MiB: a few minutes of a chatty application, and small enough for a thousand instances.
    fn default() -> Self {
        Self {
            segment_bytes: 4 << 20,
            segments: 4,
        }
    }
}

/// The file's content: the specification and the marker of this run.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredSpecification {
    /// Unguessable, so that no stranger's environment holds it by chance or by intent.
    pub(crate) marker: String,
    pub(crate) specification: Specification,
}

impl Specification {
    /// Writes the specification into `run_directory`, readable by its owner only (it holds
    /// secrets), and creates the directory if needed.
    ///
    /// A run directory is used for one run: records of an earlier run in it are removed.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, run_directory: &Path) -> io::Result<()> {
        fs::create_dir_all(run_directory)?;
        super::record::remove_all(run_directory)?;
        let stored = StoredSpecification {
            marker: new_marker()?,
            specification: self.clone(),
        };
        let path = run_directory.join(FILE_NAME);
        let temporary = run_directory.join("specification.json.tmp");
        let mut file = create_private(&temporary)?;
        file.write_all(&serde_json::to_vec(&stored)?)?;
        fs::rename(temporary, path)
    }
}

/// Removes the specification from a run directory, if there is one.
pub(crate) fn remove(run_directory: &Path) -> io::Result<()> {
    remove_if_present(&run_directory.join(FILE_NAME))
}

impl StoredSpecification {
    /// Reads what [`Specification::write`] wrote.
    pub(crate) fn read(run_directory: &Path) -> io::Result<Self> {
        let mut file = File::open(run_directory.join(FILE_NAME))?;
        // In one piece, as a rule: someone waits for the application.
        let mut bytes = vec![0; USUAL_BYTES];
        let length = file.read(&mut bytes)?;
        if length < bytes.len() {
            bytes.truncate(length);
        } else {
            file.read_to_end(&mut bytes)?;
        }
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl StoredSpecification {
    /// One like those that come, with nothing in it that could be run.
    pub(crate) fn sample() -> Self {
        let text = "sample";
        Self {
            marker: text.to_owned(),
            specification: Specification {
                instance: InstanceId::default(),
                arguments: vec![text.to_owned()],
                environment: ["HOME", "PATH", "PM_METADATA", "PM_PORT"]
                    .into_iter()
                    .map(|name| (name.to_owned(), text.repeat(20)))
                    .collect(),
                directory: PathBuf::from("/"),
                stop_signal: StopSignal::Term,
                grace: Span::default(),
                log_directory: PathBuf::from("/"),
                log_limits: LogLimits::default(),
                lease: None,
            },
        }
    }
}

/// Creates a file that only its owner may read, because it holds secrets; replaces what is there.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    remove_if_present(path)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Removes a file that may be absent.
pub(crate) fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn new_marker() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}
