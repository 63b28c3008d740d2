//! The processes of a network namespace, signalled without a chance to meet a stranger.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::NAMESPACES;

/// Rounds of killing: what a process starts while it is being killed falls in the next one.
const ROUNDS_MAX: u32 = 10_000;

/// A process that was found in a namespace; its number is not reused while this is held.
#[derive(Debug)]
pub struct ProcessHandle {
    id: u32,
    handle: OwnedFd,
}

impl ProcessHandle {
    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its command line, with spaces between the arguments; empty when it has ended.
    #[must_use]
    pub fn command_line(&self) -> String {
        let text = std::fs::read(format!("/proc/{}/cmdline", self.id)).unwrap_or_default();
        let words: Vec<_> = text
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        words.join(" ").trim_end().to_owned()
    }

    /// Ends it at once.
    pub fn kill(&self) {
        // One that has ended is what was wanted.
        pidfd_send_signal(&self.handle, Signal::KILL).ok();
    }

    /// Stops it until [`resume`](Self::resume).
    pub fn pause(&self) {
        pidfd_send_signal(&self.handle, Signal::STOP).ok();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        pidfd_send_signal(&self.handle, Signal::CONT).ok();
    }
}

/// The processes of a namespace.
pub(super) fn of(namespace: &str) -> Result<Vec<ProcessHandle>> {
    let wanted = inode(&Path::new(NAMESPACES).join(namespace))
        .with_context(|| format!("looking at the namespace {namespace}"))?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let of_process = Path::new("/proc").join(&name).join("ns/net");
        if inode(&of_process).ok() != Some(wanted) {
            continue;
        }
        let Some(pid) = Pid::from_raw(id) else {
            continue;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Looked at again with the handle held: the number may have gone to a stranger before.
        if inode(&of_process).ok() == Some(wanted) {
            let id = id.unsigned_abs();
            found.push(ProcessHandle { id, handle });
        }
    }
    Ok(found)
}

/// Ends every process of these namespaces.
pub(super) fn end_all(namespaces: &[String]) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        let mut found = Vec::new();
        for namespace in namespaces {
            found.extend(of(namespace)?);
        }
        if found.is_empty() {
            return Ok(());
        }
        for process in found {
            process.kill();
        }
        std::thread::yield_now();
    }
    bail!("processes of {} do not end", namespaces.join(", "))
}

fn inode(path: &Path) -> std::io::Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.ino())
}
