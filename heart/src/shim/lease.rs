//! The lease of exclusive instances: until when they may run without word from a pacemaker.
//!
//! ```text
//! pacemaker ──acknowledges──► heart ──extends──► lease file ◄──reads when it is over── shim
//! ```
//! One file for all exclusive instances of a node, one record of fixed size in it, written in place.
//! The shim of an exclusive instance sleeps until the lease that it last saw is over, looks whether
//! it has been extended, and stops the application when not: that needs no heart, so it happens too
//! when the heart is dead or stopped, and right after a suspended machine has woken up.
//!
//! **Invariant:** the application is gone before a pacemaker starts another. A lease ends one TTL
//! after the last acknowledged report was *sent*; then come the stop signal, a grace of at most
//! [`FENCE_GRACE`](crate::local::FENCE_GRACE) and SIGKILL. The pacemaker calls the node down one TTL
//! after that report *arrived* at the earliest, and then waits for another TTL and the same grace:
//! a TTL (at least a second) lies between. The shim counts by a clock that no one sets, and so does a
//! leader: when its wall clock is set it counts all of it again.
//!
//! Never synced: after a power cut nothing runs, and a record of another boot is no lease.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::time::Span;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use serde::{Deserialize, Serialize};

use super::process::boot_id;

/// What a shim is told of the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The file, which a [`LeaseFile`] has made.
    pub file: PathBuf,
    /// Time between the stop signal and SIGKILL once the lease is over.
    pub grace: Span,
}

/// A point in time, milliseconds since the machine's boot, suspended time included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let part = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
        Self(seconds.saturating_mul(1000).saturating_add(part))
    }

    /// This point plus `span`.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

const MAGIC: [u8; 8] = *b"PMLEASE1";
const BOOT_ID_BYTES: usize = 16;
/// Magic, boot, end, checksum.
const RECORD_BYTES: usize = 8 + BOOT_ID_BYTES + 8 + 8;
/// A read that overlaps a write may see a part of each; the next one does not.
const READS: usize = 3;

/// The lease as the heart keeps it.
#[derive(Debug)]
pub struct LeaseFile {
    file: File,
    boot: [u8; BOOT_ID_BYTES],
    until: BootTime,
}

impl LeaseFile {
    /// Opens the file, or makes it with a lease that is over.
    ///
    /// # Errors
    /// When it cannot be made, written or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let boot = boot_bytes()?;
        let until = read(&file, &boot)?;
        let mut opened = Self {
            file,
            boot,
            until: until.unwrap_or_default(),
        };
        if until.is_none() {
            // The room is taken now: what comes later is written in place, on a full disk too.
            opened.write()?;
        }
        Ok(opened)
    }

    /// When the lease ends; zero when there was none in this boot.
    #[must_use]
    pub const fn until(&self) -> BootTime {
        self.until
    }

    /// Extends the lease; never shortens it.
    ///
    /// # Errors
    /// When the file cannot be written; the next try writes it again.
    pub fn extend(&mut self, until: BootTime) -> io::Result<()> {
        self.until = self.until.max(until);
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&encode(&self.boot, self.until), 0)
    }
}

/// The lease as a shim watches it.
#[derive(Debug)]
pub(super) struct Watched {
    file: File,
    boot: [u8; BOOT_ID_BYTES],
    timer: OwnedFd,
    grace: Span,
    /// The end that was seen last.
    until: BootTime,
}

