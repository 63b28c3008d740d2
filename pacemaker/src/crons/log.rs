//! What crons were answered: one file per run, on the disk of the pacemaker that made the request.
//!
//! A log has the head of the answer and the first [`BODY_KEPT_BYTES`] of its body, of the last
//! attempt that was made here. It goes when its run has left the state. All together have a bound
//! ([`LOGS_MAX_BYTES`]): the oldest go first. Nothing is flushed to the disk: a log is worth less
//! than the time that takes.

use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use common::id::RunId;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

/// How much of a body is kept, bytes.
pub(crate) const BODY_KEPT_BYTES: u64 = 1024 * 1024;
/// The most that one answer carries, bytes: a log with its head fits.
const LOG_MAX_BYTES: u64 = 2 * BODY_KEPT_BYTES;
/// All logs of one pacemaker, bytes: a thousand of the largest, and far more of those of any use.
const LOGS_MAX_BYTES: u64 = 1024 * BODY_KEPT_BYTES;
/// What is held back before a file is made: nearly all answers fit, and cost one write.
const HELD_BYTES: usize = 16 * 1024;
const SUFFIX: &str = ".log";
/// Of the thread that writes: on busy processors it has a tenth of what others have.
const NICENESS: i32 = 10;

/// The logs of runs; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct CronLogs {
    directory: PathBuf,
    /// What all take, about; counted anew by each sweep.
    size: Arc<AtomicU64>,
    /// To the one thread that writes them: a thread for each of a thousand that end in the same
    /// moment would take the processors from those whose requests are still to be sent.
    whole: mpsc::Sender<WholeLog>,
}

/// A log that is written at once.
#[derive(Debug)]
struct WholeLog {
    path: PathBuf,
    bytes: Vec<u8>,
    written: oneshot::Sender<io::Result<()>>,
}

/// Writes logs until the last [`CronLogs`] is gone, after those who have something to send.
fn write_logs(waiting: &mpsc::Receiver<WholeLog>) {
    if let Err(error) = setpriority_process(Some(gettid()), NICENESS) {
        tracing::debug!(%error, "the thread that writes the logs of crons is as urgent as others");
    }
    for log in waiting {
        let result = fs::write(log.path, log.bytes);
        if let Err(Err(error)) = log.written.send(result) {
            tracing::debug!(%error, "a log that nobody waits for was not written");
        }
    }
}

