//! Executes the application: its own session, default signals, nothing inherited.
#![expect(
    unsafe_code,
    reason = "what happens between fork and exec can only be said in the forked child"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::specification::{RUN_VARIABLE, StoredSpecification};

/// The last signal number of Linux.
const LAST_SIGNAL: i32 = 64;

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
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: SIG_DFL is not a function that could be called. Signals that may not be changed
        // answer with an error, which is what they should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
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
