//! What builders write while they work: one file per job, appended by offset.
//!
//! A writer says at which byte its piece begins, so a repeated piece is never written twice. A log
//! ends with a line that says so when it reaches [`JOB_LOG_MAX_BYTES`]. It goes when its job has
//! left the state. Appends are not flushed to the disk one by one: after a power cut a builder is
//! told the length that is left, and goes on from there.
//!
//! This file is one pacemaker's disk; [`share`] keeps the logs of all alike.

pub(crate) mod share;
mod waiting;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use common::id::JobId;
use tokio::sync::watch;

use crate::files::is_full;
use crate::job_log::waiting::Waiting;

/// The largest log of a job, bytes; a build that says more than this is not read by people.
pub const JOB_LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The most that one answer carries, bytes.
pub(crate) const CHUNK_MAX_BYTES: usize = 256 * 1024;
/// The largest file of a log, with its last line.
const LOG_FILE_MAX_BYTES: u64 = JOB_LOG_MAX_BYTES + MARKER.len() as u64;
/// The last line of a log that grew too large.
const MARKER: &[u8] = b"\n[the rest of this log was cut: it reached 16 MiB]\n";
const SUFFIX: &str = ".log";
/// A log that was written to in this time stays though its job is not known: the leader's pieces
/// may come before the job's entry of the log.
const YOUNG: Duration = Duration::from_secs(10 * 60);

/// The logs of jobs.
#[derive(Clone, Debug)]
pub(crate) struct JobLogs {
    directory: PathBuf,
    /// Held while a piece is written; appends of all jobs take turns.
    turn: Arc<Mutex<()>>,
    waiting: Waiting,
}

/// A piece of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// At most [`CHUNK_MAX_BYTES`].
    pub(crate) bytes: Vec<u8>,
    /// The offset after it.
    pub(crate) next: u64,
    /// True when this is all that there is now.
    pub(crate) is_last: bool,
}

/// Why a piece was not appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// It does not begin at the end.
    #[error("the log goes on at byte {0}")]
    Offset(u64),
    /// The disk is full.
    #[error("the disk of the job logs is full")]
    Full,
    /// The disk refused.
    #[error("writing the job's log")]
    Io(#[source] io::Error),
}

impl JobLogs {
    /// Makes the directory. Blocks.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            turn: Arc::default(),
            waiting: Waiting::default(),
        })
    }

    /// Wakes when something is appended to this log, and when its job has ended.
    pub(crate) fn follow(&self, job: JobId) -> watch::Receiver<u64> {
        self.waiting.join(job)
    }

    /// Wakes those who follow logs of jobs that have ended.
    pub(crate) fn wake_ended(&self, has_ended: impl Fn(JobId) -> bool) {
        for job in self.waiting.jobs() {
            if has_ended(job) {
                self.waiting.wake(job);
            }
        }
    }

    /// How long a log is here. Blocks.
    pub(crate) fn length(&self, job: JobId) -> io::Result<u64> {
        match fs::metadata(self.path(job)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Appends a piece that begins at `offset`, and answers where the next one begins. Blocks.
    ///
    /// Past the cap a piece is accepted and dropped, so that its writer goes on with its work.
    pub(crate) fn append(&self, job: JobId, offset: u64, piece: &[u8]) -> Result<u64, AppendError> {
        let after = offset.saturating_add(piece.len() as u64);
        let turn = self.turn.lock();
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(job))
            .map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length >= JOB_LOG_MAX_BYTES && offset >= JOB_LOG_MAX_BYTES {
            return Ok(after);
        }
        if offset != length {
            return Err(AppendError::Offset(length));
        }
        let room = usize::try_from(JOB_LOG_MAX_BYTES - length).unwrap_or(usize::MAX);
        let written = match piece.split_at_checked(room) {
            None => file.write_all(piece),
            Some((fits, _)) => file.write_all(fits).and_then(|()| file.write_all(MARKER)),
        };
        if let Err(error) = written {
            // A piece is there whole or not at all, so that its writer may repeat it.
            file.set_len(length).map_err(failed)?;
            return Err(failed(error));
        }
        drop(turn);
        self.waiting.wake(job);
        Ok(after)
    }

    /// Makes the log the same as the leader's, whose bytes from `offset` on these are; answers its
    /// length. Blocks.
    ///
    /// Bytes that are here already are compared. Where others are here, nobody acknowledged them,
    /// and the leader's take their place. A piece that comes late takes nothing away.
    pub(crate) fn put(&self, job: JobId, offset: u64, piece: &[u8]) -> Result<u64, AppendError> {
        let turn = self.turn.lock();
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.path(job))
            .map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if offset > length {
            return Err(AppendError::Offset(length));
        }
        if offset.saturating_add(piece.len() as u64) > LOG_FILE_MAX_BYTES {
            return Err(AppendError::Full);
        }
        file.seek(io::SeekFrom::Start(offset)).map_err(failed)?;
        let mut present = Vec::new();
        (&mut file)
            .take(piece.len() as u64)
            .read_to_end(&mut present)
            .map_err(failed)?;
        let same = present
            .iter()
            .zip(piece)
            .take_while(|(a, b)| a == b)
            .count();
        let (known, rest) = piece.split_at(same);
        if rest.is_empty() {
            return Ok(length);
        }
        let begin = offset + known.len() as u64;
        file.set_len(begin).map_err(failed)?;
        file.seek(io::SeekFrom::Start(begin)).map_err(failed)?;
        if let Err(error) = file.write_all(rest) {
            file.set_len(begin).map_err(failed)?;
            return Err(failed(error));
        }
        drop(turn);
        self.waiting.wake(job);
        Ok(begin + rest.len() as u64)
    }

    /// Reads from `after` on; a log that nobody has written to is empty. Blocks.
    pub(crate) fn read(&self, job: JobId, after: u64) -> io::Result<Chunk> {
        let nothing = |next| Chunk {
            bytes: Vec::new(),
            next,
            is_last: true,
        };
        let mut file = match File::open(self.path(job)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing(after)),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if after >= length {
            return Ok(nothing(after));
        }
        file.seek(io::SeekFrom::Start(after))?;
        let mut bytes = Vec::new();
        file.take(CHUNK_MAX_BYTES as u64).read_to_end(&mut bytes)?;
        let next = after + bytes.len() as u64;
        Ok(Chunk {
            bytes,
            next,
            is_last: next >= length,
        })
    }

    /// Removes the logs of jobs that are not kept any more. Blocks.
    pub(crate) fn sweep(&self, now: SystemTime, is_kept: impl Fn(JobId) -> bool) -> io::Result<()> {
        for item in fs::read_dir(&self.directory)? {
            let item = item?;
            let age = now.duration_since(item.metadata()?.modified()?);
            if age.unwrap_or_default() < YOUNG {
                continue;
            }
            let path = item.path();
            let job = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(SUFFIX))
                .and_then(|number| number.parse().ok())
                .map(JobId);
            if let Some(job) = job
                && !is_kept(job)
            {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.directory.join(format!("{job}{SUFFIX}"))
    }
}

