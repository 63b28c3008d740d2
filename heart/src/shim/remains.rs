//! Kills what a killed shim left behind.
//!
//! Without the shim the tree is gone: orphans belong to the machine's first process. They are found
//! by the marks of their run: the recorded session, the run's marker in the environment, the run's
//! output pipe, and descent from a process so marked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::id::InstanceId;
use rustix::process::{Signal, pidfd_send_signal};

use super::process::{ProcessIdentity, ProcessStat, boot_id, every_process};
use super::record::ProcessRecord;
use super::specification::{self, RUN_VARIABLE, StoredSpecification};
use super::tree::{pause, signal};

/// Looks between two rounds of killing; one that finds nobody new ends the round earlier.
const LOOKS: usize = 64;

/// How long all of it may take; a moment, unless somebody replaces himself faster than he is found.
const LIMIT: Duration = Duration::from_secs(10);

/// Kills everything that is left of `instance`'s run in `run_directory` after its shim was killed.
///
/// A shim that still lives is killed too. Strangers are never touched: a mark is compared with the
/// run's own unguessable marker, and a session only counts when it is provably the recorded one.
/// What it cannot know: a process that left the session, replaced its environment, closed the
/// output pipe and lost every marked ancestor before the shim died.
///
/// # Errors
/// When `/proc` or the records cannot be read, `TimedOut` when something does not vanish.
pub fn kill_tree(run_directory: &Path, instance: InstanceId) -> io::Result<()> {
    let marker = marker_of(run_directory, instance)?;
    kill_recorded(run_directory, marker.as_deref())
}

/// Kills what is left of the run of `process`, as [`kill_tree`] does, and nothing of another run
/// that has begun in the directory meanwhile.
///
/// # Errors
/// As [`kill_tree`].
pub fn kill_tree_of(
    run_directory: &Path,
    instance: InstanceId,
    process: &ProcessRecord,
) -> io::Result<()> {
    // The record goes before a specification is replaced, so that one that is there still proves
    // whose the marker is that was read before.
    let marker = marker_of(run_directory, instance)?;
    let marker = match ProcessRecord::read(run_directory)? {
        Some(found) if found == *process => marker,
        _ => None,
    };
    let is_of_this_boot = process.shim.boot_id == boot_id()?;
    kill_run(Some(process).filter(|_| is_of_this_boot), marker.as_deref())
}

/// Takes back a run that was asked for and has not been answered: kills what is there of it, and
/// makes a shim that is yet to begin find nothing to do.
///
/// # Errors
/// As [`kill_tree`]; then the specification may still be there, and it can be called again.
pub fn call_off(run_directory: &Path, instance: InstanceId) -> io::Result<()> {
    let marker = marker_of(run_directory, instance)?;
    kill_recorded(run_directory, marker.as_deref())?;
    specification::remove(run_directory)?;
    // A shim leaves its record before it looks for its specification once more: one that has seen
    // it is in the record by now, any other ends by itself.
    kill_recorded(run_directory, marker.as_deref())
}

/// The marker of the run in a directory; `None` without specification.
fn marker_of(run_directory: &Path, instance: InstanceId) -> io::Result<Option<String>> {
    let stored = match StoredSpecification::read(run_directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        stored => stored?,
    };
    if stored.specification.instance != instance {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the run belongs to instance {}, not to {instance}",
                stored.specification.instance
            ),
        ));
    }
    Ok(Some(stored.marker))
}

fn kill_recorded(run_directory: &Path, marker: Option<&str>) -> io::Result<()> {
    let boot = boot_id()?;
    let record = ProcessRecord::read(run_directory)?.filter(|record| record.shim.boot_id == boot);
    kill_run(record.as_ref(), marker)
}

