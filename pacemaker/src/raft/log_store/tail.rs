//! What the log store keeps in memory: the newest entries and the few numbers about the log.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::{RECORDS_MAX_BYTES, TAIL_MAX_BYTES};
use crate::raft::types::{self, Entry, LogId, Vote};

/// The newest part of the log.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last vote that is on disk.
    pub(super) vote: Option<Vote>,
    /// The last entry known to be committed.
    committed: Commit,
    /// The last entry that was removed from the front.
    pub(super) purged: Option<LogId>,
    /// By index, without holes, up to the log's end.
    entries: BTreeMap<u64, Kept>,
    /// The first index of the log, on disk or in memory; equal to the next one when it is empty.
    first: u64,
    /// Of `entries`, as encoded.
    bytes: usize,
    /// Of the records that are kept with entries.
    record_bytes: usize,
    /// No entry before this one has its record with it.
    first_record: u64,
    /// Counts appends.
    write: u64,
    /// The last append that is on disk.
    durable_write: u64,
}

/// What is known to be committed; on disk a little later.
#[derive(Debug, Default)]
struct Commit {
    entry: Option<LogId>,
    /// The append after which it became known: the entry lies in it or before it.
    write: u64,
    /// False once it is on the disk.
    is_new: bool,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    bytes: usize,
    write: u64,
    has_record: bool,
}

/// An index with the bytes for the disk.
pub(super) type EncodedEntry = (u64, Bytes);

