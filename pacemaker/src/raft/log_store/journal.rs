//! The end of the log, which the [`writer`](super::writer) writes: frames into segments, one flush each.
//!
//! Never does: read, or write again after a write or a flush has failed.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk::Disk;
use super::frame::{self, HEAD_BYTES};
use super::record::{self, Summary};
use super::writer::Write;
use crate::files::is_full;

/// The room of a frame that is kept for the next one.
const FRAME_KEPT_BYTES: usize = 1024 * 1024;

/// How long segments are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// The first, bytes: most logs are short for long.
    pub(crate) first: u64,
    /// All others; one that must hold more than that in a single frame is longer.
    pub(crate) others: u64,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Where all entries are.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The index of the first; when there is none, of the next one, as far as that is known.
    pub(super) first: u64,
    /// From `first` on, without holes.
    pub(super) places: VecDeque<Place>,
    /// All segments, oldest first, with the highest index of which an entry was ever written there.
    pub(super) segments: VecDeque<(u64, Option<u64>)>,
}

impl Places {
    /// Puts an entry at the end, over those that are there from its index on; false when it leaves
    /// a hole.
    pub(super) fn put(&mut self, index: u64, place: Place) -> bool {
        if self.places.is_empty() || index < self.first {
            self.places.clear();
            self.first = index;
        }
        self.truncate(index);
        if index != self.first + self.places.len() as u64 {
            return false;
        }
        self.places.push_back(place);
        if let Some((_, highest)) = self.segments.back_mut() {
            *highest = (*highest).max(Some(index));
        }
        true
    }

    /// Removes `from` and all after it.
    pub(super) fn truncate(&mut self, from: u64) {
        let kept = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.places.truncate(kept);
    }

    /// Removes `to` and all before it.
    pub(super) fn purge(&mut self, to: u64) {
        while self.first <= to && self.places.pop_front().is_some() {
            self.first += 1;
        }
        if self.places.is_empty() {
            self.first = self.first.max(to + 1);
        }
    }

    /// The oldest segment, when nothing in it is needed any more: the newest says itself what it is
    /// the end of.
    fn spent(&self) -> Option<u64> {
        let (number, highest) = *self.segments.front()?;
        let is_spent = highest.is_none_or(|highest| highest < self.first);
        (self.segments.len() > 1 && is_spent).then_some(number)
    }

    /// An error when the entries of a batch would leave a hole in the log.
    fn check(&self, batch: &[Write]) -> io::Result<()> {
        /// Of an empty log.
        const ANYWHERE: u64 = u64::MAX;
        let mut next = match self.places.len() as u64 {
            0 => ANYWHERE,
            count => self.first + count,
        };
        for write in batch {
            match write {
                Write::Append { records, .. } => {
                    for (index, _) in records {
                        if *index > next {
                            let why = format!("entry {index} would follow entry {next} in the log");
                            return Err(io::Error::other(why));
                        }
                        next = index + 1;
                    }
                }
                Write::Truncate { from } if next != ANYWHERE => next = next.min(*from),
                Write::Purge { to, .. } if *to >= next => next = ANYWHERE,
                Write::Truncate { .. } | Write::Purge { .. } | Write::Vote { .. } => {}
            }
        }
        Ok(())
    }

    /// The places of entries that are there, each with the index of the entry.
    pub(super) fn of(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Place)> {
        let at = |index: u64| {
            let at = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
            at.min(self.places.len())
        };
        let (start, end) = (at(range.start), at(range.end));
        let places = self.places.range(start..end.max(start)).copied();
        (self.first + start as u64..).zip(places)
    }
}

/// Writes frames; there is one for each log.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) disk: Arc<Disk>,
    pub(super) salt: u64,
    pub(super) lengths: Lengths,
    /// What was said last.
    pub(super) summary: Summary,
    /// The number of the next frame.
    pub(super) next: u64,
    /// The segment that is written.
    pub(super) segment: u64,
    /// Its length.
    pub(super) length: u64,
    /// Where the next frame goes in it; zero when not even its head is there.
    pub(super) offset: u64,
    /// The frame that is gathered; kept for its room.
    pub(super) frame: Vec<u8>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Written {
    /// It is on the disk.
    Done,
    /// It needs a segment more, for which the disk has no room at the moment. What there is of
    /// segments has its room already.
    NoRoom(io::Error),
}

/// Where an entry is in the frame that is gathered.
type Gathered = (u64, Range<usize>);