fn failed(error: io::Error) -> AppendError {
    if is_full(&error) {
        AppendError::Full
    } else {
        AppendError::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(3);

    #[test]
    fn pieces_are_appended_once_and_read_by_offset() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(directory.path().to_owned()).unwrap();

        assert_eq!(logs.append(JOB, 0, b"one\n").unwrap(), 4);
        assert_eq!(logs.append(JOB, 4, b"two\n").unwrap(), 8);
        let repeated = logs.append(JOB, 4, b"two\n").unwrap_err();
        assert!(matches!(repeated, AppendError::Offset(8)));

        let chunk = logs.read(JOB, 4).unwrap();
        assert_eq!(
            (&*chunk.bytes, chunk.next, chunk.is_last),
            (&b"two\n"[..], 8, true)
        );
        assert!(logs.read(JobId(9), 0).unwrap().bytes.is_empty());
    }

    #[test]
    fn log_that_grows_too_large_ends_with_a_line_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(directory.path().to_owned()).unwrap();
        let piece = vec![b'x'; 1024 * 1024];

        let mut offset = 0;
        for _ in 0..20 {
            offset = logs.append(JOB, offset, &piece).unwrap();
        }

        let size = fs::metadata(logs.path(JOB)).unwrap().len();
        assert_eq!(size, JOB_LOG_MAX_BYTES + MARKER.len() as u64);
        let end = logs.read(JOB, JOB_LOG_MAX_BYTES).unwrap();
        assert_eq!(end.bytes, MARKER);
        assert!(end.is_last);
    }

    #[test]
    fn log_goes_with_its_job() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(directory.path().to_owned()).unwrap();
        logs.append(JobId(1), 0, b"old").unwrap();
        logs.append(JobId(2), 0, b"new").unwrap();

        let is_kept = |job| job == JobId(2);
        logs.sweep(SystemTime::now(), is_kept).unwrap();
        assert_eq!(logs.read(JobId(1), 0).unwrap().bytes, b"old", "young");
        logs.sweep(SystemTime::now() + YOUNG, is_kept).unwrap();

        assert!(logs.read(JobId(1), 0).unwrap().bytes.is_empty());
        assert_eq!(logs.read(JobId(2), 0).unwrap().bytes, b"new");
    }

    #[test]
    fn copy_becomes_the_leaders_log_and_late_pieces_take_nothing_away() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(directory.path().to_owned()).unwrap();
        let text = || String::from_utf8(logs.read(JOB, 0).unwrap().bytes).unwrap();

        let gap = logs.put(JOB, 4, b"late").unwrap_err();
        assert!(matches!(gap, AppendError::Offset(0)));
        assert_eq!(logs.put(JOB, 0, b"one\ntwo\n").unwrap(), 8);
        assert_eq!(logs.put(JOB, 0, b"one\n").unwrap(), 8, "late");
        assert_eq!(logs.put(JOB, 8, b"").unwrap(), 8, "a question");
        assert_eq!(logs.put(JOB, 4, b"two\nthree\n").unwrap(), 14);
        assert_eq!(text(), "one\ntwo\nthree\n");

        assert_eq!(logs.put(JOB, 4, b"TWO\n").unwrap(), 8);
        assert_eq!(text(), "one\nTWO\n", "what nobody acknowledged is replaced");
        assert_eq!(logs.length(JOB).unwrap(), 8);
    }

    #[test]
    fn followers_are_woken_by_their_own_log_only() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(directory.path().to_owned()).unwrap();
        let (mine, other) = (logs.follow(JOB), logs.follow(JobId(9)));

        logs.append(JOB, 0, b"one\n").unwrap();
        assert!(mine.has_changed().unwrap());
        assert!(!other.has_changed().unwrap());

        logs.wake_ended(|job| job == JobId(9));
        assert!(other.has_changed().unwrap());
    }
}
