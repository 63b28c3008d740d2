//! What the log's disk holds: opening it, checking it, and reading it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::frame::{self, HEAD_BYTES, Scanned};
use super::journal::{Journal, Lengths, Place, Places};
use super::record::{self, Record, Summary};
use super::segments::{Directory, FORMAT_VERSION, Segments};
use super::tail::Tail;
use crate::raft::types::{self, Entry, LogId, StoredLogId, StoredVote, damaged};

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process has it open.
    #[error("the log {} is in use by another process; only one may run on a data directory", path.display())]
    Busy {
        /// Its directory.
        path: PathBuf,
    },
    /// What it holds cannot be right.
    #[error("the log {} is damaged, so that this pacemaker does not vote; where others vote, take its node out of the cluster and let the machine join anew, else restore the data directory from a backup", path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What was found.
        #[source]
        source: io::Error,
    },
    /// Another release wrote it.
    #[error("the log {} has format `{found}` and this release reads format `{FORMAT_VERSION}`; start the release that wrote it", path.display())]
    Format {
        /// Its directory.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The disk refused.
    #[error("opening the log {}", path.display())]
    Io {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The log's segments, and where in them its entries are.
#[derive(Debug)]
pub(super) struct Disk {
    segments: Arc<dyn Segments>,
    places: Mutex<Places>,
}

/// A log that has been opened.
pub(super) struct Opened {
    pub(super) disk: Arc<Disk>,
    pub(super) tail: Tail,
    pub(super) journal: Journal,
}

/// Opens the log in the directory at `path`, or makes an empty one; checks and reads all of it.
pub(super) fn open(path: &Path, lengths: Lengths) -> Result<Opened, OpenError> {
    let (directory, salt) = Directory::open(path, lengths.first)?;
    open_segments(path, Arc::new(directory), salt, lengths)
}

/// The same of segments that are kept elsewhere.
pub(super) fn open_segments(
    path: &Path,
    segments: Arc<dyn Segments>,
    salt: u64,
    lengths: Lengths,
) -> Result<Opened, OpenError> {
    let failed = |source: io::Error| {
        let path = path.to_owned();
        // A disk that fails says nothing about the log: nobody may be told to remove it.
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                OpenError::Damaged { path, source }
            }
            _ => OpenError::Io { path, source },
        }
    };
    Replay::of(segments.as_ref(), salt)
        .and_then(|replay| replay.open(segments, salt, lengths))
        .map_err(failed)
}

impl Disk {
    /// Reads entries that memory no longer has.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let end = range.end;
        let found: Vec<(u64, Place)> = self.places().of(range).collect();
        let mut entries = Vec::with_capacity(found.len());
        for (index, place) in found {
            match self.entry(place) {
                Ok((entry, _)) => entries.push(entry),
                // It was purged meanwhile, with the segment that had it, and all before it.
                Err(_) if self.places().first > index => entries.clear(),
                Err(error) => return Err(error),
            }
        }
        // A hole, or a missing end, may not be.
        let first = entries.first().map_or(end, |entry| entry.log_id.index());
        if first + entries.len() as u64 != end {
            return Err(damaged("entries are missing from the log"));
        }
        Ok(entries)
    }

    /// An entry, and how many bytes it takes.
    fn entry(&self, place: Place) -> io::Result<(Entry, usize)> {
        let length = usize::try_from(place.length).map_err(damaged)?;
        let mut bytes = vec![0; length];
        self.segments
            .read_at(place.segment, place.offset, &mut bytes)?;
        Ok((types::decode_entry(&bytes)?, length))
    }

    pub(super) fn segments(&self) -> Arc<dyn Segments> {
        Arc::clone(&self.segments)
    }

    pub(super) fn places(&self) -> MutexGuard<'_, Places> {
        self.places
            .lock()
            .expect("no one panics while holding the places of entries")
    }
}

/// The log as its segments tell it, one after the other.
#[derive(Debug, Default)]
struct Replay {
    places: Places,
    summary: Summary,
    purged: Option<u64>,
    /// The number of the next frame; none before the first.
    next: Option<u64>,
    /// Of the last segment, whose bytes are as they were read.
    last: Last,
}

#[derive(Debug, Default)]
struct Last {
    number: u64,
    bytes: Vec<u8>,
    /// Where its frames end.
    end: usize,
    /// True when nothing but a seal is behind them.
    is_clean: bool,
}

impl Replay {
    fn of(segments: &dyn Segments, salt: u64) -> io::Result<Self> {
        let numbers = segments.numbers()?;
        let Some(last) = numbers.last().copied() else {
            return Err(damaged("it has no segment"));
        };
        let mut replay = Self::default();
        for (position, number) in numbers.iter().enumerate() {
            if *number != numbers[0] + position as u64 {
                return Err(damaged(format!("a segment before {number} is missing")));
            }
            let bytes = segments.read(*number)?;
            let scanned = replay.segment(*number, salt, &bytes)?;
            // The next segment is made when all in this one is flushed: nothing in it can be torn.
            if *number != last && !scanned.is_clean {
                let end = scanned.end;
                return Err(damaged(format!("segment {number} is damaged at {end}")));
            }
            replay.last = Last {
                number: *number,
                bytes,
                end: scanned.end,
                is_clean: scanned.is_clean,
            };
        }
        if replay.next.is_none() && (numbers[0] != 1 || replay.last.bytes.len() < HEAD_BYTES) {
            return Err(damaged("what it begins with is missing"));
        }
        Ok(replay)
    }

