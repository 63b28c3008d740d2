//! The files of the log: a directory with one for each segment.
//!
//! ```text
//! raft.lock               the lock of the process that has the log
//! raft/format             the format of the log, and its salt
//! raft/0000000001.log     segments, filled with zeros when they are made, so that writing into one
//! raft/0000000002.log     changes nothing but its bytes: a flush is then one write of the disk
//! raft/spare              the next segment, made by a thread of its own while there is time
//! ```
//!
//! Never does: know what is in a segment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::OpenError;
use crate::files::{make_private, sync_directory};
use crate::raft::types::damaged;

/// The format of the log that this release reads and writes. Format 1 was a redb database.
pub(super) const FORMAT_VERSION: &str = "2";
const FORMAT: &str = "format";
const SPARE: &str = "spare";
const SUFFIX: &str = ".log";
/// Zeros are written in pieces of so many bytes.
const ZEROS_BYTES: usize = 256 * 1024;
/// How long to wait for a process that is just ending to let go of the log.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at a log that is in use.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// What holds the segments; the writer and all readers share it.
///
/// A segment is there, with its length and full of zeros, or it is not, whatever happens while it
/// is made.
pub(crate) trait Segments: fmt::Debug + Send + Sync {
    /// Their numbers, in order.
    fn numbers(&self) -> io::Result<Vec<u64>>;
    /// All bytes of one.
    fn read(&self, number: u64) -> io::Result<Vec<u8>>;
    /// Some bytes of one.
    fn read_at(&self, number: u64, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Makes one.
    fn make(&self, number: u64, length: u64) -> io::Result<()>;
    /// One of this length is needed soon.
    fn prepare(&self, length: u64);
    /// Writes into one, without a flush.
    fn write(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Flushes what was written into one.
    fn flush(&self, number: u64) -> io::Result<()>;
    /// Removes one; all that were removed before it are gone then.
    fn remove(&self, number: u64) -> io::Result<()>;
}

/// Segments in a directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
    spare: Mutex<Option<Spare>>,
    /// Locked as long as this is open.
    _lock: File,
}

/// A segment that is being made, or has been.
#[derive(Debug)]
struct Spare {
    length: u64,
    making: JoinHandle<io::Result<()>>,
}

impl Directory {
    /// Opens the directory at `path`, or makes one with a first segment of `length` bytes; answers
    /// the salt of the log too. Blocks.
    pub(super) fn open(path: &Path, length: u64) -> Result<(Self, u64), OpenError> {
        let fail = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        // Two that start at once would also make the log at once.
        let lock = File::create(path.with_extension("lock")).map_err(fail)?;
        take_lock(path, &lock)?;
        if !path.try_exists().map_err(fail)? {
            create(path, length).map_err(fail)?;
        }
        prepare(path).map_err(fail)?;
        let broken = |source| OpenError::Damaged {
            path: path.to_owned(),
            source,
        };
        let text = match fs::read_to_string(path.join(FORMAT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(broken(damaged("it does not say its format")));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(broken(error)),
            text => text.map_err(fail)?,
        };
        let Some((version, salt)) = read_format(&text) else {
            return Err(broken(damaged("what says its format is damaged")));
        };
        if version != FORMAT_VERSION {
            return Err(OpenError::Format {
                path: path.to_owned(),
                found: version.to_owned(),
            });
        }
        let directory = Self {
            path: path.to_owned(),
            open: Mutex::default(),
            spare: Mutex::default(),
            _lock: lock,
        };
        Ok((directory, salt))
    }

    fn file(&self, number: u64) -> io::Result<Arc<File>> {
        let mut open = self.files();
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.segment(number))?;
        let file = Arc::new(file);
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<File>>> {
        self.open.lock().expect("no one panics while opening files")
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path.join(name(number))
    }

    /// Waits for the spare that is being made; true when there is one of this length.
    fn take_spare(&self, length: u64) -> bool {
        let mut spare = self.spare.lock().expect("no one panics while holding it");
        let Some(spare) = spare.take() else {
            return false;
        };
        match spare.making.join() {
            Ok(Ok(())) => spare.length == length,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the next segment of the log could not be made in advance");
                false
            }
            Err(_) => false,
        }
    }
}

impl Drop for Directory {
    /// Whoever opens the log next may make a spare, and then make it a segment.
    fn drop(&mut self) {
        self.take_spare(0);
    }
}

impl Segments for Directory {
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for item in fs::read_dir(&self.path)? {
            let file = item?.file_name();
            let number = file.to_str().and_then(|file| file.strip_suffix(SUFFIX));
            // What somebody else has put there is nothing of the log's.
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        fs::read(self.segment(number))
    }

    fn read_at(&self, number: u64, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file(number)?.read_exact_at(bytes, offset)
    }

    fn make(&self, number: u64, length: u64) -> io::Result<()> {
        let spare = self.path.join(SPARE);
        if !self.take_spare(length) {
            fill(&spare, length)?;
        }
        fs::rename(spare, self.segment(number))?;
        sync_directory(&self.path)
    }

