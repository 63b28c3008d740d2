//! What `/proc` says about a process: identity, state, parent, session.
//!
//! Owns the parsing of `/proc/<pid>/stat` and the identity that survives the reuse of pids. It
//! never signals anything.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// 52 numbers of at most 20 digits, and a name of at most 64 bytes.
const STAT_MAX_BYTES: usize = 2048;

/// Names one process for ever: a pid alone is given out again, also across reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id, valid while the process has not been reaped.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_time_ticks: u64,
    /// The boot that it belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of the calling process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// The identity of the process that has `pid` at this moment.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = ProcessStat::read(pid)?;
        Ok(Self {
            pid,
            start_time_ticks: stat.start_time_ticks,
            boot_id: boot_id()?.to_owned(),
        })
    }

    /// True while this very process runs; a zombie is not alive, nor is a stranger with its pid.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id)
            && ProcessStat::read(self.pid)
                .is_ok_and(|stat| stat.start_time_ticks == self.start_time_ticks && !stat.is_dead())
    }

    /// Opens a pidfd of this process; `None` when it is gone.
    ///
    /// The identity is verified after opening: from then on the pidfd can only mean this process.
    /// The pidfd becomes readable when the process ends, whoever its parent is.
    ///
    /// # Errors
    /// When the kernel refuses for any reason but the absence of the process.
    pub fn open_pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) if self.is_alive() => Ok(Some(descriptor)),
            Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The boot id of this machine, read once.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT_ID.get() {
        return Ok(known);
    }
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| text.trim().to_owned()))
}

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// One letter: `R`, `S`, `D`, `T`, `Z`, …
    pub(crate) state: u8,
    /// The parent.
    pub(crate) parent: u32,
    /// The session.
    pub(crate) session: u32,
    /// Threads that have not ended.
    pub(crate) threads: u32,
    /// Ticks since boot.
    pub(crate) start_time_ticks: u64,
}

impl ProcessStat {
    /// Reads the fields of `pid`.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        // Read in one piece: the kernel makes the text anew for each read.
        let mut text = [0; STAT_MAX_BYTES];
        let length = File::open(format!("/proc/{pid}/stat"))?.read(&mut text)?;
        Self::parse(&text[..length]).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat is not in the known format"),
            )
        })
    }

    /// True for a process that has ended and only waits to be reaped.
    ///
    /// A process whose first thread alone has ended looks like a zombie, yet its others run.
    pub(crate) fn is_dead(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    /// The command's name is in parentheses and may itself hold anything, so the fields are
    /// counted from its last closing parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let _process_group = fields.next()?;
        let session = fields.next()?.parse().ok()?;
        // The session is field 6, the number of threads field 20, the start time field 22.
        let threads = fields.nth(13)?.parse().ok()?;
        let start_time_ticks = fields.nth(1)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            session,
            threads,
            start_time_ticks,
        })
    }
}

/// Every process of the machine that could be read, with its fields.
///
/// # Errors
/// When `/proc` itself cannot be listed; a process that vanishes meanwhile is left out.
pub(crate) fn every_process() -> io::Result<Vec<(u32, ProcessStat)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Ok(stat) = ProcessStat::read(pid) {
            found.push((pid, stat));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        let text = b"77 (a) R 1 (b) S 5 6 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 10 0 4242 99 0";
        let stat = ProcessStat::parse(text).unwrap();
        assert_eq!(
            stat,
            ProcessStat {
                state: b'S',
                parent: 5,
                session: 7,
                threads: 10,
                start_time_ticks: 4242,
            }
        );
    }

    #[test]
    fn this_process_is_alive_and_its_later_namesake_is_not() {
        let identity = ProcessIdentity::current().unwrap();
        assert!(identity.is_alive());
        assert!(identity.open_pidfd().unwrap().is_some());

        let mut later = identity.clone();
        later.start_time_ticks += 1;
        assert!(!later.is_alive());
        assert!(later.open_pidfd().unwrap().is_none());

        let mut other_boot = identity;
        other_boot.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
        assert!(!other_boot.is_alive());
    }
}
