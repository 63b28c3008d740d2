//! The shim server: a tiny process that forks a shim for each request.
//!
//! ```text
//! heart ──posix_spawn──► server ──fork──► waiting shims ──take a request──► shims
//!   └──── request (run directory, answer pipe) ─────────────▲
//! ```
//! Executing `pm` for each instance would cost milliseconds and a megabyte of relocated pages
//! each. The server is executed once; a shim forked from it shares those pages. Some forked shims
//! always wait for the next request, so the fork is not on the way of a start; one that has
//! answered a request says so, and the server forks the next.
//!
//! The server keeps nothing: when the heart dies it ends, when it dies the heart executes another,
//! and the shims outlive both. It never reaps; the kernel does it for it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};

use super::fork::{self, Forked, Urgency};
use super::prepare::{self, Prepared};
use super::supervise;

/// A request is a path, and the kernel's PATH_MAX is this.
pub(super) const REQUEST_MAX_BYTES: usize = 4096;

/// Shims that wait: as many starts overlap without waiting for a fork on a small machine.
const WAITING: usize = 2;

/// Waiting shims that may die in a row before the server gives up: none should ever.
const DEATHS: usize = 16;

/// What a shim writes when it has taken a request: its process id.
const TAKEN_BYTES: usize = size_of::<u32>();

/// A shim that waits.
struct Waiting {
    pid: u32,
    descriptor: OwnedFd,
}

/// Serves the requests that arrive on `control` until its other end is closed.
///
/// # Errors
/// When no shim can be forked; then the other end is closed, and the heart learns it that way.
pub(super) fn serve(control: BorrowedFd<'_>) -> io::Result<()> {
    become_server()?;
    let (taken, taken_sender) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut waiting: Vec<Waiting> = Vec::with_capacity(WAITING);
    let mut deaths = 0;
    loop {
        while waiting.len() < WAITING {
            let child = match fork::fork()? {
                Forked::Child => {
                    drop((taken, waiting));
                    return wait_for_request(control, taken_sender);
                }
                Forked::Parent(child) => child,
            };
            waiting.push(Waiting {
                pid: child.as_raw_nonzero().get().unsigned_abs(),
                descriptor: pidfd_open(child, PidfdFlags::empty())?,
            });
        }
        let mut events = vec![
            PollFd::new(&taken, PollFlags::IN),
            PollFd::new(&control, PollFlags::empty()),
        ];
        events.extend(
            waiting
                .iter()
                .map(|shim| PollFd::new(&shim.descriptor, PollFlags::IN)),
        );
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        if events[1].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        if !events[0].revents().is_empty() {
            let mut pid = [0; TAKEN_BYTES];
            rustix::io::read(&taken, &mut pid)?;
            waiting.retain(|shim| shim.pid != u32::from_ne_bytes(pid));
            deaths = 0;
            continue;
        }
        let has_ended: Vec<bool> = events[2..]
            .iter()
            .map(|event| !event.revents().is_empty())
            .collect();
        let mut has_ended = has_ended.into_iter();
        waiting.retain(|_| !has_ended.next().unwrap_or(false));
        deaths += WAITING - waiting.len();
        if deaths > DEATHS {
            return Err(io::Error::other("the waiting shims die"));
        }
    }
}

/// What the shims need and inherit is done once.
fn become_server() -> io::Result<()> {
    prepare::inherit_to_application()?;
    // A terminal's interrupt ends the heart, in order, and not this process before it. Fails only
    // for a leader of a group, which a terminal does not interrupt together with the heart.
    rustix::process::setsid().ok();
    rustix::thread::set_name(c"pm-shim-server")?;
    super::process::boot_id()?;
    fork::set_urgency(Urgency::Patient);
    fork::let_kernel_reap();
    Ok(())
}

/// The waiting shim: takes one request and runs it.
fn wait_for_request(control: BorrowedFd<'_>, taken: OwnedFd) -> io::Result<()> {
    let prepared = Prepared::new()?;
    fork::set_urgency(Urgency::Prompt);
    let mut path = [0_u8; REQUEST_MAX_BYTES];
    let Some((run_directory, answer)) = receive(control, &mut path)? else {
        return Ok(());
    };
    supervise::run(&run_directory, prepared, Some(answer), move || {
        fork::set_urgency(Urgency::Ordinary);
        // Without a server there is nobody to fork another, and this run goes on all the same.
        rustix::io::write(&taken, &std::process::id().to_ne_bytes()).ok();
        drop(taken);
        // Lets go of the control socket: it closes with the server and those that wait.
        if let Ok(nothing) = File::open("/dev/null") {
            rustix::stdio::dup2_stdin(nothing).ok();
        }
    })
}

/// The next request: a run directory and where to answer; `None` when there will be none.
fn receive(control: BorrowedFd<'_>, path: &mut [u8]) -> io::Result<Option<(PathBuf, File)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let result = recvmsg(
            control,
            &mut [IoSliceMut::new(path)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        match result {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let answer = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(answer.filter(|_| received.bytes > 0).map(|answer| {
        let path = Path::new(OsStr::from_bytes(&path[..received.bytes]));
        (path.to_owned(), File::from(answer))
    }))
}