impl Watched {
    /// Begins to watch; `None` when the lease is over already.
    pub(super) fn begin(lease: &Lease) -> io::Result<Option<Self>> {
        let mut watched = Self {
            file: File::open(&lease.file)?,
            boot: boot_bytes()?,
            timer: timerfd_create(
                TimerfdClockId::Boottime,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
            grace: lease.grace,
            until: BootTime(0),
        };
        Ok(watched.holds()?.then_some(watched))
    }

    /// Looks whether the lease has been extended, and sleeps on if so.
    ///
    /// # Errors
    /// When that cannot be known, which is the same as an end.
    pub(super) fn holds(&mut self) -> io::Result<bool> {
        let now = BootTime::now();
        let until = read(&self.file, &self.boot)?.unwrap_or_default();
        self.until = self.until.max(until);
        if until <= now {
            return Ok(false);
        }
        let end = Timespec {
            tv_sec: i64::try_from(until.0 / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(until.0 % 1000).unwrap_or(0) * 1_000_000,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: end,
        };
        // Setting it also takes back what has expired, so nothing needs to be read from it.
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(true)
    }

    /// What is left of the grace that follows the lease: nothing when this process was away
    /// meanwhile, because by then the successor may run.
    pub(super) fn grace_left(&self) -> Duration {
        let end = self.until.after(self.grace);
        Span(end.0.saturating_sub(BootTime::now().0)).duration()
    }
}

impl AsFd for Watched {
    /// Readable when the lease that was last seen is over.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// The end of the lease; `None` when the file holds no lease of this boot.
fn read(file: &File, boot: &[u8; BOOT_ID_BYTES]) -> io::Result<Option<BootTime>> {
    let mut record = [0; RECORD_BYTES];
    for _ in 0..READS {
        match file.read_exact_at(&mut record, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        if let Some(found) = decode(&record, boot) {
            return Ok(found);
        }
    }
    Ok(None)
}

fn encode(boot: &[u8; BOOT_ID_BYTES], until: BootTime) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&MAGIC);
    record[8..24].copy_from_slice(boot);
    record[24..32].copy_from_slice(&until.0.to_le_bytes());
    let sum = checksum(&record[..32]);
    record[32..].copy_from_slice(&sum.to_le_bytes());
    record
}

/// `None`: the record is damaged; `Some(None)`: it is of another boot.
fn decode(record: &[u8; RECORD_BYTES], boot: &[u8; BOOT_ID_BYTES]) -> Option<Option<BootTime>> {
    let number = |range| {
        Some(u64::from_le_bytes(
            record
                .get::<std::ops::Range<usize>>(range)?
                .try_into()
                .ok()?,
        ))
    };
    if record[..8] != MAGIC || number(32..40)? != checksum(&record[..32]) {
        return None;
    }
    let until = BootTime(number(24..32)?);
    Some((record[8..24] == boot[..]).then_some(until))
}

/// FNV-1a: enough to tell half a write from a whole one.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The boot id as bytes.
fn boot_bytes() -> io::Result<[u8; BOOT_ID_BYTES]> {
    let digits: String = boot_id()?.chars().filter(|digit| *digit != '-').collect();
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_extended_and_never_shortened_and_survives_its_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lease");
        let mut lease = LeaseFile::open(&path).unwrap();
        assert_eq!(lease.until(), BootTime(0));

        lease.extend(BootTime(5000)).unwrap();
        lease.extend(BootTime(4000)).unwrap();

        assert_eq!(LeaseFile::open(&path).unwrap().until(), BootTime(5000));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 40);
    }

    #[test]
    fn a_record_of_another_boot_or_damaged_is_no_lease() {
        let boot = [7; BOOT_ID_BYTES];
        let record = encode(&boot, BootTime(1 << 40));

        assert_eq!(decode(&record, &boot), Some(Some(BootTime(1 << 40))));
        assert_eq!(decode(&record, &[8; BOOT_ID_BYTES]), Some(None));
        for place in 0..RECORD_BYTES {
            let mut damaged = record;
            damaged[place] ^= 1;
            assert_eq!(decode(&damaged, &boot), None, "byte {place}");
        }
    }

    #[test]
    fn a_lease_that_is_over_or_damaged_does_not_hold() {
        let directory = tempfile::tempdir().unwrap();
        let lease = Lease {
            file: directory.path().join("lease"),
            grace: Span(0),
        };
        assert!(Watched::begin(&lease).is_err(), "there is no file");
        let mut file = LeaseFile::open(&lease.file).unwrap();
        assert!(Watched::begin(&lease).unwrap().is_none());

        file.extend(BootTime::now().after(Span::seconds(60)))
            .unwrap();
        let mut watched = Watched::begin(&lease).unwrap().unwrap();
        assert!(watched.holds().unwrap());

        std::fs::write(&lease.file, "nonsense").unwrap();
        assert!(!watched.holds().unwrap());
    }
}
