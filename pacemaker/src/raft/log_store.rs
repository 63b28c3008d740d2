//! The durable log: entries and vote on disk before anyone is told so.
//!
//! One thread writes. It takes everything that waits in an ordered queue, puts it into one frame of
//! a journal ([`frame`]), flushes once, and then tells everyone who waited: under load one disk flush
//! carries many entries. What was appended is readable at once, from memory; the newest
//! [`TAIL_MAX_BYTES`] stay there. Votes and entries are never reordered, because there is one queue.
//!
//! The journal is a chain of segments ([`segments`]) that are made in advance. A segment says at its
//! beginning what those before it said, so that the oldest goes when its entries are purged. It is
//! our own because the store decides how fast a write is: a database of pages, redb, wrote some
//! eight blocks for each commit where a frame is one or two, and a write that is alone took 1.7 times
//! as long.
//!
//! Never does: decide anything, or answer before the disk has answered.

mod disk;
mod frame;
mod journal;
mod record;
mod segments;
mod tail;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use self::disk::{Disk, Opened};
use self::journal::Lengths;
use self::tail::Tail;
use self::writer::Write;
use crate::metrics::Metrics;
use crate::raft::types::{self, Entry, LogId, StoredLogId, StoredVote, TypeConfig, Vote};

pub(crate) use self::disk::OpenError;
#[cfg(test)]
pub(crate) use self::writer::COMMITTED_EVERY;
pub(crate) use self::writer::Writer;
#[cfg(test)]
pub(crate) use self::{journal::Lengths as SegmentLengths, segments::Segments};

/// Writes that may wait for the disk; past it, openraft waits. Deeper than one frame takes.
const QUEUE_LENGTH: usize = 4096;
/// Entries kept readable without the disk, as encoded; a snapshot comes long before this is full.
const TAIL_MAX_BYTES: usize = 64 * 1024 * 1024;
/// The segments of the journal: the first holds some thousand entries, the others as many as there
/// are between two snapshots.
const LENGTHS: Lengths = Lengths {
    first: 1024 * 1024,
    others: 8 * 1024 * 1024,
};
/// Bytes of records that are kept with the newest entries for those to whom they are sent next.
const RECORDS_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The log; clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    tail: Arc<Mutex<Tail>>,
    disk: Arc<Disk>,
    queue: mpsc::Sender<Write>,
}

impl LogStore {
    /// Opens or creates the log in the directory at `path`, and reads all of it.
    ///
    /// Blocks. The thread ends when the last clone is gone.
    pub(crate) fn open(path: &Path, metrics: &Metrics) -> Result<Self, OpenError> {
        Self::open_with(path, LENGTHS, metrics)
    }

    /// The same, with segments as long as that.
    pub(crate) fn open_with(
        path: &Path,
        lengths: Lengths,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let (store, writer) = Self::of(disk::open(path, lengths)?, metrics);
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(store)
    }

    /// The log on a simulated machine's disk, whose writer is a task there and no thread.
    #[cfg(test)]
    pub(crate) fn simulated(
        segments: impl Segments + 'static,
        lengths: Lengths,
        metrics: &Metrics,
    ) -> Result<(Self, Writer), OpenError> {
        let path = Path::new("simulated");
        let opened = disk::open_segments(path, Arc::new(segments), 0, lengths)?;
        Ok(Self::of(opened, metrics))
    }

    fn of(opened: Opened, metrics: &Metrics) -> (Self, Writer) {
        let Opened {
            disk,
            tail,
            journal,
        } = opened;
        let tail = Arc::new(Mutex::new(tail));
        let (queue, waiting) = mpsc::channel(QUEUE_LENGTH);
        let writer = Writer::new(
            journal,
            Arc::clone(&tail),
            waiting,
            metrics.flush_seconds.clone(),
        );
        (Self { tail, disk, queue }, writer)
    }

    /// The last entry that was removed from the front.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.tail().purged
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail
            .lock()
            .expect("no one panics while holding the log's tail")
    }

    async fn send(&self, write: Write) -> io::Result<()> {
        self.queue
            .send(write)
            .await
            .map_err(|_| io::Error::other("the thread that writes the log has ended"))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let (on_disk, mut entries) = self.tail().read(start, end);
        if let Some(evicted) = on_disk {
            let mut older = self.disk.read(evicted)?;
            older.append(&mut entries);
            entries = older;
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let record = types::encode(&StoredVote::from(vote))?;
        let (done, durable) = oneshot::channel();
        self.send(Write::Vote { record, done }).await?;
        durable
            .await
            .map_err(|_| io::Error::other("the thread that writes the log has ended"))??;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.tail().commit(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.tail().committed())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            encoded.push((types::encode_entry(&entry)?, entry));
        }
        let (write, records) = self.tail().append(encoded);
        self.send(Write::Append {
            write,
            records,
            done,
        })
        .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index() + 1);
        {
            let mut tail = self.tail();
            if let Some(index) = tail.truncate(from) {
                for entry in self.disk.read(index..index + 1)? {
                    let bytes = types::encode_entry(&entry)?.len();
                    tail.restore(entry, bytes);
                }
            }
        }
        self.send(Write::Truncate { from }).await
    }

    async fn purge(&mut self, to: LogId) -> io::Result<()> {
        let record = types::encode(&StoredLogId::from(to))?;
        self.tail().purge(to);
        self.send(Write::Purge {
            to: to.index(),
            record,
        })
        .await
    }
}
