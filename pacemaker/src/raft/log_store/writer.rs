//! What writes the log: everything that waits, in one durable commit.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use openraft::storage::IOFlushed;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot};

use super::journal::Journal;
use super::tail::{EncodedEntry, Tail};
use crate::raft::types::{self, StoredLogId, TypeConfig};

/// Writes that go into one frame: bounds how long the first of them waits.
const BATCH_LENGTH: usize = 1024;

/// Frames of which one says what is committed: that only saves time at a restart, where the leader
/// soon tells the rest.
pub(crate) const COMMITTED_EVERY: u32 = 32;

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
            failed: None,
        }
    }

    /// Writes until the last log store is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            self.take(first);
            self.flush();
        }
        self.close();
    }

    /// The same on a simulated machine, whose disk takes its time for each flush.
    #[cfg(test)]
    pub(crate) async fn run_simulated<F: Future<Output = ()>>(mut self, flushing: impl Fn() -> F) {
        while let Some(first) = self.waiting.recv().await {
            self.take(first);
            flushing().await;
            self.flush();
        }
        self.close();
    }

    fn take(&mut self, first: Write) {
        self.batch.push(first);
        while self.batch.len() < BATCH_LENGTH {
            let Ok(next) = self.waiting.try_recv() else {
                break;
            };
            self.batch.push(next);
        }
    }

    fn flush(&mut self) {
        if self.failed.is_none() {
            let started = Instant::now();
            self.silent += 1;
            let is_due = self.silent >= COMMITTED_EVERY;
            if is_due {
                self.silent = 0;
            }
            let written = self.commit(is_due);
            self.note(written);
            self.flush_seconds.observe(started.elapsed().as_secs_f64());
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.answer(batch.drain(..));
        self.batch = batch;
        if self.failed.is_none() && self.waiting.is_empty() {
            let sealed = self.journal.seal();
            self.note(sealed);
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::error!(%error, "writing the log failed; nothing more is written");
            self.failed = Some(error.to_string());
        }
    }

    fn close(&mut self) {
        let has_committed = self.tail().is_ok_and(|tail| tail.is_commit_new());
        if self.failed.is_none()
            && has_committed
            && let Err(error) = self.commit(true)
        {
            tracing::warn!(%error, "noting what is committed failed; a restart takes longer");
        }
    }

    fn tail(&self) -> io::Result<MutexGuard<'_, Tail>> {
        self.tail
            .lock()
            .map_err(|_| io::Error::other("a panic while the log's tail was held"))
    }

    /// Writes the batch.
    fn commit(&mut self, with_committed: bool) -> io::Result<()> {
        let last = self.batch.iter().rev().find_map(|write| match write {
            Write::Append { write, .. } => Some(*write),
            Write::Vote { .. } | Write::Truncate { .. } | Write::Purge { .. } => None,
        });
        let committed = if with_committed {
            self.tail()?.take_commit(last)
        } else {
            None
        };
        let committed = committed.map(|committed| types::encode(&StoredLogId::from(committed)));
        self.journal
            .write(&self.batch, committed.transpose()?.as_deref())
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
