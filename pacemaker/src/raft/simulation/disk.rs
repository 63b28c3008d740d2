//! A disk that keeps what was flushed apart from what was not.
//!
//! A process that is killed loses nothing that it wrote; a machine that loses power loses what was
//! not flushed, sector by sector, some and not others. A flush can fail (after which the kernel
//! takes the lost sectors for clean), the power can go in the middle of one, the disk can be full,
//! and a bit can turn.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::raft::log_store::Segments;
use crate::raft::simulation::random::Random;
use crate::raft::simulation::runtime::Process;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The disk of one machine; it outlives its processes. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    inside: Arc<Mutex<Inside>>,
    random: Arc<Random>,
}

#[derive(Debug, Default)]
struct Inside {
    /// By number.
    segments: BTreeMap<u64, Segment>,
    /// Counts processes; only the newest may use the disk.
    opened: u64,
    process: Option<Process>,
    /// The flush that fails.
    fails: Option<(u64, Failure)>,
    /// It has room for what there is and for no more.
    is_full: bool,
    flushes: u64,
}

/// A file of a fixed length.
#[derive(Debug)]
struct Segment {
    /// What a reader sees.
    cached: Vec<u8>,
    /// What is there after a power loss.
    flushed: Vec<u8>,
    /// The sectors in which they may differ.
    dirty: BTreeSet<usize>,
}

/// What goes wrong in a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It fails, and nobody says more about it: the next one succeeds. What was not flushed reads
    /// as it is on the disk from then on.
    Error,
    /// The same, but it still reads as it was written, and is never flushed: as on ext4.
    Kept,
    /// The power goes while it is under way.
    Power,
}

/// What becomes of the disk when its machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The process ended: all that it wrote is there.
    Process,
    /// The power went: of what was not flushed, nothing is there.
    Power,
    /// The power went: of what was not flushed, some sectors are there.
    PowerTorn,
}

impl Disk {
    /// An empty disk.
    pub(crate) fn new(random: Arc<Random>) -> Self {
        Self {
            inside: Arc::default(),
            random,
        }
    }

    /// The disk for a new process; processes before it can no longer reach it.
    pub(crate) fn open(&self, process: &Process) -> Handle {
        let mut inside = self.inside();
        inside.opened += 1;
        inside.process = Some(process.clone());
        Handle {
            opened: inside.opened,
            disk: self.clone(),
        }
    }

    /// Takes the disk from its process.
    pub(crate) fn stop(&self, how: Stop) {
        let mut inside = self.inside();
        inside.opened += 1;
        inside.process = None;
        inside.fails = None;
        match how {
            Stop::Process => {}
            Stop::Power => inside.lose(|| false),
            Stop::PowerTorn => inside.lose(|| self.random.chance(50)),
        }
    }

    /// Lets a flush go wrong, after `after` others.
    pub(crate) fn fail(&self, after: u64, how: Failure) {
        let mut inside = self.inside();
        inside.fails = Some((inside.flushes + after, how));
    }

    /// Leaves no room for more than there is.
    pub(crate) fn fill(&self) {
        self.inside().is_full = true;
    }

    /// Nothing goes wrong any more.
    pub(crate) fn mend(&self) {
        let mut inside = self.inside();
        inside.fails = None;
        inside.is_full = false;
    }

    /// Turns one bit that is in use, of what a reader sees.
    pub(crate) fn damage(&self) {
        let mut inside = self.inside();
        let used = inside.segments.iter().flat_map(|(number, segment)| {
            let bytes = segment.cached.iter().enumerate();
            bytes
                .filter(|(_, byte)| **byte != 0)
                .map(|(at, _)| (*number, at))
        });
        let used: Vec<(u64, usize)> = used.collect();
        if used.is_empty() {
            return;
        }
        let (number, at) = self.random.pick(&used);
        let bit = 1 << self.random.within(0..8);
        if let Some(segment) = inside.segments.get_mut(&number) {
            segment.cached[at] ^= bit;
            segment.dirty.insert(at / SECTOR);
            segment.flush();
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("one thread runs the simulation")
    }
}

impl Inside {
    /// The power goes; `survives` is asked for each sector that was not flushed.
    fn lose(&mut self, survives: impl Fn() -> bool) {
        for segment in self.segments.values_mut() {
            segment.lose(&survives);
        }
    }

    /// Some sectors are flushed, and the others are taken to be.
    fn forget(&mut self, survives: impl Fn() -> bool) {
        for segment in self.segments.values_mut() {
            for sector in std::mem::take(&mut segment.dirty) {
                if survives() {
                    segment.keep(sector);
                }
            }
        }
    }

    fn segment(&mut self, number: u64) -> io::Result<&mut Segment> {
        let segment = self.segments.get_mut(&number);
        segment.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Segment {
    fn lose(&mut self, survives: impl Fn() -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            if survives() {
                self.keep(sector);
            }
        }
        self.cached.clone_from(&self.flushed);
    }

    /// One sector reaches the disk.
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cached.len());
        self.flushed[start..end].copy_from_slice(&self.cached[start..end]);
    }

    fn flush(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }
}

/// The disk as one process has it.
#[derive(Debug)]
pub(crate) struct Handle {
    opened: u64,
    disk: Disk,
}

impl Handle {
    fn inside(&self) -> io::Result<MutexGuard<'_, Inside>> {
        let inside = self.disk.inside();
        if inside.opened == self.opened {
            Ok(inside)
        } else {
            Err(io::Error::other("the process is gone"))
        }
    }
}

fn range(offset: u64, length: usize) -> io::Result<Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    Ok(start..start + length)
}

impl Segments for Handle {
    fn numbers(&self) -> io::Result<Vec<u64>> {
        Ok(self.inside()?.segments.keys().copied().collect())
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        Ok(self.inside()?.segment(number)?.cached.clone())
    }

    fn read_at(&self, number: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inside = self.inside()?;
        let segment = inside.segment(number)?;
        let bytes = segment.cached.get(range(offset, out.len())?);
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn make(&self, number: u64, length: u64) -> io::Result<()> {
        let mut inside = self.inside()?;
        if inside.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let segment = Segment {
            cached: zeros.clone(),
            flushed: zeros,
            dirty: BTreeSet::new(),
        };
        inside.segments.insert(number, segment);
        Ok(())
    }

    fn prepare(&self, _length: u64) {}

    fn write(&self, number: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inside = self.inside()?;
        let range = range(offset, data.len())?;
        let sectors = range.start / SECTOR..=range.end.saturating_sub(1) / SECTOR;
        let segment = inside.segment(number)?;
        segment
            .cached
            .get_mut(range)
            .ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(data);
        segment.dirty.extend(sectors);
        Ok(())
    }

    fn flush(&self, number: u64) -> io::Result<()> {
        let mut inside = self.inside()?;
        inside.flushes += 1;
        let flushes = inside.flushes;
        let Some((_, how)) = inside.fails.filter(|(at, _)| *at <= flushes) else {
            inside.segment(number)?.flush();
            return Ok(());
        };
        inside.fails = None;
        if how == Failure::Kept {
            inside.forget(|| self.disk.random.chance(50));
        } else {
            inside.lose(|| self.disk.random.chance(50));
        }
        if how == Failure::Power {
            inside.opened += 1;
            if let Some(process) = inside.process.take() {
                process.kill();
            }
        }
        Err(io::Error::other("the disk failed to flush"))
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.inside()?.segments.remove(&number);
        Ok(())
    }
}