impl Journal {
    /// Has all of this on the disk when it returns [`Written::Done`]. After [`Written::NoRoom`] nothing
    /// has happened; after an error nothing may be written any more.
    pub(super) fn write(
        &mut self,
        batch: &[Write],
        committed: Option<&[u8]>,
    ) -> io::Result<Written> {
        let mut frame = std::mem::take(&mut self.frame);
        // In front there is room for what a segment begins with.
        let room = record::summary_length(&self.summary);
        frame.clear();
        frame.resize(room + HEAD_BYTES, 0);
        let gathered = gather(&mut frame, batch, committed);
        if frame.len() == room + HEAD_BYTES {
            // A frame of nothing would be a seal.
            return Ok(Written::Done);
        }
        self.disk.places().check(batch)?;
        let longest = frame::length_of(frame.len() - HEAD_BYTES) as u64;
        let end_with_seal = |offset: u64| frame::start_from(offset + longest) + HEAD_BYTES as u64;
        if end_with_seal(self.offset) > self.length {
            match self.turn(end_with_seal(0)) {
                Err(error) if is_full(&error) => return Ok(Written::NoRoom(error)),
                turned => turned?,
            }
        }
        let start = if self.offset == 0 {
            self.put_summary(&mut frame);
            0
        } else {
            room
        };
        frame::finish(self.salt, self.next, &mut frame, start);
        let segments = self.disk.segments();
        segments.write(self.segment, self.offset, &frame[start..])?;
        segments.flush(self.segment)?;
        self.remember(batch, committed, &gathered, start);
        self.offset = frame::start_from(self.offset + (frame.len() - start) as u64);
        self.next += 1;
        if self.offset * 2 > self.length {
            segments.prepare(self.lengths.others);
        }
        if frame.capacity() <= FRAME_KEPT_BYTES {
            self.frame = frame;
        }
        Ok(Written::Done)
    }

    /// Puts the seal behind the last frame, when nothing follows it at once.
    pub(super) fn seal(&self) -> io::Result<()> {
        let mut seal = vec![0; HEAD_BYTES];
        frame::finish(self.salt, self.next, &mut seal, 0);
        let segments = self.disk.segments();
        segments.write(self.segment, self.offset, &seal)
    }

    /// Begins the next segment.
    fn turn(&mut self, needed: u64) -> io::Result<()> {
        let length = self.lengths.others.max(needed);
        self.disk.segments().make(self.segment + 1, length)?;
        self.segment += 1;
        self.length = length;
        self.offset = 0;
        self.disk.places().segments.push_back((self.segment, None));
        Ok(())
    }

    /// Fills the room that was left for it at the front of a frame.
    fn put_summary(&self, frame: &mut [u8]) {
        let mut summary = Vec::new();
        record::put_summary(&mut summary, self.length, &self.summary);
        frame[HEAD_BYTES..HEAD_BYTES + summary.len()].copy_from_slice(&summary);
    }

    /// Remembers what the disk has now.
    fn remember(
        &mut self,
        batch: &[Write],
        committed: Option<&[u8]>,
        gathered: &[Gathered],
        start: usize,
    ) {
        if let Some(committed) = committed {
            self.summary.committed = committed.to_vec();
        }
        let mut gathered = gathered.iter();
        let mut places = self.disk.places();
        for write in batch {
            match write {
                Write::Append { records, .. } => {
                    for (index, range) in gathered.by_ref().take(records.len()) {
                        let place = Place {
                            segment: self.segment,
                            offset: self.offset + (range.start - start) as u64,
                            length: u32::try_from(range.len()).expect("it was put so"),
                        };
                        assert!(
                            places.put(*index, place),
                            "openraft leaves no hole in its log"
                        );
                    }
                }
                Write::Vote { record, .. } => self.summary.vote.clone_from(record),
                Write::Truncate { from } => places.truncate(*from),
                Write::Purge { to, record } => {
                    places.purge(*to);
                    self.summary.purged.clone_from(record);
                }
            }
        }
    }

    /// Removes the segments of which nothing is needed any more, once the batch is answered.
    pub(super) fn remove_spent(&self) -> io::Result<()> {
        loop {
            let spent = self.disk.places().spent();
            let Some(number) = spent else { return Ok(()) };
            self.disk.segments().remove(number)?;
            self.disk.places().segments.pop_front();
        }
    }
}

fn gather(frame: &mut Vec<u8>, batch: &[Write], committed: Option<&[u8]>) -> Vec<Gathered> {
    let mut gathered = Vec::new();
    for write in batch {
        match write {
            Write::Append { records, .. } => {
                for (index, bytes) in records {
                    gathered.push((*index, record::put_entry(frame, *index, bytes)));
                }
            }
            Write::Vote { record, .. } => record::put_vote(frame, record),
            Write::Truncate { from } => record::put_truncate(frame, *from),
            Write::Purge { to, record } => record::put_purge(frame, *to, record),
        }
    }
    if let Some(committed) = committed {
        record::put_committed(frame, committed);
    }
    gathered
}