impl Tail {
    /// The last entry known to be committed.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed.entry
    }

    /// Notes what is committed, for the next write to the disk.
    pub(super) fn commit(&mut self, entry: LogId) {
        self.committed = Commit {
            entry: Some(entry),
            write: self.write,
            is_new: true,
        };
    }

    /// Notes what the disk says is committed.
    pub(super) fn load_commit(&mut self, entry: Option<LogId>) {
        self.committed.entry = entry;
    }

    /// True when what is committed is not on disk.
    pub(super) fn is_commit_new(&self) -> bool {
        self.committed.is_new
    }

    /// What is committed and not on disk, if its entries are there once the appends up to `write`
    /// are: a log must never say that an entry is committed that it lacks.
    pub(super) fn commit_within(&self, write: Option<u64>) -> Option<LogId> {
        let reached = write.unwrap_or(self.durable_write);
        if !self.committed.is_new || self.committed.write > reached {
            return None;
        }
        self.committed.entry
    }

    /// The disk says now that this is committed.
    pub(super) fn commit_is_written(&mut self, written: LogId) {
        if self.committed.entry == Some(written) {
            self.committed.is_new = false;
        }
    }

    /// Puts an entry that was read from disk at the end.
    pub(super) fn load(&mut self, entry: Entry, bytes: usize) {
        let index = entry.log_id.index();
        if self.entries.is_empty() {
            self.first = index;
        }
        self.restore(entry, bytes);
        self.evict();
    }

    /// Puts entries at the end and says under which number they go to the disk.
    pub(super) fn append(&mut self, encoded: Vec<(Bytes, Entry)>) -> (u64, Vec<EncodedEntry>) {
        self.write += 1;
        let write = self.write;
        let mut records = Vec::with_capacity(encoded.len());
        for (bytes, mut entry) in encoded {
            let index = entry.log_id.index();
            if self.entries.is_empty() {
                self.first = index;
            }
            let has_record = types::attach(&mut entry, &bytes);
            self.keep(Kept {
                bytes: bytes.len(),
                write,
                has_record,
                entry,
            });
            records.push((index, bytes));
        }
        (write, records)
    }

    fn keep(&mut self, kept: Kept) {
        let index = kept.entry.log_id.index();
        self.bytes += kept.bytes;
        if kept.has_record {
            self.record_bytes += kept.bytes;
            self.first_record = self.first_record.min(index);
        }
        if let Some(replaced) = self.entries.insert(index, kept) {
            self.gone(&replaced);
        }
    }

    fn gone(&mut self, kept: &Kept) {
        self.bytes -= kept.bytes;
        if kept.has_record {
            self.record_bytes -= kept.bytes;
        }
    }

    /// Removes `from` and all after it.
    ///
    /// Answers the index of the new last entry when only the disk has it: it must be put back with
    /// [`Tail::restore`] before anyone else looks, because the end of the log is always known here.
    #[must_use]
    pub(super) fn truncate(&mut self, from: u64) -> Option<u64> {
        for (_, kept) in self.entries.split_off(&from) {
            self.gone(&kept);
        }
        (self.entries.is_empty() && self.first < from).then(|| from - 1)
    }

    /// Puts the last entry back, which was read from disk.
    pub(super) fn restore(&mut self, entry: Entry, bytes: usize) {
        self.keep(Kept {
            entry,
            bytes,
            write: 0,
            has_record: false,
        });
    }

    /// Removes `to` and all before it.
    pub(super) fn purge(&mut self, to: LogId) {
        let rest = self.entries.split_off(&(to.index() + 1));
        for kept in std::mem::replace(&mut self.entries, rest).values() {
            self.gone(kept);
        }
        self.purged = self.purged.max(Some(to));
        self.first = self.first.max(to.index() + 1);
    }

    /// Notes that all appends up to `write` are on disk, and forgets the oldest when there is too much.
    pub(super) fn durable(&mut self, write: u64) {
        self.durable_write = self.durable_write.max(write);
        self.forget_records();
        self.evict();
    }

    /// Whoever still lacks an entry by now gets it encoded anew.
    fn forget_records(&mut self) {
        while self.record_bytes > RECORDS_MAX_BYTES {
            let Some((index, kept)) = self.entries.range_mut(self.first_record..).next() else {
                return;
            };
            self.first_record = index + 1;
            if std::mem::take(&mut kept.has_record) {
                self.record_bytes -= kept.bytes;
                types::detach(&mut kept.entry);
            }
        }
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
            let oldest = oldest.remove();
            self.gone(&oldest);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::time::Timestamp;
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry as _;
    use pacemaker_core::command::Command;

    use super::*;
    use crate::raft::types::{LeaderId, Proposal, encode_entry};

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId { term: 1 }, index)
    }

    fn entry(index: u64, bytes: usize) -> (Bytes, Entry) {
        let command = Command::DrainNode {
            node: common::id::NodeId(index),
        };
        let proposal = Proposal::new(Timestamp(1), Arc::new(command));
        let entry = Entry::new(log_id(index), EntryPayload::Normal(proposal));
        (vec![7; bytes].into(), entry)
    }

    #[test]
    fn nothing_is_called_committed_on_disk_before_it_is_there() {
        let mut tail = Tail::default();
        let (first, _) = tail.append(vec![entry(1, 10)]);
        let (second, _) = tail.append(vec![entry(2, 10)]);
        tail.commit(log_id(2));

        assert_eq!(tail.commit_within(None), None);
        assert_eq!(tail.commit_within(Some(first)), None);
        assert_eq!(tail.commit_within(Some(second)), Some(log_id(2)));
        tail.commit_is_written(log_id(2));
        assert_eq!(tail.commit_within(Some(second)), None, "it is there");
        assert_eq!(tail.committed(), Some(log_id(2)));
    }

    #[test]
    fn records_of_the_newest_entries_are_kept_and_no_more() {
        let quarter = RECORDS_MAX_BYTES / 4;
        let mut tail = Tail::default();
        for index in 1..=10 {
            let (write, _) = tail.append(vec![entry(index, quarter)]);
            tail.durable(write);
        }
        let lengths = |tail: &Tail| -> Vec<usize> {
            let (_, entries) = tail.read(1, 11);
            let records = entries.iter().map(|entry| encode_entry(entry).unwrap());
            records.map(|record| record.len()).collect()
        };
        let kept = |tail: &Tail| {
            let lengths = lengths(tail);
            (1..)
                .zip(lengths)
                .filter(|(_, length)| *length == quarter)
                .map(|(index, _)| index)
                .collect::<Vec<u64>>()
        };
        assert_eq!(kept(&tail), [7, 8, 9, 10]);

        assert_eq!(tail.truncate(9), None);
        tail.purge(log_id(7));
        assert_eq!(tail.record_bytes, quarter);
        let (write, _) = tail.append((9..=12).map(|index| entry(index, quarter)).collect());
        tail.durable(write);
        assert_eq!(tail.record_bytes, RECORDS_MAX_BYTES);
    }
}
