//! The journal: what must survive the heart, one [`Entry`] per instance, in redb.
//!
//! One thread owns the database and writes every change that waits in one transaction, durable when
//! it is acknowledged. A change is remembered until it is written, so a full disk delays the journal
//! and loses nothing while the heart runs. After a failed write redb refuses everything, so the
//! database is opened again before the next try. What a process is, how it ended and what is laid out is found on disk again;
//! the journal holds what the disk does not say: which port belongs to whom, restarts, failures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use common::id::InstanceId;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::oneshot;

use super::Entry;

/// Entries as JSON by instance: an entry of a later release may have fields that this one ignores.
const INSTANCES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("instances");

/// Changes that may wait for the disk: more than a node has instances, so the loop never waits.
const QUEUE_LENGTH: usize = 8192;

/// How soon a write that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory that redb may use for its cache: the journal is small.
const CACHE_BYTES: usize = 1 << 20;

/// The journal could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database file.
    #[error("opening the journal {}", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// The thread that writes.
    #[error("starting the journal's thread")]
    Thread(#[source] std::io::Error),
}

/// Hands changes to the journal's thread; dropping it ends the thread once all is written.
#[derive(Debug)]
pub(crate) struct Journal {
    changes: Option<SyncSender<Change>>,
    /// What has been handed over, so that nothing is written twice.
    known: BTreeMap<InstanceId, Entry>,
    thread: Option<JoinHandle<()>>,
}

/// Resolves once the change is on disk; with an error when the journal's thread is gone.
pub(crate) type Written = oneshot::Receiver<()>;

#[derive(Debug)]
struct Change {
    instance: InstanceId,
    /// `None`: the instance is forgotten.
    entry: Option<Entry>,
    written: oneshot::Sender<()>,
}

impl Journal {
    /// Opens (or makes) the journal and reads all of it.
    pub(crate) fn open(path: &Path) -> Result<(Self, BTreeMap<InstanceId, Entry>), Error> {
        let (
            database,
            Stored {
                entries,
                unreadable,
            },
        ) = load(path)?;
        let (changes, receiver) = sync_channel(QUEUE_LENGTH);
        let writer = Writer {
            path: path.to_owned(),
            database: Some(database),
            waiting: unreadable.into_iter().map(|id| (id, None)).collect(),
            callers: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("heart-journal".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(Error::Thread)?;
        let journal = Self {
            changes: Some(changes),
            known: entries.clone(),
            thread: Some(thread),
        };
        Ok((journal, entries))
    }

    /// Notes how an instance stands; nothing happens when it stands as it did.
    pub(crate) fn note(&mut self, instance: InstanceId, entry: Option<&Entry>) -> Written {
        let (written, receiver) = oneshot::channel();
        if self.known.get(&instance) == entry {
            // The receiver may be gone, and then nobody waits.
            written.send(()).ok();
            return receiver;
        }
        match entry {
            Some(entry) => self.known.insert(instance, entry.clone()),
            None => self.known.remove(&instance),
        };
        let change = Change {
            instance,
            entry: entry.cloned(),
            written,
        };
        if let Some(changes) = &self.changes {
            // Fails only when the thread has panicked: the receiver then says so to who waits.
            drop(changes.send(change));
        }
        receiver
    }

    /// The instances that the journal has an entry of.
    pub(crate) fn known(&self) -> impl Iterator<Item = InstanceId> + '_ {
        self.known.keys().copied()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            drop(thread.join());
        }
    }
}

/// What the journal holds when it is opened.
struct Stored {
    entries: BTreeMap<InstanceId, Entry>,
    /// Whose entries make no sense.
    unreadable: Vec<InstanceId>,
}

/// Opens the database, or makes it.
fn open(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)?;
    Ok(database)
}

/// Reads everything. An entry that makes no sense is as good as none: its instance is removed like
/// any that the journal does not know of, and laid out anew when it is still assigned.
fn load(path: &Path) -> Result<(Database, Stored), Error> {
    let open_error = |source: redb::Error| Error::Open {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let database = open(path).map_err(open_error)?;
    let mut stored = Stored {
        entries: BTreeMap::new(),
        unreadable: Vec::new(),
    };
    for (instance, bytes) in read_all(&database).map_err(open_error)? {
        match serde_json::from_slice(&bytes) {
            Ok(entry) => {
                stored.entries.insert(instance, entry);
            }
            Err(error) => {
                tracing::error!(%instance, %error, "dropping an entry of the journal");
                stored.unreadable.push(instance);
            }
        }
    }
    Ok((database, stored))
}

fn read_all(database: &Database) -> Result<Vec<(InstanceId, Vec<u8>)>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(INSTANCES) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut stored = Vec::new();
    for item in table.iter()? {
        let (key, value) = item?;
        stored.push((InstanceId(key.value()), value.value().to_vec()));
    }
    Ok(stored)
}

/// The journal's thread.
struct Writer {
    path: PathBuf,
    /// `None` when it must be opened again first.
    database: Option<Database>,
    /// What is to be written; the last change of each instance.
    waiting: BTreeMap<InstanceId, Option<Entry>>,
    callers: Vec<oneshot::Sender<()>>,
}

impl Writer {
    /// Writes until the journal is dropped and everything has been written, or cannot be.
    fn run(mut self, changes: &Receiver<Change>) {
        loop {
            let is_over = match changes.recv_timeout(RETRY_AFTER) {
                Ok(change) => {
                    for change in std::iter::once(change).chain(changes.try_iter()) {
                        self.waiting.insert(change.instance, change.entry);
                        self.callers.push(change.written);
                    }
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if !self.waiting.is_empty() {
                self.write_waiting();
            }
            if is_over {
                return;
            }
        }
    }

    fn write_waiting(&mut self) {
        match self.try_write() {
            Ok(()) => {
                self.waiting.clear();
                for caller in self.callers.drain(..) {
                    // Most callers do not wait.
                    caller.send(()).ok();
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "writing the journal"
                );
                // After an error of the disk it answers nothing but that error, for ever.
                self.database = None;
                // The disk may be full for days.
                self.callers.retain(|caller| !caller.is_closed());
            }
        }
    }

    fn try_write(&mut self) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        write(self.database.insert(database), &self.waiting)
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry is plain data with text keys")
}

fn write(
    database: &Database,
    changes: &BTreeMap<InstanceId, Option<Entry>>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(INSTANCES)?;
        for (instance, entry) in changes {
            match entry {
                Some(entry) => {
                    table.insert(instance.0, encode(entry).as_slice())?;
                }
                None => {
                    table.remove(instance.0)?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
