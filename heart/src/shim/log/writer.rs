//! Moves output from the application's pipe into segments, without copying it through user space.
//!
//! Policy when the disk is full or blocked: block. Nothing is read from the pipe that cannot be
//! written, so the application waits in its write and not a byte is lost.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::{segment_path, segments};
use crate::shim::specification::{LogLimits, remove_if_present};

/// The most that one call moves: with the rotation check between calls it keeps signals prompt.
const STEP_BYTES: u64 = 1 << 20;

/// Writes the log of an instance; there is one at a time.
#[derive(Debug)]
pub(crate) struct Writer {
    directory: PathBuf,
    limits: LogLimits,
    file: File,
    /// The logical offset of the current segment's first byte.
    start: u64,
    /// How much the current segment holds.
    written: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was moved; there may be more.
    Moved,
    /// The pipe is empty now.
    Empty,
    /// The pipe is empty and nobody holds its other end.
    Ended,
}

impl Writer {
    /// Continues the log in `directory`, which is created if needed.
    pub(crate) fn open(directory: &Path, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let start = segments(directory)?.last().map_or(0, |last| last.start);
        // Not in append mode: splice refuses such files. There is one writer at a time.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(segment_path(directory, start))?;
        let written = file.metadata()?.len();
        let mut writer = Self {
            directory: directory.to_owned(),
            limits,
            file,
            start,
            written,
        };
        writer.remove_old()?;
        Ok(writer)
    }

    /// Moves what is in `pipe`, at most one step.
    ///
    /// An error says that the disk took nothing; the output is still in the pipe.
    pub(crate) fn take_from(&mut self, pipe: BorrowedFd<'_>) -> io::Result<Step> {
        let segment_bytes = self.limits.segment_bytes.max(1);
        if self.written >= segment_bytes {
            self.rotate()?;
        }
        let room = (segment_bytes - self.written).min(STEP_BYTES);
        let mut position = self.written;
        let moved = splice(
            pipe,
            None,
            &self.file,
            Some(&mut position),
            usize::try_from(room).unwrap_or(usize::MAX),
            SpliceFlags::NONBLOCK,
        );
        match moved {
            Ok(0) => Ok(Step::Ended),
            Ok(moved) => {
                self.written += moved as u64;
                Ok(Step::Moved)
            }
            Err(Errno::AGAIN) => Ok(Step::Empty),
            Err(Errno::INTR) => Ok(Step::Moved),
            Err(errno) => Err(errno.into()),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let start = self.start + self.written;
        self.file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(segment_path(&self.directory, start))?;
        self.start = start;
        self.written = 0;
        self.remove_old()
    }

    fn remove_old(&mut self) -> io::Result<()> {
        let kept = usize::try_from(self.limits.segments.max(1)).unwrap_or(usize::MAX);
        let all = segments(&self.directory)?;
        let surplus = all.len().saturating_sub(kept);
        for segment in all.iter().take(surplus) {
            remove_if_present(&segment.path)?;
        }
        Ok(())
    }
}