/// Kills the shim of a record of this boot, and what bears the marks of its run.
fn kill_run(record: Option<&ProcessRecord>, marker: Option<&str>) -> io::Result<()> {
    if record.is_none() && marker.is_none() {
        return Ok(());
    }
    if let Some(record) = record {
        kill_shim(&record.shim)?;
    }
    kill_marked(&Marks {
        variable: marker.map(|marker| format!("{RUN_VARIABLE}={marker}").into_bytes()),
        application: record.map(|record| record.application.clone()),
        output_pipe: record.map_or(0, |record| record.output_pipe),
    })
}

fn kill_shim(shim: &ProcessIdentity) -> io::Result<()> {
    let Some(descriptor) = shim.open_pidfd()? else {
        return Ok(());
    };
    match pidfd_send_signal(&descriptor, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn kill_marked(marks: &Marks) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut stopped = BTreeMap::new();
        for _ in 0..LOOKS {
            let fresh: Vec<(u32, ProcessStat)> = marks
                .marked()?
                .into_iter()
                .filter(|(pid, _)| !stopped.contains_key(pid))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for (pid, stat) in fresh {
                signal(pid, stat.start_time_ticks, Signal::STOP);
                stopped.insert(pid, stat);
            }
        }
        if stopped.is_empty() {
            return Ok(());
        }
        for (pid, stat) in &stopped {
            signal(*pid, stat.start_time_ticks, Signal::KILL);
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} killed processes have not vanished", stopped.len()),
            ));
        }
        pause();
    }
}

/// Processes that have not ended; a zombie cannot fork and needs no killing.
type Processes = BTreeMap<u32, ProcessStat>;

/// What marks the processes of one run.
struct Marks {
    /// `PM_RUN` with the run's marker, where that is known.
    variable: Option<Vec<u8>>,
    application: Option<ProcessIdentity>,
    output_pipe: u64,
}

impl Marks {
    fn marked(&self) -> io::Result<Processes> {
        let mut processes: Processes = every_process()?
            .into_iter()
            .filter(|(_, stat)| !stat.is_dead())
            .collect();
        let own = std::process::id();
        let mut marked: BTreeSet<u32> = processes
            .keys()
            .copied()
            .filter(|pid| self.in_environment(*pid) || self.holds_pipe(*pid))
            .collect();
        if let Some(application) = &self.application {
            marked.extend(session_of(application, &processes, &marked));
        }
        add_descendants(&processes, &mut marked);
        processes.retain(|pid, _| marked.contains(pid) && *pid != own);
        Ok(processes)
    }

    fn in_environment(&self, pid: u32) -> bool {
        let Some(wanted) = &self.variable else {
            return false;
        };
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == wanted)
        })
    }

    /// Only standard output and error are looked at: that is where the pipe was given.
    fn holds_pipe(&self, pid: u32) -> bool {
        let wanted = format!("pipe:[{}]", self.output_pipe);
        self.output_pipe != 0
            && [1, 2].into_iter().any(|descriptor| {
                fs::read_link(format!("/proc/{pid}/fd/{descriptor}"))
                    .is_ok_and(|target| target.as_os_str().as_bytes() == wanted.as_bytes())
            })
    }
}

/// The members of the application's session, if it is still that session.
///
/// The kernel gives a session's number to nobody else while the session has a member. It is the
/// recorded one when its leader lives with the recorded identity or when a member is marked.
fn session_of(
    application: &ProcessIdentity,
    processes: &Processes,
    marked: &BTreeSet<u32>,
) -> Vec<u32> {
    let members: Vec<u32> = processes
        .iter()
        .filter(|(_, stat)| stat.session == application.pid)
        .map(|(pid, _)| *pid)
        .collect();
    let leader_lives = processes
        .get(&application.pid)
        .is_some_and(|stat| stat.start_time_ticks == application.start_time_ticks);
    if leader_lives || members.iter().any(|member| marked.contains(member)) {
        members
    } else {
        Vec::new()
    }
}

fn add_descendants(processes: &Processes, found: &mut BTreeSet<u32>) {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, stat) in processes {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut open: Vec<u32> = found.iter().copied().collect();
    while let Some(parent) = open.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
}