    /// Replays one segment.
    fn segment(&mut self, number: u64, salt: u64, bytes: &[u8]) -> io::Result<Scanned> {
        let scanned = frame::scan(salt, bytes, self.next);
        if scanned.is_damaged {
            let end = scanned.end;
            return Err(damaged(format!("segment {number} is damaged at {end}")));
        }
        self.places.segments.push_back((number, None));
        for (position, frame) in scanned.frames.iter().enumerate() {
            let place = |range: Range<usize>| -> io::Result<Place> {
                Ok(Place {
                    segment: number,
                    offset: (frame.payload.start + range.start) as u64,
                    length: u32::try_from(range.len()).map_err(damaged)?,
                })
            };
            let mut is_first = position == 0;
            record::read(&bytes[frame.payload.clone()], |record| {
                let is_summary = matches!(record, Record::Summary { .. });
                if is_summary != std::mem::take(&mut is_first) {
                    return Err(damaged(format!("segment {number} does not begin as one")));
                }
                match record {
                    Record::Summary { length, .. } if length != bytes.len() as u64 => Err(damaged(
                        format!("segment {number} is not as long as it was made"),
                    )),
                    Record::Entry { index, place: at } => {
                        let is_next = self.places.put(index, place(at)?);
                        let hole = || damaged(format!("entries before {index} are missing"));
                        is_next.then_some(()).ok_or_else(hole)
                    }
                    record => self.take(record),
                }
            })?;
            self.next = Some(frame.number + 1);
        }
        Ok(scanned)
    }

    fn take(&mut self, record: Record<'_>) -> io::Result<()> {
        match record {
            Record::Summary { summary, .. } => {
                if !summary.purged.is_empty() {
                    self.purge(index_of(&summary.purged)?);
                }
                self.summary = summary;
            }
            Record::Entry { .. } => {}
            Record::Vote(vote) => self.summary.vote = vote.to_vec(),
            Record::Truncate(from) => self.places.truncate(from),
            Record::Purge { to, id } => {
                self.purge(to);
                self.summary.purged = id.to_vec();
            }
            Record::Committed(id) => self.summary.committed = id.to_vec(),
        }
        Ok(())
    }

    fn purge(&mut self, to: u64) {
        self.purged = self.purged.max(Some(to));
        self.places.purge(to);
    }

    /// Reads the entries, and goes on where the frames end.
    fn open(
        mut self,
        segments: Arc<dyn Segments>,
        salt: u64,
        lengths: Lengths,
    ) -> io::Result<Opened> {
        let first = self.purged.map_or(0, |purged| purged + 1);
        if let Some(purged) = self.purged {
            // Segments that were to be removed may still be there.
            self.places.purge(purged);
        }
        if !self.places.places.is_empty() && self.places.first != first {
            return Err(damaged(format!("entry {first} is missing")));
        }
        let mut tail = Tail::default();
        if !self.summary.vote.is_empty() {
            tail.vote = Some(types::decode::<StoredVote>(&self.summary.vote)?.into());
        }
        if !self.summary.purged.is_empty() {
            tail.purge(types::decode::<StoredLogId>(&self.summary.purged)?.into());
        }
        if !self.summary.committed.is_empty() {
            let committed = types::decode::<StoredLogId>(&self.summary.committed)?.into();
            tail.load_commit(Some(committed));
        }
        let disk = Disk {
            segments,
            places: Mutex::new(self.places),
        };
        let places: Vec<Place> = disk.places().places.iter().copied().collect();
        for (index, place) in (first..).zip(places) {
            let (entry, bytes) = disk.entry(place)?;
            if entry.log_id.index() != index {
                let found = entry.log_id.index();
                return Err(damaged(format!("entry {found} is where {index} belongs")));
            }
            tail.load(entry, bytes);
        }
        let disk = Arc::new(disk);
        let Last {
            number,
            mut bytes,
            end,
            is_clean,
        } = self.last;
        let journal = Journal {
            disk: Arc::clone(&disk),
            salt,
            lengths,
            summary: self.summary,
            next: self.next.unwrap_or(1),
            segment: number,
            length: bytes.len() as u64,
            offset: end as u64,
            frame: Vec::new(),
        };
        // What is read here may never have been flushed: a process was killed before it did, or a
        // flush has failed, after which the system takes what it has in memory for written.
        if !is_clean {
            // Nothing that is torn is ever taken for a part of what comes in its place.
            bytes[end..].fill(0);
        } else {
            bytes.truncate(end);
        }
        disk.segments.write(number, 0, &bytes)?;
        journal.seal()?;
        disk.segments.flush(number)?;
        Ok(Opened {
            journal,
            disk,
            tail,
        })
    }
}

fn index_of(id: &[u8]) -> io::Result<u64> {
    Ok(LogId::from(types::decode::<StoredLogId>(id)?).index())
}
