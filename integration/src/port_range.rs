//! Ports for the instances of one test, disjoint from those of every other test on the machine.

use std::fs::{File, OpenOptions};
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// The first port; above the default range of a real `pm dev`, below Linux's ephemeral range.
const FIRST: u16 = 24_000;
/// Ports in one range: more than the instances of any test.
const WIDTH: u16 = 64;
/// Ranges up to port 32704.
const COUNT: u16 = 136;

/// A range of ports that belongs to the holder.
#[derive(Debug)]
pub struct PortRange {
    ports: RangeInclusive<u16>,
    /// The lock on the range; released when the process ends, however it ends.
    _lock: File,
}

impl PortRange {
    /// Takes a range that nobody holds.
    ///
    /// # Errors
    /// When all ranges are held.
    pub fn take() -> Result<Self> {
        let directory = std::env::temp_dir().join("paasmaker-test-ports");
        std::fs::create_dir_all(&directory).context("making the directory of port locks")?;
        // Begin where another process hardly begins, so that ports are not reused at once.
        let begin = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
        for step in 0..COUNT {
            let index = (begin + step) % COUNT;
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(directory.join(index.to_string()))
                .context("opening a port lock")?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let first = FIRST + index * WIDTH;
                return Ok(Self {
                    ports: first..=first + WIDTH - 1,
                    _lock: lock,
                });
            }
        }
        bail!("all {COUNT} port ranges are held by other tests")
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }
}
