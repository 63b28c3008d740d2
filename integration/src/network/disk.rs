//! Disks of machines in miniature: a file system of its own, which can lose power, fail, stall and
//! fill up.
//!
//! The disk is a file with an ext4 in it, mounted by what runs on the machine and nowhere else: when
//! the machine's last process has ended it is unmounted. Power that is lost takes with it what was
//! not flushed, as the kernel knows it: ext4's own shutdown, which writes nothing more, not even its
//! journal. From then on every write fails, which is also how a disk fails.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::tools::run;
use crate::patience::eventually;

/// What takes the room of a disk that is full.
const BALLAST: &str = "ballast";
/// Stops the file system at once: `EXT4_IOC_SHUTDOWN` without a flush of the log.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
/// Stalls until its input is closed, so that nothing stalls for ever when the test dies.
const STALL: &str =
    r#"fsfreeze --freeze "$0" && echo stalled && read -r; fsfreeze --unfreeze "$0""#;
/// Stalls for half a second again and again, with a moment between; ends like the above.
const CRAWL: &str = r#"echo crawls
while read -r -t 0.02; [ $? -gt 128 ]; do
    fsfreeze --freeze "$0"; sleep 0.5; fsfreeze --unfreeze "$0"
done"#;

/// The disk of one machine, in place of one of its directories.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file that it is kept in.
    image: PathBuf,
    /// The directory in whose place it is.
    directory: PathBuf,
}

/// A disk that does not take anything, or takes long; it works again when this is dropped.
#[derive(Debug)]
pub struct Stall(Child);

impl Disk {
    /// Moves what is in a directory to a new disk of so many mebibytes, which is there from the next
    /// start on.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn replace(directory: &Path, mebibytes: u64) -> Result<Self> {
        let image = directory.with_extension("disk");
        let file = File::create_new(&image).context("making a disk")?;
        file.set_len(mebibytes << 20).context("making a disk")?;
        let content = directory
            .to_str()
            .context("the directory's name is UTF-8")?;
        let name = image.to_str().context("the disk's name is UTF-8")?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-d", content, name])?;
        // What lies below the disk must not be taken for what is on it.
        std::fs::remove_dir_all(directory).context("emptying what the disk replaces")?;
        std::fs::create_dir(directory).context("making the place of a disk")?;
        Ok(Self {
            image,
            directory: directory.to_owned(),
        })
    }

    /// The file and the place that it is mounted at.
    pub(super) fn mount(&self) -> (&Path, &Path) {
        (&self.image, &self.directory)
    }

    /// The disk's content, as this process sees it.
    #[must_use]
    pub fn seen_by(&self, process: u32) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{process}/root"));
        let below = self.directory.strip_prefix("/").unwrap_or(&self.directory);
        root.join(below)
    }

    /// Takes what was not flushed away, and fails from now on.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn shut_down(&self, process: u32) -> Result<()> {
        let path = self.seen_by(process);
        let path = path.to_str().context("the disk's place is UTF-8")?;
        run("python3", &["-c", SHUT_DOWN, path])
    }

    /// Takes nothing until the stall is dropped: who writes waits.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn stall(&self, process: u32) -> Result<Stall> {
        Stall::begin(STALL, &self.seen_by(process))
    }

    /// Takes half a second for each write or flush, until the stall is dropped.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn crawl(&self, process: u32) -> Result<Stall> {
        Stall::begin(CRAWL, &self.seen_by(process))
    }

    /// Leaves so many mebibytes of room at most.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn fill(&self, process: u32, left: u64) -> Result<()> {
        let directory = self.seen_by(process);
        let mut file = File::create(directory.join(BALLAST)).context("filling a disk")?;
        for size in [1 << 20, 4096, 512] {
            let block = vec![0xAA; size];
            while room(&directory)? > left << 20 && file.write_all(&block).is_ok() {}
        }
        file.sync_all().context("filling a disk")
    }

    /// Takes back what [`fill`](Self::fill) did; without a process, while no machine has the disk.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn empty(&self, process: Option<u32>) -> Result<()> {
        if let Some(process) = process {
            let ballast = self.seen_by(process).join(BALLAST);
            return std::fs::remove_file(ballast).context("emptying a disk");
        }
        let image = self.image.to_str().context("the disk's name is UTF-8")?;
        // What the journal holds is part of it.
        run("e2fsck", &["-p", image])?;
        run("debugfs", &["-w", "-R", &format!("rm {BALLAST}"), image])
    }

    /// Waits until no machine has it.
    ///
    /// # Errors
    /// When one has for longer than the patience.
    pub async fn is_free(&self) -> Result<()> {
        eventually("the disk is unmounted", || async {
            (!self.is_attached()).then_some(())
        })
        .await
    }

    fn is_attached(&self) -> bool {
        let Ok(devices) = std::fs::read_dir("/sys/block") else {
            return false;
        };
        let image = self.image.to_string_lossy();
        devices.flatten().any(|device| {
            let backing = device.path().join("loop/backing_file");
            std::fs::read_to_string(backing).is_ok_and(|file| file.trim_end() == image)
        })
    }
}

/// Bytes that are free.
fn room(directory: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(directory).context("looking at a disk")?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

impl Stall {
    fn begin(script: &str, path: &Path) -> Result<Self> {
        let mut child = Command::new("bash")
            .args(["-c", script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("stalling a disk")?;
        let output = child.stdout.take().context("the output is piped")?;
        let stall = Self(child);
        let mut said = String::new();
        BufReader::new(output)
            .read_line(&mut said)
            .context("stalling a disk")?;
        ensure!(
            !said.is_empty(),
            "the disk at {} does not stall",
            path.display()
        );
        Ok(stall)
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            tracing::warn!(%error, "a disk may stall for longer");
        }
    }
}
