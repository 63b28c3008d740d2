//! What writes the log: everything that waits, in one frame.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot};

use super::journal::{Journal, Written};
use super::tail::{EncodedEntry, Tail};
#[cfg(test)]
use crate::raft::simulation::runtime::pass;
use crate::raft::types::{self, StoredLogId, TypeConfig};

/// Writes that go into one frame: bounds how long the first of them waits.
const BATCH_LENGTH: usize = 1024;
/// Bytes of entries after which a frame takes no more writes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Frames of which one says what is committed: that only saves time at a restart, where the leader
/// soon tells the rest.
pub(crate) const COMMITTED_EVERY: u32 = 32;

/// Between two looks whether a full disk has room again.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);

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
}

impl Write {
    /// Of its entries.
    fn bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(|(_, bytes)| bytes.len()).sum(),
            Self::Vote { .. } | Self::Truncate { .. } | Self::Purge { .. } => 0,
        }
    }
}

/// Writes what waits; a thread runs it, and in a simulation a task does.
pub(crate) struct Writer {
    journal: Journal,
    tail: Arc<Mutex<Tail>>,
    waiting: mpsc::Receiver<Write>,
    flush_seconds: Histogram,
    /// What goes into the next frame.
    batch: Vec<Write>,
    /// Frames since the last that said what is committed.
    silent: u32,
    /// False while the disk has no room for what is to be written.
    has_room: bool,
    /// After an error nothing is written any more: what is on disk is then unknown, every waiter
    /// hears of it, and openraft stops for good.
    failed: Option<String>,
}

impl Writer {
    pub(super) fn new(
        journal: Journal,
        tail: Arc<Mutex<Tail>>,
        waiting: mpsc::Receiver<Write>,
        flush_seconds: Histogram,
    ) -> Self {
        Self {
            journal,
            tail,
            waiting,
            flush_seconds,
            batch: Vec::new(),
            silent: 0,
            has_room: true,
            failed: None,
        }
    }

    /// Writes until the last log store is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            self.take(first);
            while !self.flush() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a disk that has room again gives no event to wait for"
                )]
                std::thread::sleep(ROOM_INTERVAL);
            }
        }
        self.close();
    }

    /// The same on a simulated machine, whose disk takes its time for each flush.
    #[cfg(test)]
    pub(crate) async fn run_simulated<F: Future<Output = ()>>(mut self, flushing: impl Fn() -> F) {
        while let Some(first) = self.waiting.recv().await {
            self.take(first);
            flushing().await;
            while !self.flush() {
                pass(ROOM_INTERVAL).await;
            }
        }
        self.close();
    }

    fn take(&mut self, first: Write) {
        let mut bytes = first.bytes();
        self.batch.push(first);
        while self.batch.len() < BATCH_LENGTH && bytes < BATCH_BYTES {
            let Ok(next) = self.waiting.try_recv() else {
                break;
            };
            bytes += next.bytes();
            self.batch.push(next);
        }
    }

    /// Writes the batch and tells whoever waits; false when the disk has no room for it yet.
    fn flush(&mut self) -> bool {
        if self.failed.is_none() {
            let started = Instant::now();
            match self.commit() {
                Ok(Written::Done) => {
                    if !std::mem::replace(&mut self.has_room, true) {
                        tracing::info!("the disk has room for the log again");
                    }
                }
                Ok(Written::NoRoom(error)) if !self.waiting.is_closed() => {
                    if std::mem::take(&mut self.has_room) {
                        tracing::error!(%error, "the disk has no room for the log; it waits");
                    }
                    return false;
                }
                Ok(Written::NoRoom(error)) | Err(error) => self.fail(&error),
            }
            self.flush_seconds.observe(started.elapsed().as_secs_f64());
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.answer(batch.drain(..));
        self.batch = batch;
        if let Err(error) = self.journal.remove_spent() {
            tracing::warn!(%error, "a segment of the log that is not needed any more stays");
        }
        if self.failed.is_none()
            && self.waiting.is_empty()
            && let Err(error) = self.journal.seal()
        {
            self.fail(&error);
        }
        true
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "writing the log failed; nothing more is written");
        self.failed = Some(error.to_string());
    }

    /// Notes what is committed, which a restart would otherwise hear from the leader.
    fn close(&mut self) {
        let has_committed = self.tail().is_ok_and(|tail| tail.is_commit_new());
        if self.failed.is_some() || !has_committed {
            return;
        }
        self.silent = COMMITTED_EVERY;
        match self.commit() {
            Ok(Written::Done) => {}
            Ok(Written::NoRoom(error)) | Err(error) => {
                tracing::warn!(%error, "noting what is committed failed; a restart takes longer");
            }
        }
    }

    fn tail(&self) -> io::Result<MutexGuard<'_, Tail>> {
        self.tail
            .lock()
            .map_err(|_| io::Error::other("a panic while the log's tail was held"))
    }

    /// Writes the batch.
    fn commit(&mut self) -> io::Result<Written> {
        let last = self.batch.iter().rev().find_map(|write| match write {
            Write::Append { write, .. } => Some(*write),
            Write::Vote { .. } | Write::Truncate { .. } | Write::Purge { .. } => None,
        });
        let is_due = self.silent + 1 >= COMMITTED_EVERY;
        let committed = if is_due {
            self.tail()?.commit_within(last)
        } else {
            None
        };
        let record = committed.map(|committed| types::encode(&StoredLogId::from(committed)));
        let record = record.transpose()?;
        let written = self.journal.write(&self.batch, record.as_deref())?;
        if matches!(written, Written::Done) {
            self.silent = if is_due { 0 } else { self.silent + 1 };
            if let Some(committed) = committed {
                self.tail()?.commit_is_written(committed);
            }
        }
        Ok(written)
    }

    fn answer(&self, batch: impl Iterator<Item = Write>) {
        let result = || match &self.failed {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        };
        for write in batch {
            match write {
                Write::Append { write, done, .. } => {
                    if self.failed.is_none()
                        && let Ok(mut tail) = self.tail()
                    {
                        tail.durable(write);
                    }
                    done.io_completed(result());
                }
                Write::Vote { done, .. } => {
                    if done.send(result()).is_err() {
                        tracing::debug!("nobody waits for a vote any more");
                    }
                }
                Write::Truncate { .. } | Write::Purge { .. } => {}
            }
        }
    }
}
