//! What the roles log: everything at level info to a bounded file, warnings to stderr.
//!
//! `PM_LOG` (for example `debug` or `router=trace`) chooses what the file has.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, Targets, dynamic_filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// The size at which the log is put aside. With the one put aside the log takes twice as much.
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What the file has unless `PM_LOG` says otherwise; openraft tells every vote at level info, and of a
/// pacemaker that is away twenty times a second at level warn.
const DEFAULT_FILTER: &str = "info,openraft=error";

/// Sends what the process logs to `path`, and to stderr from `stderr_level` on.
pub(crate) fn start(path: &Path, stderr_level: LevelFilter) -> io::Result<()> {
    let file = BoundedFile::open(path)?;
    let filter =
        EnvFilter::try_from_env("PM_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let to_file = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(file)
        .with_filter(filter);
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .with_filter(
            Targets::new()
                .with_default(stderr_level)
                .with_target("openraft", stderr_level.min(LevelFilter::ERROR))
                .and(dynamic_filter_fn(|metadata, _| is_worth_showing(metadata))),
        );
    tracing_subscriber::registry()
        .with(to_file)
        .with(to_stderr)
        .try_init()
        .map_err(io::Error::other)
}

/// Warnings that the pacemaker does not answer, which it cannot while it reads its log.
const EXPECTED_AT_START: [&str; 4] = [
    "heart::follow",
    "heart::report",
    "router::report",
    "router::table",
];

/// Set once the pacemaker has answered; a start that never gets there fails with its own error.
static HAS_STARTED: AtomicBool = AtomicBool::new(false);

/// From now on a silent pacemaker is worth a warning.
pub(crate) fn has_started() {
    HAS_STARTED.store(true, Ordering::Relaxed);
}

fn is_worth_showing(metadata: &Metadata<'_>) -> bool {
    HAS_STARTED.load(Ordering::Relaxed)
        || *metadata.level() != Level::WARN
        || !EXPECTED_AT_START.contains(&metadata.target())
}

/// A file that is put aside under the name `….1` when it is full.
#[derive(Clone, Debug)]
pub(crate) struct BoundedFile {
    state: Arc<Mutex<Open>>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    length: u64,
}

impl BoundedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            state: Arc::new(Mutex::new(Open {
                path: path.to_owned(),
                file,
                length,
            })),
        })
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl Write for &BoundedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if open.length >= LOG_MAX_BYTES {
            let mut aside = open.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&open.path, aside)?;
            open.file = append(&open.path)?;
            open.length = 0;
        }
        let written = open.file.write(bytes)?;
        open.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to a [`BoundedFile`].
#[derive(Debug)]
pub(crate) struct Writer<'a>(&'a BoundedFile);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<'a> MakeWriter<'a> for BoundedFile {
    type Writer = Writer<'a>;

    fn make_writer(&'a self) -> Writer<'a> {
        Writer(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pm.log");
        let file = BoundedFile::open(&path).unwrap();
        file.state.lock().unwrap().length = LOG_MAX_BYTES;

        (&file).write_all(b"after").unwrap();

        assert_eq!(std::fs::read(&path).unwrap(), b"after");
        assert!(directory.path().join("pm.log.1").exists());
    }
}
