//! Kills all descendants of the shim, whatever they do to escape.
//!
//! The shim is their sub-reaper: who loses his parent becomes its child, so nobody leaves the tree.
//! The tree is walked from the top and every process is stopped before its children are listed, so
//! that it cannot beget more behind the walker's back; when a walk finds nobody new, all are
//! killed. Processes that replace themselves all the time are a race, which is run at a high
//! priority and again until it is won.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::{ProcessStat, every_process};

/// Walks between two rounds of killing; one that finds nobody new ends the round earlier.
const WALKS: usize = 64;

/// How long the killed may take to vanish once nobody new appears; only uninterruptible sleep
/// takes longer than a moment, and then they die when they wake.
pub(crate) const VANISH_LIMIT: Duration = Duration::from_secs(10);

/// The pause between two looks at processes that have been killed and have not vanished.
const VANISH_STEP: Duration = Duration::from_millis(1);

/// The kernel lets a process of this priority run before all ordinary ones.
const HIGHEST_PRIORITY: i32 = -20;

/// Kills every descendant of the calling process. `reap` takes the status of all children that have
/// ended and answers whether there are others.
///
/// # Errors
/// `TimedOut` when something killed does not vanish.
pub(crate) fn kill_descendants(mut reap: impl FnMut() -> bool) -> io::Result<()> {
    // Needs a privilege; without it the race takes longer.
    rustix::process::setpriority_process(None, HIGHEST_PRIORITY).ok();
    let mut tree = Tree::default();
    let mut deadline = Instant::now() + VANISH_LIMIT;
    while reap() {
        let mut found = 0;
        for _ in 0..WALKS {
            let fresh = tree.stop_all();
            found += fresh;
            if fresh == 0 {
                break;
            }
        }
        tree.kill_all();
        let now = Instant::now();
        if found > 0 {
            deadline = now + VANISH_LIMIT;
        } else if now > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        } else {
            pause();
        }
    }
    Ok(())
}

/// Waits a moment for what has been killed.
#[expect(
    clippy::disallowed_methods,
    reason = "the end of a process that is nobody's child here can only be polled"
)]
pub(super) fn pause() {
    std::thread::sleep(VANISH_STEP);
}

/// Who has been stopped, by pid and start time.
#[derive(Default)]
struct Tree {
    stopped: BTreeSet<(u32, u64)>,
}

impl Tree {
    /// One walk: stops everybody who has not been yet, and answers how many.
    fn stop_all(&mut self) -> usize {
        let own = std::process::id();
        let mut fresh = 0;
        let mut open = vec![own];
        let mut seen = BTreeSet::from([own]);
        while let Some(parent) = open.pop() {
            for child in children(parent) {
                if !seen.insert(child) {
                    continue;
                }
                let Some((descriptor, stat)) = descendant(child, parent) else {
                    continue;
                };
                if !stat.is_dead() && self.stopped.insert((child, stat.start_time_ticks)) {
                    fresh += 1;
                    // Fails only for a process that has ended, which is just as well.
                    pidfd_send_signal(descriptor, Signal::STOP).ok();
                }
                open.push(child);
            }
        }
        fresh
    }

    /// Kills everybody who has been stopped.
    fn kill_all(&self) {
        for (pid, start_time_ticks) in &self.stopped {
            signal(*pid, *start_time_ticks, Signal::KILL);
        }
    }
}

/// Opens `pid`, listed as a child of `parent`, if it still is one or has become the shim's own.
///
/// Read after opening, the parent proves that the pidfd means a descendant and not a stranger who
/// was given the pid meanwhile.
fn descendant(pid: u32, parent: u32) -> Option<(OwnedFd, ProcessStat)> {
    let descriptor = open(pid)?;
    let stat = ProcessStat::read(pid).ok()?;
    let is_own = stat.parent == parent || stat.parent == std::process::id();
    is_own.then_some((descriptor, stat))
}

/// Signals `pid` if it is still the process that started at that time.
pub(super) fn signal(pid: u32, start_time_ticks: u64, signal: Signal) {
    let Some(descriptor) = open(pid) else { return };
    if ProcessStat::read(pid).is_ok_and(|stat| stat.start_time_ticks == start_time_ticks) {
        // Fails only for a process that has ended, which is what is wanted.
        pidfd_send_signal(descriptor, signal).ok();
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The children of all threads of `pid`.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(
                list.split_ascii_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            ),
            // A thread that has ended meanwhile, or a kernel that was built without these lists.
            Err(_) => return children_by_search(pid),
        }
    }
    found
}

fn children_by_search(pid: u32) -> Vec<u32> {
    every_process()
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, stat)| stat.parent == pid)
        .map(|(child, _)| child)
        .collect()
}
