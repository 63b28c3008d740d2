//! Executes the application: its own session, default signals, nothing inherited.
#![expect(
    unsafe_code,
    reason = "what happens between fork and exec can only be said in the forked child"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::ptr;

use super::specification::{RUN_VARIABLE, StoredSpecification};

/// The last signal number of Linux.
const LAST_SIGNAL: i32 = 64;

/// The kernel's set of 64 signals.
const KERNEL_SIGNAL_SET_BYTES: usize = 8;

/// The kernel's `struct sigaction` for the default action, and some room.
static DEFAULT_ACTION: [u64; 16] = [0; 16];

/// Executes the application with `output` as its standard output and error.
///
/// # Errors
/// What the system answered to the fork, the change of directory or the execution.
pub(crate) fn launch(stored: &StoredSpecification, output: OwnedFd) -> io::Result<Child> {
    let specification = &stored.specification;
    let Some((program, arguments)) = specification.arguments.split_first() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no program is named",
        ));
    };
    let error_output = output.try_clone()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&specification.environment)
        .env(RUN_VARIABLE, &stored.marker)
        .current_dir(&specification.directory)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(error_output);
    let shim = rustix::process::getpid();
    // SAFETY: the closure runs in the forked child of a process with one thread, and makes system
    // calls only; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            prepare(shim)?;
            Ok(())
        });
    }
    command.spawn()
}

/// Makes the calling process, just forked by `shim`, what an application expects to be.
fn prepare(shim: rustix::process::Pid) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() != Some(shim) {
        // The shim died before the line above took effect; nobody would ever stop this process.
        return Err(rustix::io::Errno::SRCH);
    }
    // The shim has blocked what it reads as events.
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut nothing = MaybeUninit::uninit();
        libc::sigemptyset(nothing.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, nothing.as_ptr(), ptr::null_mut());
    }
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
    // SAFETY: marks descriptors to be closed by exec; none is closed under its owner.
    unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC.cast_signed(),
        )
    };
    Ok(())
}
