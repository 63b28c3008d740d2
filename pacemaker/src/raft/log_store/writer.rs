//! What writes the log: everything that waits, in one durable commit.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use openraft::storage::IOFlushed;
use prometheus_client::metrics::histogram::Histogram;
use redb::Durability;
use tokio::sync::{mpsc, oneshot};

use super::disk::{COMMITTED, Disk, LOG, META, PURGED, VOTE};
use super::tail::{EncodedEntry, Tail};
use crate::raft::types::TypeConfig;

/// Writes that go into one transaction: bounds how long the first of them waits.
const BATCH_LENGTH: usize = 1024;

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

/// Writes what waits; a thread runs it, and in a simulation a task does.
pub(crate) struct Writer {
    disk: Arc<Disk>,
    tail: Arc<Mutex<Tail>>,
    waiting: mpsc::Receiver<Write>,
    flush_seconds: Histogram,
    /// What goes into the next transaction.
    batch: Vec<Write>,
    /// Written with the next transaction.
    committed: Option<Vec<u8>>,
    /// After an error nothing is written any more: what is on disk is then unknown, every waiter
    /// hears of it, and openraft stops for good.
    failed: Option<String>,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<Disk>,
        tail: Arc<Mutex<Tail>>,
        waiting: mpsc::Receiver<Write>,
        flush_seconds: Histogram,
    ) -> Self {
        Self {
            disk,
            tail,
            waiting,
            flush_seconds,
            batch: Vec::new(),
            committed: None,
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
        let mut is_empty = true;
        for write in &self.batch {
            if let Write::Committed { record } = write {
                self.committed = Some(record.clone());
            } else {
                is_empty = false;
            }
        }
        if self.failed.is_none() && !is_empty {
            let started = Instant::now();
            let record = self.committed.take();
            // The store panics on some damage; who waits must hear of that as of any failure.
            let commit = AssertUnwindSafe(|| self.commit(&self.batch, record.as_deref()));
            let written = catch_unwind(commit)
                .unwrap_or_else(|_| Err(io::Error::other("the store gave up while writing")));
            if let Err(error) = written {
                tracing::error!(%error, "writing the log failed; nothing more is written");
                self.failed = Some(error.to_string());
            }
            self.flush_seconds.observe(started.elapsed().as_secs_f64());
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.answer(batch.drain(..));
        self.batch = batch;
    }

    fn close(&self) {
        if self.failed.is_none()
            && self.committed.is_some()
            && let Err(error) = self.commit(&[], self.committed.as_deref())
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

    fn answer(&self, batch: impl Iterator<Item = Write>) {
        let result = || match &self.failed {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        };
        for write in batch {
            match write {
                Write::Append { write, done, .. } => {
                    if self.failed.is_none() {
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
