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

/// The shortest slice that the kernel grants (0.1 ms), in nanoseconds.
const SHORTEST_SLICE: u64 = 100_000;

/// The kernel's `struct sched_attr` of 48 bytes, its first version.
#[repr(C)]
#[derive(Default)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// How urgently the calling process gets the processor. Applications inherit none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Before what runs already: someone waits, and it will not take long.
    ///
    /// By a short slice, which lets a process that wakes take the place of one with a longer slice
    /// (Linux 6.12 and later; before that it is an ordinary process).
    Prompt,
    /// As any process.
    Ordinary,
    /// Never before anything that runs: work ahead of its need.
    Patient,
}

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

/// Sets the urgency of the calling process, as far as the kernel lets it: a start is right without.
pub(super) fn set_urgency(urgency: Urgency) {
    // Without the flag that resets all this at a fork: to clear it takes a privilege.
    let (policy, runtime) = match urgency {
        Urgency::Prompt => (libc::SCHED_OTHER, SHORTEST_SLICE),
        Urgency::Ordinary => (libc::SCHED_OTHER, 0),
        Urgency::Patient => (libc::SCHED_BATCH, 0),
    };
    let scheduling = Scheduling {
        size: u32::try_from(size_of::<Scheduling>()).unwrap_or_default(),
        policy: policy.unsigned_abs(),
        runtime,
        ..Scheduling::default()
    };
    // SAFETY: the kernel reads as many bytes as the first field says, which is the structure's size.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduling, 0) };
}

/// Lets the kernel reap the children of this process.
pub(super) fn let_kernel_reap() {
    // SAFETY: SIG_IGN is not a function; nothing of ours is called by the kernel.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Leaves the children of this process to itself again.
pub(super) fn reap_oneself() {
    // SAFETY: as above, SIG_DFL is not a function either.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
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