    fn prepare(&self, length: u64) {
        let mut spare = self.spare.lock().expect("no one panics while holding it");
        if spare.is_some() {
            return;
        }
        let path = self.path.join(SPARE);
        let making = std::thread::Builder::new()
            .name("raft-log-spare".to_owned())
            .spawn(move || fill(&path, length));
        match making {
            Ok(making) => *spare = Some(Spare { length, making }),
            Err(error) => tracing::warn!(%error, "the next segment of the log is made later"),
        }
    }

    fn write(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(number)?.write_all_at(bytes, offset)
    }

    fn flush(&self, number: u64) -> io::Result<()> {
        self.file(number)?.sync_data()
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        // In this order, so that no reader opens it again for good.
        fs::remove_file(self.segment(number))?;
        self.files().remove(&number);
        sync_directory(&self.path)
    }
}

fn name(number: u64) -> String {
    format!("{number:010}{SUFFIX}")
}

/// Makes durable what a process that was killed may have left undone, and clears what it left half
/// made.
fn prepare(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(SPARE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_directory(path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn take_lock(path: &Path, lock: &File) -> Result<(), OpenError> {
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if started.elapsed() < BUSY_PATIENCE => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a lock gives no event to wait for"
                )]
                std::thread::sleep(BUSY_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Busy {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Makes an empty log under another name first: one that is half made is never taken for damaged.
fn create(path: &Path, length: u64) -> io::Result<()> {
    let temporary = path.with_extension("new");
    if temporary.try_exists()? {
        fs::remove_dir_all(&temporary)?;
    }
    make_private(&temporary)?;
    let mut salt = [0; 8];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    let mut format = File::create(temporary.join(FORMAT))?;
    format.write_all(format_text(u64::from_le_bytes(salt)).as_bytes())?;
    format.sync_all()?;
    fill(&temporary.join(name(1)), length)?;
    sync_directory(&temporary)?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// A flushed file of zeros; there is none when that fails, and nothing takes its room.
fn fill(path: &Path, length: u64) -> io::Result<()> {
    let filled = write_zeros(path, length);
    if filled.is_err()
        && let Err(error) = fs::remove_file(path)
    {
        tracing::debug!(%error, path = %path.display(), "a half made segment stays");
    }
    filled
}

fn write_zeros(path: &Path, length: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut file = File::create(path)?;
    let mut left = length;
    while left > 0 {
        let piece = usize::try_from(left).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
        file.write_all(&zeros[..piece])?;
        left -= piece as u64;
    }
    file.sync_all()
}

/// The version, the salt, and a check of both.
fn format_text(salt: u64) -> String {
    let text = format!("{FORMAT_VERSION} {salt:016x}");
    let check = crc32c::crc32c(text.as_bytes());
    format!("{text} {check:08x}\n")
}

/// The reverse of [`format_text`].
fn read_format(text: &str) -> Option<(&str, u64)> {
    let (checked, check) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    if u32::from_str_radix(check, 16).ok()? != crc32c::crc32c(checked.as_bytes()) {
        return None;
    }
    let (version, rest) = checked.split_once(' ')?;
    Some((version, u64::from_str_radix(rest, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_becomes_the_next_segment_when_it_is_as_long() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("raft");
        let (directory, _) = Directory::open(&path, 4_096).unwrap();

        directory.prepare(8_192);
        directory.make(2, 8_192).unwrap();
        assert!(!path.join(SPARE).exists());
        directory.prepare(8_192);
        directory.make(3, 4_096).unwrap();

        assert_eq!(directory.numbers().unwrap(), [1, 2, 3]);
        let lengths = [1, 2, 3].map(|number| directory.read(number).unwrap().len());
        assert_eq!(lengths, [4_096, 8_192, 4_096]);
        directory.write(2, 100, b"bytes").unwrap();
        directory.flush(2).unwrap();
        let mut bytes = [0; 5];
        directory.read_at(2, 100, &mut bytes).unwrap();
        assert_eq!(&bytes, b"bytes");
        directory.remove(1).unwrap();
        assert_eq!(directory.numbers().unwrap(), [2, 3]);
        assert!(directory.read_at(1, 0, &mut bytes).is_err());
    }

    #[test]
    fn what_a_killed_process_left_half_made_goes() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("raft");
        let half_made = path.with_extension("new");
        fs::create_dir(&half_made).unwrap();
        fs::write(half_made.join(FORMAT), "").unwrap();

        let (directory, salt) = Directory::open(&path, 4_096).unwrap();
        assert!(!half_made.exists());
        drop(directory);
        fs::write(path.join(SPARE), "zeros").unwrap();
        fs::write(path.join("notes.log"), "of an administrator").unwrap();

        let (directory, again) = Directory::open(&path, 4_096).unwrap();
        assert_eq!(again, salt);
        assert!(!path.join(SPARE).exists());
        assert_eq!(directory.numbers().unwrap(), [1]);
    }
}
