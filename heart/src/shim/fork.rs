//! The system calls of shim and server that the compiler cannot vouch for.
#![expect(
    unsafe_code,
    reason = "fork, descriptors and the disposition of signals concern the whole process"
)]

use std::io;
use std::ptr;

use rustix::process::Pid;

/// The last signal number of Linux.
const LAST_SIGNAL: i32 = 64;

/// The kernel's set of 64 signals.
const KERNEL_SIGNAL_SET_BYTES: usize = 8;

/// The kernel's `struct sigaction` for the default action, and some room.
static DEFAULT_ACTION: [u64; 16] = [0; 16];

/// Which of the two processes this is.
pub(super) enum Forked {
    Parent(Pid),
    Child,
}

/// Forks the calling process, which must have one thread.
pub(super) fn fork() -> io::Result<Forked> {
    // SAFETY: the server has a single thread from its start to its end, so the child inherits no
    // lock that another thread holds and may go on as the parent would.
    let result = unsafe { libc::fork() };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent(Pid::from_raw(child).ok_or_else(|| {
            io::Error::other("fork answered with a process id that none can have")
        })?)),
    }
}

/// Lets the kernel reap the children of this process.
pub(super) fn let_kernel_reap() {
    // SAFETY: SIG_IGN is not a function; nothing of ours is called by the kernel.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Gives every signal its default action: what is ignored stays so across an execution.
pub(super) fn reset_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: SIG_DFL with no flags and no mask is all zeros in every layout of the kernel's
        // structure, and the buffer is larger than each. The C library's own function is not
        // called because it keeps two signals for itself. SIGKILL and SIGSTOP answer with an error.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                ptr::null_mut::<u64>(),
                KERNEL_SIGNAL_SET_BYTES,
            );
        }
    }
}

/// Closes what this process was given beyond standard input, output and error.
pub(super) fn close_leaked_descriptors() {
    // SAFETY: called first of all, when this process has opened nothing, so nobody owns what is
    // closed.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}
