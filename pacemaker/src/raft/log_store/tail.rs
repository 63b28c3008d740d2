//! What the log store keeps in memory: the newest entries and the few numbers about the log.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::TAIL_MAX_BYTES;
use crate::raft::types::{Entry, LogId, Vote};

/// The newest part of the log.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last vote that is on disk.
    pub(super) vote: Option<Vote>,
    /// The last entry known to be committed; on disk a little later.
    pub(super) committed: Option<LogId>,
    /// The last entry that was removed from the front.
    pub(super) purged: Option<LogId>,
    /// By index, without holes, up to the log's end.
    entries: BTreeMap<u64, Kept>,
    /// The first index of the log, on disk or in memory; equal to the next one when it is empty.
    first: u64,
    /// Of `entries`, as encoded.
    bytes: usize,
    /// Counts appends.
    write: u64,
    /// The last append that is on disk.
    durable_write: u64,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    bytes: usize,
    write: u64,
}

/// An index with the bytes for the disk.
pub(super) type EncodedEntry = (u64, Arc<[u8]>);

impl Tail {
    /// Puts an entry that was read from disk at the end.
    pub(super) fn load(&mut self, entry: Entry, bytes: usize) {
        let index = entry.log_id.index();
        if self.entries.is_empty() {
            self.first = index;
        }
        self.keep(entry, bytes, 0);
        self.evict();
    }

    /// Puts entries at the end and says under which number they go to the disk.
    pub(super) fn append(&mut self, encoded: Vec<(Vec<u8>, Entry)>) -> (u64, Vec<EncodedEntry>) {
        self.write += 1;
        let write = self.write;
        let mut records = Vec::with_capacity(encoded.len());
        for (bytes, entry) in encoded {
            let index = entry.log_id.index();
            if self.entries.is_empty() {
                self.first = index;
            }
            self.keep(entry, bytes.len(), write);
            records.push((index, bytes.into()));
        }
        (write, records)
    }

    fn keep(&mut self, entry: Entry, bytes: usize, write: u64) {
        self.bytes += bytes;
        let kept = Kept {
            bytes,
            write,
            entry,
        };
        if let Some(replaced) = self.entries.insert(kept.entry.log_id.index(), kept) {
            self.bytes -= replaced.bytes;
        }
    }

    /// Removes `from` and all after it.
    ///
    /// Answers the index of the new last entry when only the disk has it: it must be put back with
    /// [`Tail::restore`] before anyone else looks, because the end of the log is always known here.
    #[must_use]
    pub(super) fn truncate(&mut self, from: u64) -> Option<u64> {
        for (_, kept) in self.entries.split_off(&from) {
            self.bytes -= kept.bytes;
        }
        (self.entries.is_empty() && self.first < from).then(|| from - 1)
    }

    /// Puts the last entry back, which was read from disk.
    pub(super) fn restore(&mut self, entry: Entry, bytes: usize) {
        self.keep(entry, bytes, 0);
    }

    /// Removes `to` and all before it.
    pub(super) fn purge(&mut self, to: LogId) {
        let rest = self.entries.split_off(&(to.index() + 1));
        for kept in std::mem::replace(&mut self.entries, rest).values() {
            self.bytes -= kept.bytes;
        }
        self.purged = self.purged.max(Some(to));
        self.first = self.first.max(to.index() + 1);
    }

    /// Notes that all appends up to `write` are on disk, and forgets the oldest when there is too much.
    pub(super) fn durable(&mut self, write: u64) {
        self.durable_write = self.durable_write.max(write);
        self.evict();
    }

    /// Keeps the last entry always, so that the end of the log is known.
    fn evict(&mut self) {
        while self.bytes > TAIL_MAX_BYTES && self.entries.len() > 1 {
            let Some(oldest) = self.entries.first_entry() else {
                return;
            };
            if oldest.get().write > self.durable_write {
                return;
            }
            self.bytes -= oldest.remove().bytes;
        }
    }

    /// The last entry, or the last that was removed from the front.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries
            .last_key_value()
            .map(|(_, kept)| kept.entry.log_id)
            .or(self.purged)
    }

    /// The part of `start..end` that only the disk has, and the part that is here.
    pub(super) fn read(&self, start: u64, end: u64) -> (Option<Range<u64>>, Vec<Entry>) {
        let Some((&oldest, _)) = self.entries.first_key_value() else {
            return (None, Vec::new());
        };
        let disk_start = start.max(self.first);
        let disk_end = end.min(oldest);
        let evicted = (disk_start < disk_end).then_some(disk_start..disk_end);
        if start >= end {
            return (None, Vec::new());
        }
        let here = self.entries.range(start..end);
        (evicted, here.map(|(_, kept)| kept.entry.clone()).collect())
    }
}
