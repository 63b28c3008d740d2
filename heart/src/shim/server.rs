//! The shim server: a tiny process that forks a shim for each request.
//!
//! ```text
//! heart ──posix_spawn──► server ──fork──► waiting shims, each with a blank ──► applications
//!   └──── request (run directory, answer pipe) ──────────────────▲
//! ```
//! Executing `pm` for each instance would cost milliseconds and a megabyte of relocated pages
//! each. The server is executed once; a shim forked from it shares those pages. Some shims always
//! wait, each with a [blank](super::launch) that takes the next request, so that nothing is forked
//! on the way of a start; one that has answered a request says so, and the server forks the next.
//!
//! The server keeps nothing: when the heart dies it ends, when it dies the heart executes another,
//! and the shims outlive both. It never reaps; the kernel does it for it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, pidfd_open};

use super::fork::{self, Forked, Urgency};
use super::launch::{self, Request};
use super::prepare::{self, Prepared};
use super::supervise;

/// How long a blank waits for a request before it is replaced: by as much may an application seem
/// to have started too early (`ps`, `process_start_time_seconds`). Two forks in this time are
/// nothing to an idle machine.
pub(super) const FRESH: Duration = Duration::from_secs(10);

/// The first descriptor behind the standard streams.
const FIRST_FREE: i32 = 3;

/// Shims that wait: as many starts overlap without waiting for a fork on a small machine, and one that
/// follows at once does not meet the making of the next. (With two, starts in a row took 10 % longer;
/// with eight as long as with four.)
const WAITING: usize = 4;

/// When a process may not be made for the moment: the wait until it is tried again.
const RETRY: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

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
    become_server(control)?;
    let (taken, taken_sender) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut waiting: Vec<Waiting> = Vec::with_capacity(WAITING);
    let mut deaths = 0;
    loop {
        while waiting.len() < WAITING {
            let child = match fork::fork()? {
                Forked::Child => {
                    drop((taken, waiting));
                    return run_shim(control, taken_sender);
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
fn become_server(control: BorrowedFd<'_>) -> io::Result<()> {
    prepare::inherit_to_application()?;
    fork::reset_signals();
    // A terminal's interrupt ends the heart, in order, and not this process before it. Fails only
    // for a leader of a group, which a terminal does not interrupt together with the heart.
    rustix::process::setsid().ok();
    rustix::thread::set_name(c"pm-shim-server")?;
    super::process::boot_id()?;
    set_socket_timeout(control, Timeout::Recv, Some(FRESH))?;
    fork::set_urgency(Urgency::Patient);
    fork::let_kernel_reap();
    Ok(())
}

/// The waiting shim: watches the run that its blank begins.
fn run_shim(control: BorrowedFd<'_>, taken: OwnedFd) -> io::Result<()> {
    // Standard input, where they arrive, is the application's from now on.
    let requests = rustix::io::fcntl_dupfd_cloexec(control, FIRST_FREE)?;
    let prepared = Prepared::new()?;
    fork::set_urgency(Urgency::Prompt);
    let request = loop {
        match launch::wait(&prepared, requests.as_fd()) {
            Ok(Request::Taken(request)) => break request,
            Ok(Request::Stale) => {}
            Ok(Request::Ended) => return Ok(()),
            // A limit of processes or memory: it must not wear out the server.
            Err(error) if is_for_the_moment(&error) => {
                poll(&mut [], Some(&RETRY)).ok();
            }
            Err(error) => return Err(error),
        }
    };
    supervise::run(prepared, request, move || {
        fork::set_urgency(Urgency::Ordinary);
        // Without a server there is nobody to fork another, and this run goes on all the same.
        rustix::io::write(&taken, &std::process::id().to_ne_bytes()).ok();
        // The control socket closes with the server and those that wait.
        drop((taken, requests));
    })
}

fn is_for_the_moment(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory
    )
}
