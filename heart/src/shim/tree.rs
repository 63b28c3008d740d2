//! Finds every process of a run and kills it, whatever it did to escape.
//!
//! Two cases. While the shim lives it is the sub-reaper, so all that is left are its descendants.
//! After a shim was killed, what is left is found by its marks: the recorded session, the run's
//! marker in the environment, the run's output pipe, and descent from a process so marked.
//! Nothing is signalled by pid: a pidfd is opened, the identity checked again, then signalled.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::id::InstanceId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{ProcessIdentity, ProcessStat, boot_id, every_process};
use super::record::ProcessRecord;
use super::specification::{RUN_VARIABLE, StoredSpecification};

/// Passes of SIGSTOP until no new process is found; each pass catches what the last one raced
/// with, and a fork bomb has no running parent left after a few.
const FREEZE_PASSES: usize = 64;

/// How long the killed may take to vanish; only uninterruptible sleep takes longer than a moment.
const VANISH_LIMIT: Duration = Duration::from_secs(10);

/// The pause between two looks at processes that have been killed and not vanished.
const VANISH_STEP: Duration = Duration::from_millis(2);

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
    let stored = match StoredSpecification::read(run_directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
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
    let record = ProcessRecord::read(run_directory)?
        .filter(|record| boot_id().is_ok_and(|boot| boot == record.shim.boot_id));
    if let Some(record) = &record {
        kill_shim(&record.shim)?;
    }
    let marks = Marks {
        variable: format!("{RUN_VARIABLE}={}", stored.marker).into_bytes(),
        application: record.as_ref().map(|record| record.application.clone()),
        output_pipe: record.map_or(0, |record| record.output_pipe),
    };
    kill_until_gone(|processes| marks.marked(processes), || {})
}

/// Kills every descendant of the calling process; `reap` is called between the passes.
pub(crate) fn kill_descendants(reap: impl FnMut()) -> io::Result<()> {
    let own = std::process::id();
    kill_until_gone(
        |processes| descendants(processes, BTreeSet::from([own])),
        reap,
    )
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

type Processes = BTreeMap<u32, ProcessStat>;

/// Freezes, then kills what `victims` names, until it names nothing.
fn kill_until_gone(
    victims: impl Fn(&Processes) -> BTreeSet<u32>,
    mut reap: impl FnMut(),
) -> io::Result<()> {
    let deadline = Instant::now() + VANISH_LIMIT;
    loop {
        let mut frozen = BTreeSet::new();
        for _ in 0..FREEZE_PASSES {
            let processes = living()?;
            let fresh: Vec<u32> = victims(&processes)
                .into_iter()
                .filter(|pid| !frozen.contains(pid))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                signal(pid, &processes, Signal::STOP);
                frozen.insert(pid);
            }
        }
        let processes = living()?;
        let left = victims(&processes);
        for pid in &left {
            signal(*pid, &processes, Signal::KILL);
        }
        reap();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} killed processes have not vanished", left.len()),
            ));
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the end of a process that is nobody's child here can only be polled"
)]
fn pause() {
    std::thread::sleep(VANISH_STEP);
}

/// The processes that have not ended; a zombie cannot fork and needs no killing.
fn living() -> io::Result<Processes> {
    Ok(every_process()?
        .into_iter()
        .filter(|(_, stat)| !stat.is_dead())
        .collect())
}

/// Signals `pid` if it is still the process that was seen.
fn signal(pid: u32, processes: &Processes, signal: Signal) {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let Ok(descriptor) = pidfd_open(raw, PidfdFlags::empty()) else {
        return;
    };
    let is_same = ProcessStat::read(pid).is_ok_and(|stat| {
        processes
            .get(&pid)
            .is_some_and(|seen| seen.start_time_ticks == stat.start_time_ticks)
    });
    if is_same {
        // Fails only when the process is gone, which is what is wanted.
        pidfd_send_signal(descriptor, signal).ok();
    }
}

/// Everything that descends from `roots`, without the roots.
fn descendants(processes: &Processes, roots: BTreeSet<u32>) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, stat) in processes {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<u32> = roots.into_iter().collect();
    while let Some(parent) = open.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// What marks the processes of one run.
struct Marks {
    variable: Vec<u8>,
    application: Option<ProcessIdentity>,
    output_pipe: u64,
}

impl Marks {
    fn marked(&self, processes: &Processes) -> BTreeSet<u32> {
        let own = std::process::id();
        let mut marked: BTreeSet<u32> = processes
            .keys()
            .copied()
            .filter(|pid| *pid != own && (self.in_environment(*pid) || self.holds_pipe(*pid)))
            .collect();
        if let Some(application) = &self.application {
            marked.extend(session_of(application, processes, &marked));
        }
        let below = descendants(processes, marked.clone());
        marked.extend(below);
        marked.remove(&own);
        marked
    }

    fn in_environment(&self, pid: u32) -> bool {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == self.variable)
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
