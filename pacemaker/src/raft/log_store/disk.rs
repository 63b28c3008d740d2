//! The log's file and the thread that writes it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use openraft::storage::IOFlushed;
use prometheus_client::metrics::histogram::Histogram;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
};
use tokio::sync::{mpsc, oneshot};

use super::tail::{EncodedEntry, Tail};
use crate::raft::types::{self, Entry, StoredLogId, StoredVote, TypeConfig, damaged};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const FORMAT: &str = "format";

/// The layout of the file that this release reads and writes.
const FORMAT_VERSION: &[u8] = b"1";
/// How long to wait for a process that is just ending to let go of the file.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at a file that is in use.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);
/// Writes that go into one transaction: bounds how long the first of them waits.
const BATCH_LENGTH: usize = 1024;
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
    #[error("the log {} is damaged; restore the data directory from a backup, or remove it to start an empty cluster", path.display())]
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
    database: Database,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the file, checks every page and record of it, and reads its end.
    pub(super) fn open(path: &Path) -> Result<(Self, Tail), OpenError> {
        let broken = |source: io::Error| OpenError::Damaged {
            path: path.to_owned(),
            source,
        };
        // The store panics on some damage; at this place that is one more way to say "damaged".
        let opened = catch_unwind(AssertUnwindSafe(|| open_checked(path)));
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
        tail.committed = log_id(COMMITTED)?;
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
    let is_new = !path.try_exists().map_err(fail)?;
    let started = Instant::now();
    let mut database = loop {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        match builder.create(path) {
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
            Err(DatabaseError::Storage(redb::StorageError::Io(source)))
                if source.kind() != io::ErrorKind::InvalidData
                    && source.kind() != io::ErrorKind::UnexpectedEof =>
            {
                return Err(fail(source));
            }
            Err(error) => {
                return Err(OpenError::Damaged {
                    path: path.to_owned(),
                    source: damaged(error),
                });
            }
        }
    };
    if is_new {
        create_tables(&database).map_err(fail)?;
    } else if !matches!(database.check_integrity(), Ok(true)) {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            source: damaged("pages of it do not match their checks"),
        });
    }
    Ok(database)
}

fn create_tables(database: &Database) -> io::Result<()> {
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

/// One thing to be written, in the order of the queue.
pub(super) enum Write {
    /// Entries at the end.
    Append {
        /// The number that [`Tail::append`] gave.
        write: u64,
        /// What goes to the disk.
        records: Vec<EncodedEntry>,
        /// Told when they are there.
        done: IOFlushed<TypeConfig>,
    },
    /// A vote.
    Vote {
        /// Encoded.
        record: Vec<u8>,
        /// Told when it is there.
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Entries from the end.
    Truncate {
        /// The first that goes.
        from: u64,
    },
    /// Entries from the front.
    Purge {
        /// The last that goes.
        to: u64,
        /// The encoded log id of it.
        record: Vec<u8>,
    },
    /// What is committed; waits for the next other write, because it only saves time at a restart.
    Committed {
        /// The encoded log id.
        record: Vec<u8>,
    },
}

/// The thread that writes.
pub(super) struct WriterThread {
    pub(super) disk: Arc<Disk>,
    pub(super) tail: Arc<Mutex<Tail>>,
    pub(super) waiting: mpsc::Receiver<Write>,
    pub(super) flush_seconds: Histogram,
}

impl WriterThread {
    /// Writes until the last log store is gone.
    ///
    /// After an error nothing is written any more: what is on disk is then unknown, every waiter
    /// hears of it, and openraft stops for good.
    pub(super) fn run(mut self) {
        let mut failed: Option<String> = None;
        let mut committed: Option<Vec<u8>> = None;
        let mut batch = Vec::new();
        while let Some(first) = self.waiting.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH_LENGTH {
                let Ok(next) = self.waiting.try_recv() else {
                    break;
                };
                batch.push(next);
            }
            let is_empty = batch
                .iter()
                .all(|write| matches!(write, Write::Committed { .. }));
            for write in &batch {
                if let Write::Committed { record } = write {
                    committed = Some(record.clone());
                }
            }
            if failed.is_none() && !is_empty {
                let started = Instant::now();
                if let Err(error) = self.commit(&batch, committed.take().as_deref()) {
                    tracing::error!(%error, "writing the log failed; nothing more is written");
                    failed = Some(error.to_string());
                }
                self.flush_seconds.observe(started.elapsed().as_secs_f64());
            }
            self.answer(batch.drain(..), failed.as_deref());
        }
        if failed.is_none()
            && committed.is_some()
            && let Err(error) = self.commit(&[], committed.as_deref())
        {
            tracing::warn!(%error, "noting what is committed failed; a restart takes longer");
        }
    }

    fn commit(&self, batch: &[Write], committed: Option<&[u8]>) -> io::Result<()> {
        let mut transaction = self.disk.database.begin_write().map_err(io::Error::other)?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(io::Error::other)?;
        {
            let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
            let mut meta = transaction.open_table(META).map_err(io::Error::other)?;
            for write in batch {
                match write {
                    Write::Append { records, .. } => {
                        for (index, bytes) in records {
                            log.insert(*index, &**bytes).map_err(io::Error::other)?;
                        }
                    }
                    Write::Vote { record, .. } => {
                        meta.insert(VOTE, record.as_slice())
                            .map_err(io::Error::other)?;
                    }
                    Write::Truncate { from } => {
                        log.retain_in(*from.., |_, _| false)
                            .map_err(io::Error::other)?;
                    }
                    Write::Purge { to, record } => {
                        log.retain_in(..=*to, |_, _| false)
                            .map_err(io::Error::other)?;
                        meta.insert(PURGED, record.as_slice())
                            .map_err(io::Error::other)?;
                    }
                    Write::Committed { .. } => {}
                }
            }
            if let Some(record) = committed {
                meta.insert(COMMITTED, record).map_err(io::Error::other)?;
            }
        }
        transaction.commit().map_err(io::Error::other)
    }

    fn answer(&self, batch: impl Iterator<Item = Write>, failed: Option<&str>) {
        let result = || match failed {
            Some(why) => Err(io::Error::other(why.to_owned())),
            None => Ok(()),
        };
        for write in batch {
            match write {
                Write::Append { write, done, .. } => {
                    if failed.is_none() {
                        let mut tail = self.tail.lock();
                        if let Ok(tail) = &mut tail {
                            tail.durable(write);
                        }
                    }
                    done.io_completed(result());
                }
                Write::Vote { done, .. } => {
                    if done.send(result()).is_err() {
                        tracing::debug!("nobody waits for a vote any more");
                    }
                }
                Write::Truncate { .. } | Write::Purge { .. } | Write::Committed { .. } => {}
            }
        }
    }
}