impl CronLogs {
    /// Makes the directory, and the thread that writes into it. Blocks.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let (whole, waiting) = mpsc::channel();
        std::thread::Builder::new()
            .name("cron-logs".to_owned())
            .spawn(move || write_logs(&waiting))?;
        let logs = Self {
            directory,
            size: Arc::default(),
            whole,
        };
        let size = logs.list()?.iter().map(|log| log.size).sum();
        logs.size.store(size, Ordering::Relaxed);
        Ok(logs)
    }

    /// Begins the log of an attempt, which takes the place of an earlier one's: at once, so that
    /// nobody takes the one for the other.
    pub(super) async fn begin(&self, run: RunId, attempt: u32) -> LogWriter {
        if attempt > 1 {
            let logs = self.clone();
            let removed = tokio::task::spawn_blocking(move || logs.remove(run)).await;
            if let Err(error) = removed.map_err(io::Error::other).flatten() {
                tracing::warn!(%run, %error, "the log of an earlier attempt of a cron run stays");
            }
        }
        LogWriter {
            logs: self.clone(),
            run,
            held: Vec::new(),
            file: None,
            body_kept: 0,
            is_broken: false,
        }
    }

    /// Reads a log from `after` on; none when there is none here. Blocks.
    pub(crate) fn read(&self, run: RunId, after: u64) -> io::Result<Option<Vec<u8>>> {
        let mut file = match fs::File::open(self.path(run)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.seek(io::SeekFrom::Start(after))?;
        let mut bytes = Vec::new();
        file.take(LOG_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Removes the logs of runs that are not kept any more, and the oldest of too many. Blocks.
    pub(crate) fn sweep(&self, is_kept: impl Fn(RunId) -> bool) -> io::Result<()> {
        let mut kept = Vec::new();
        for log in self.list()? {
            if is_kept(log.run) {
                kept.push(log);
            } else {
                self.remove(log.run)?;
            }
        }
        kept.sort_unstable_by_key(|log| (log.modified, log.run));
        let mut size: u64 = kept.iter().map(|log| log.size).sum();
        for log in kept {
            if size <= LOGS_MAX_BYTES {
                break;
            }
            self.remove(log.run)?;
            size -= log.size;
        }
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn remove(&self, run: RunId) -> io::Result<()> {
        match fs::remove_file(self.path(run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn list(&self) -> io::Result<Vec<Kept>> {
        let mut logs = Vec::new();
        for item in fs::read_dir(&self.directory)? {
            let item = item?;
            let name = item.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(run) = number.and_then(|number| number.parse().ok()) else {
                continue;
            };
            let metadata = item.metadata()?;
            logs.push(Kept {
                run,
                size: metadata.len(),
                modified: metadata.modified()?,
            });
        }
        Ok(logs)
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.directory.join(format!("{run}{SUFFIX}"))
    }
}

#[derive(Debug)]
struct Kept {
    run: RunId,
    size: u64,
    modified: SystemTime,
}

/// The log of one attempt as it is written. A disk that refuses costs the log, not the attempt.
#[derive(Debug)]
pub(super) struct LogWriter {
    logs: CronLogs,
    run: RunId,
    held: Vec<u8>,
    file: Option<File>,
    body_kept: u64,
    is_broken: bool,
}

impl LogWriter {
    /// Adds a line of ours or of an answer's head.
    pub(super) async fn line(&mut self, line: &[u8]) {
        self.held.extend_from_slice(line);
        self.held.push(b'\n');
        self.spill().await;
    }

    /// Adds a part of a body, as far as it is kept.
    pub(super) async fn body(&mut self, part: &[u8]) {
        let room = usize::try_from(BODY_KEPT_BYTES - self.body_kept).unwrap_or(usize::MAX);
        let part = part.get(..room).unwrap_or(part);
        self.body_kept += part.len() as u64;
        self.held.extend_from_slice(part);
        self.spill().await;
    }

    /// Ends the log.
    pub(super) async fn finish(mut self) {
        let written = if self.file.is_some() {
            self.write().await
        } else {
            self.write_whole().await
        };
        if let Err(error) = written {
            self.give_up(&error);
        }
    }

    /// Nearly all logs: one file that is written at once.
    async fn write_whole(&mut self) -> io::Result<()> {
        if self.is_broken {
            return Ok(());
        }
        self.take_room()?;
        let (written, is_written) = oneshot::channel();
        let log = WholeLog {
            path: self.logs.path(self.run),
            bytes: std::mem::take(&mut self.held),
            written,
        };
        // The thread lives as long as this does, and an answer that does not come is an error.
        self.logs.whole.send(log).map_err(io::Error::other)?;
        is_written.await.map_err(io::Error::other)?
    }

    fn take_room(&self) -> io::Result<()> {
        let length = self.held.len() as u64;
        if self.logs.size.fetch_add(length, Ordering::Relaxed) > LOGS_MAX_BYTES + LOG_MAX_BYTES {
            let why = "the logs of cron runs take all of their room";
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    async fn spill(&mut self) {
        if self.held.len() > HELD_BYTES
            && let Err(error) = self.write().await
        {
            self.give_up(&error);
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.is_broken {
            self.held.clear();
            return Ok(());
        }
        self.take_room()?;
        let path = self.logs.path(self.run);
        if let Some(file) = &mut self.file {
            file.write_all(&self.held).await?;
        } else {
            let mut file = File::create(path).await?;
            file.write_all(&self.held).await?;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            // Also tells what became of the writes.
            file.flush().await?;
        }
        self.held.clear();
        Ok(())
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(run = %self.run, %error, "the log of a cron run is not kept in full");
        self.is_broken = true;
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId(7);

    #[tokio::test]
    async fn log_has_the_head_and_the_beginning_of_the_body() {
        let directory = tempfile::tempdir().unwrap();
        let logs = CronLogs::open(directory.path().to_owned()).unwrap();

        let mut log = logs.begin(RUN, 1).await;
        log.line(b"HTTP/1.1 200 OK").await;
        for _ in 0..30 {
            log.body(&[b'x'; 100_000]).await;
        }
        log.finish().await;

        let kept = logs.read(RUN, 0).unwrap().unwrap();
        assert!(kept.starts_with(b"HTTP/1.1 200 OK\nxxx"));
        assert_eq!(kept.len() as u64, 16 + BODY_KEPT_BYTES);
        assert_eq!(logs.read(RUN, 16 + BODY_KEPT_BYTES).unwrap().unwrap(), b"");
        assert_eq!(logs.read(RunId(8), 0).unwrap(), None);

        let mut again = logs.begin(RUN, 2).await;
        assert_eq!(logs.read(RUN, 0).unwrap(), None, "not of the one before");
        again.line(b"HTTP/1.1 404 Not Found").await;
        again.finish().await;
        let kept = logs.read(RUN, 0).unwrap().unwrap();
        assert_eq!(kept, b"HTTP/1.1 404 Not Found\n", "of the last attempt");
    }

    #[tokio::test]
    async fn log_goes_with_its_run() {
        let directory = tempfile::tempdir().unwrap();
        let logs = CronLogs::open(directory.path().to_owned()).unwrap();
        for run in [1, 2] {
            let mut log = logs.begin(RunId(run), 1).await;
            log.line(b"words").await;
            log.finish().await;
        }

        logs.sweep(|run| run == RunId(2)).unwrap();

        assert_eq!(logs.read(RunId(1), 0).unwrap(), None);
        assert_eq!(logs.read(RunId(2), 0).unwrap().unwrap(), b"words\n");
        assert_eq!(logs.size.load(Ordering::Relaxed), 6);
    }
}
