//! The shim server: a tiny process that forks a shim for each request.
//!
//! ```text
//! heart ──posix_spawn──► server ──fork──► waiting shim ──takes a request──► shim
//!   └──── request (run directory, answer pipe) ─────────────▲
//! ```
//! Executing `pm` for each instance would cost milliseconds and a megabyte of relocated pages
//! each. The server is executed once; a shim forked from it shares those pages. One forked shim
//! always waits for the next request, so the fork is not on the way of a start; the one that takes
//! a request says so, and the server forks the next.
//!
//! The server keeps nothing: when the heart dies it ends, when it dies the heart executes another,
//! and the shims outlive both. It never reaps (the kernel does it for it) and never allocates
//! after its start.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};

use super::fork::{self, Forked};
use super::supervise;

/// The first byte of an answer: the request is taken, and must not be sent to another server.
pub(super) const TAKEN: u8 = b'T';

/// A request is a path, and the kernel's PATH_MAX is this.
pub(super) const REQUEST_MAX_BYTES: usize = 4096;

/// What a waiting shim writes to the server when it takes a request.
const NEXT: &[u8] = b"n";

/// Serves the requests that arrive on `control` until its other end is closed.
///
/// # Errors
/// When no shim can be forked; then the other end is closed, and the heart learns it that way.
pub(super) fn serve(control: BorrowedFd<'_>) -> io::Result<()> {
    become_server()?;
    let (taken, taken_sender) = pipe_with(PipeFlags::CLOEXEC)?;
    loop {
        let waiting = match fork::fork()? {
            Forked::Child => {
                drop(taken);
                return wait_for_request(control, taken_sender);
            }
            Forked::Parent(child) => child,
        };
        // One that ended already is replaced like one that ends while it waits.
        let Ok(waiting) = pidfd_open(waiting, PidfdFlags::empty()) else {
            continue;
        };
        let mut events = [
            PollFd::new(&taken, PollFlags::IN),
            PollFd::new(&control, PollFlags::empty()),
            PollFd::new(&waiting, PollFlags::IN),
        ];
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        if events[1].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        if !events[0].revents().is_empty() {
            rustix::io::read(&taken, &mut [0_u8; NEXT.len()])?;
        }
    }
}

/// What the shims need and inherit is done once.
fn become_server() -> io::Result<()> {
    // A terminal's interrupt ends the heart, in order, and not this process before it. Fails only
    // for a leader of a group, which a terminal does not interrupt together with the heart.
    rustix::process::setsid().ok();
    rustix::thread::set_name(c"pm-shim-server")?;
    super::process::boot_id()?;
    fork::let_kernel_reap();
    supervise::inherit_to_application()
}

/// The waiting shim: takes one request and runs it.
fn wait_for_request(control: BorrowedFd<'_>, taken: OwnedFd) -> io::Result<()> {
    fork::reap_here();
    let prepared = supervise::Prepared::new()?;
    let mut path = [0_u8; REQUEST_MAX_BYTES];
    let Some((run_directory, mut answer)) = receive(control, &mut path)? else {
        return Ok(());
    };
    answer.write_all(&[TAKEN])?;
    // Without a server there is nobody to fork another, and this request is served all the same.
    rustix::io::write(&taken, NEXT).ok();
    drop(taken);
    // Lets go of the control socket, so that its closing means the end of server and waiting shim.
    let nothing = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(nothing)?;
    supervise::run(&run_directory, prepared, Some(answer))
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
