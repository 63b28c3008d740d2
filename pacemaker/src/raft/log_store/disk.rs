//! The log's file: opening it, checking it, and reading it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
};

use super::tail::Tail;
use crate::files::sync_directory;
use crate::raft::types::{self, Entry, StoredLogId, StoredVote, damaged};

pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const VOTE: &str = "vote";
pub(super) const COMMITTED: &str = "committed";
pub(super) const PURGED: &str = "purged";
const FORMAT: &str = "format";

/// The layout of the file that this release reads and writes.
const FORMAT_VERSION: &[u8] = b"1";
/// How long to wait for a process that is just ending to let go of the file.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at a file that is in use.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);
/// The page cache of the store, which is read only at start and past the tail.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process has it open.
    #[error("the log {} is in use by another process; only one may run on a data directory", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// What it holds cannot be right.
    #[error("the log {} is damaged, so that this pacemaker does not vote; where others vote, take its node out of the cluster and let the machine join anew, else restore the data directory from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        source: io::Error,
    },
    /// Another release wrote it.
    #[error("the log {} has format `{found}` and this release reads format `1`; start the release that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The disk refused.
    #[error("opening the log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The file.
pub(super) struct Disk {
    pub(super) database: Database,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the file, checks every page and record of it, and reads its end.
    pub(super) fn open(path: &Path) -> Result<(Self, Tail), OpenError> {
        Self::of(path, || open_checked(path))
    }

    /// The same on a simulated disk; an empty one gets an empty log.
    #[cfg(test)]
    pub(super) fn simulated(backend: impl redb::StorageBackend) -> Result<(Self, Tail), OpenError> {
        let path = Path::new("simulated");
        Self::of(path, || {
            let is_new = backend.len().is_ok_and(|length| length == 0);
            let database = builder()
                .create_with_backend(backend)
                .map_err(|error| refused(path, error))?;
            if !is_new {
                return check(path, database);
            }
            format(&database).map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
            Ok(database)
        })
    }

    fn of(
        path: &Path,
        open: impl FnOnce() -> Result<Database, OpenError>,
    ) -> Result<(Self, Tail), OpenError> {
        let broken = |source: io::Error| OpenError::Damaged {
            path: path.to_owned(),
            source,
        };
        // The store panics on some damage; at this place that is one more way to say "damaged".
        let opened = catch_unwind(AssertUnwindSafe(open));
        let database = opened
            .unwrap_or_else(|_| Err(broken(damaged("the store gave up while reading it"))))?;
        let disk = Self { database };
        let read = catch_unwind(AssertUnwindSafe(|| disk.load()));
        match read {
            Ok(Ok(Loaded::Tail(tail))) => Ok((disk, *tail)),
            Ok(Ok(Loaded::OtherFormat(found))) => Err(OpenError::Format {
                path: path.to_owned(),
                found,
            }),
            Ok(Err(source)) => Err(broken(source)),
            Err(_) => Err(broken(damaged("the store gave up while reading it"))),
        }
    }

    fn load(&self) -> io::Result<Loaded> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let meta = transaction.open_table(META).map_err(damaged)?;
        let get = |key: &str| -> io::Result<Option<Vec<u8>>> {
            let value = meta.get(key).map_err(damaged)?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        let format = get(FORMAT)?.ok_or_else(|| damaged("it does not say its format"))?;
        if format != FORMAT_VERSION {
            let found = String::from_utf8_lossy(&format).into_owned();
            return Ok(Loaded::OtherFormat(found));
        }
        let log_id = |key: &str| -> io::Result<Option<_>> {
            get(key)?
                .map(|bytes| types::decode::<StoredLogId>(&bytes).map(Into::into))
                .transpose()
        };
        let mut tail = Tail::default();
        tail.vote = get(VOTE)?
            .map(|bytes| types::decode::<StoredVote>(&bytes).map(Into::into))
            .transpose()?;
        tail.load_commit(log_id(COMMITTED)?);
        if let Some(purged) = log_id(PURGED)? {
            tail.purge(purged);
        }
        let log = transaction.open_table(LOG).map_err(damaged)?;
        let first = tail.purged.map_or(0, |purged| purged.index() + 1);
        for (next, item) in (first..).zip(log.iter().map_err(damaged)?) {
            let (key, value) = item.map_err(damaged)?;
            let entry = types::decode_entry(value.value())?;
            let index = entry.log_id.index();
            if key.value() != next || index != next {
                return Err(damaged(format!(
                    "entry {next} is missing; entry {} follows",
                    key.value()
                )));
            }
            tail.load(entry, value.value().len());
        }
        Ok(Loaded::Tail(Box::new(tail)))
    }

    /// Reads entries that memory no longer has.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let end = range.end;
        let mut entries: Vec<Entry> = Vec::new();
        for item in log.range(range).map_err(io::Error::other)? {
            let (_, value) = item.map_err(io::Error::other)?;
            entries.push(types::decode_entry(value.value())?);
        }
        // The front may have been purged meanwhile; a hole, or a missing end, may not be.
        let first = entries.first().map_or(end, |entry| entry.log_id.index());
        if first + entries.len() as u64 != end {
            return Err(damaged("entries are missing from the log"));
        }
        Ok(entries)
    }
}

enum Loaded {
    Tail(Box<Tail>),
    OtherFormat(String),
}

fn open_checked(path: &Path) -> Result<Database, OpenError> {
    let fail = |source: io::Error| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    if !path.try_exists().map_err(fail)? {
        return create(path).map_err(fail);
    }
    let started = Instant::now();
    let database = loop {
        match builder().open(path) {
            Ok(database) => break database,
            Err(DatabaseError::DatabaseAlreadyOpen) if started.elapsed() < BUSY_PATIENCE => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a lock gives no event to wait for"
                )]
                std::thread::sleep(BUSY_INTERVAL);
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(OpenError::Busy {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(refused(path, error)),
        }
    };
    check(path, database)
}

fn check(path: &Path, mut database: Database) -> Result<Database, OpenError> {
    match database.check_integrity() {
        Ok(true) => Ok(database),
        Ok(false) => Err(OpenError::Damaged {
            path: path.to_owned(),
            source: damaged("pages of it do not match their checks"),
        }),
        Err(error) => Err(refused(path, error)),
    }
}

/// A disk that fails, or is full, says nothing about the log: nobody may be told to remove it.
fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            OpenError::Io { path, source }
        }
        DatabaseError::Storage(error @ redb::StorageError::PreviousIo) => OpenError::Io {
            path,
            source: io::Error::other(error),
        },
        error => OpenError::Damaged {
            path,
            source: damaged(error),
        },
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes an empty log under another name first: one that is half made is never taken for damaged.
fn create(path: &Path) -> io::Result<Database> {
    let temporary = path.with_extension("new");
    if temporary.try_exists()? {
        std::fs::remove_file(&temporary)?;
    }
    let database = builder().create(&temporary).map_err(io::Error::other)?;
    format(&database)?;
    std::fs::rename(&temporary, path)?;
    if let Some(directory) = path.parent() {
        sync_directory(directory)?;
    }
    Ok(database)
}

fn format(database: &Database) -> io::Result<()> {
    let mut transaction = database.begin_write().map_err(io::Error::other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(io::Error::other)?;
    {
        transaction.open_table(LOG).map_err(io::Error::other)?;
        let mut meta = transaction.open_table(META).map_err(io::Error::other)?;
        meta.insert(FORMAT, FORMAT_VERSION)
            .map_err(io::Error::other)?;
    }
    transaction.commit().map_err(io::Error::other)
}
