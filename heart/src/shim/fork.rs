//! The system calls of the shim server that the compiler cannot vouch for.
#![expect(
    unsafe_code,
    reason = "fork and the disposition of signals concern the whole process"
)]

use std::io;

use rustix::process::Pid;

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

/// Lets this process reap its own children: a shim wants their status.
pub(super) fn reap_here() {
    // SAFETY: SIG_DFL is not a function; nothing of ours is called by the kernel.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}
