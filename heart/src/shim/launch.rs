//! Executes the application: its own session, default signals, nothing inherited.
//!
//! Done as `posix_spawn` does it, by a child that borrows the shim's memory until it executes the
//! program, and by hand because `posix_spawn` cannot tie the child's life to its parent's. Forking
//! would copy page tables and then fault on every page that either of the two touches.
#![expect(
    unsafe_code,
    reason = "a process that shares memory with its parent can only be made by hand"
)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::specification::{RUN_VARIABLE, StoredSpecification};

/// Enough for a dozen system calls in a row in a debug build.
const STACK_BYTES: usize = 16 << 10;

/// Searched when the environment has no `PATH`, as the C library does it.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What the application gets as its standard input, output and error.
#[derive(Clone, Copy)]
pub(crate) struct Streams<'a> {
    pub(crate) input: BorrowedFd<'a>,
    pub(crate) output: BorrowedFd<'a>,
}

/// Executes the application; an error is a sentence for the user.
pub(crate) fn launch(stored: &StoredSpecification, streams: Streams<'_>) -> Result<Pid, String> {
    let specification = &stored.specification;
    let program = specification.arguments.first().map_or("", String::as_str);
    let directory = specification.directory.display();
    Plan::new(stored)
        .and_then(|plan| execute(&plan, streams))
        .map_err(|error| format!("`{program}` could not be executed in {directory}: {error}"))
}

/// Goes through the work before a launch once, so that the launch that counts finds the pages of
/// heap, stack and code that it needs in place; a fork leaves them to be fetched at first use.
pub(crate) fn rehearse() {
    let rehearsed = serde_json::to_vec(&StoredSpecification::sample())
        .and_then(|text| serde_json::from_slice::<StoredSpecification>(&text))
        .map_err(io::Error::from)
        .and_then(|stored| Plan::new(&stored));
    let stack = vec![1_u8; STACK_BYTES];
    drop(std::hint::black_box((rehearsed, stack)));
}

/// Everything that the child needs, ready before it exists: it must not allocate.
struct Plan {
    /// The program's possible paths, in the order in which they are tried.
    programs: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    directory: CString,
    shim: Pid,
}

/// Texts as the kernel takes them: an array of pointers that ends with a null.
struct Strings {
    /// Owns what the pointers point to.
    _texts: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    fn new(texts: Vec<CString>) -> Self {
        let pointers = texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            _texts: texts,
            pointers,
        }
    }
}

impl Plan {
    fn new(stored: &StoredSpecification) -> io::Result<Self> {
        let specification = &stored.specification;
        let Some(program) = specification.arguments.first() else {
            let words = "no program is named";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        };
        let programs = if program.contains('/') {
            vec![CString::new(program.as_str())?]
        } else {
            let path = specification.environment.get("PATH");
            path.map_or(DEFAULT_PATH, String::as_str)
                .split(':')
                .map(|place| if place.is_empty() { "." } else { place })
                .map(|place| CString::new(format!("{place}/{program}")))
                .collect::<Result<_, _>>()?
        };
        let arguments: Result<_, _> = specification
            .arguments
            .iter()
            .map(|argument| CString::new(argument.as_str()))
            .collect();
        let environment: Result<_, _> = specification
            .environment
            .iter()
            .filter(|(name, _)| *name != RUN_VARIABLE)
            .map(|(name, value)| CString::new(format!("{name}={value}")))
            .chain([CString::new(format!("{RUN_VARIABLE}={}", stored.marker))])
            .collect();
        Ok(Self {
            programs,
            arguments: Strings::new(arguments?),
            environment: Strings::new(environment?),
            directory: CString::new(specification.directory.as_os_str().as_bytes())?,
            shim: rustix::process::getpid(),
        })
    }
}

fn execute(plan: &Plan, streams: Streams<'_>) -> io::Result<Pid> {
    let failure = AtomicI32::new(0);
    let mut stack = vec![0; STACK_BYTES];
    let child = || {
        let errno = become_application(plan, streams);
        failure.store(errno.raw_os_error(), Ordering::Relaxed);
        // The exit code; nobody looks at it.
        1
    };
    // SAFETY: CLONE_VFORK keeps this process, which has one thread, from running until the child
    // has executed the program or ended, so what the child borrows outlives its use and nothing is
    // touched by two at once. The child runs on its own stack, makes system calls, neither
    // allocates nor unwinds, and its descriptors, signals and directory are its own.
    let pid = unsafe {
        nix::sched::clone(
            Box::new(child),
            &mut stack,
            CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK,
            Some(libc::SIGCHLD),
        )
    }?;
    let pid = Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("no process id"))?;
    match failure.load(Ordering::Relaxed) {
        0 => Ok(pid),
        errno => {
            // Ended already; it was never the application.
            rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// In the child: makes it what an application expects to be and executes the program. Returns only
/// when that failed.
fn become_application(plan: &Plan, streams: Streams<'_>) -> Errno {
    match prepare(plan, streams) {
        Ok(()) => execute_first(plan),
        Err(errno) => errno,
    }
}

fn prepare(plan: &Plan, streams: Streams<'_>) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(plan.shim) {
        // The shim died before the line above took effect; nobody would ever stop this process.
        return Err(Errno::SRCH);
    }
    rustix::stdio::dup2_stdin(streams.input)?;
    rustix::stdio::dup2_stdout(streams.output)?;
    rustix::stdio::dup2_stderr(streams.output)?;
    rustix::process::chdir::<&CStr>(&plan.directory)?;
    // The shim has blocked what it reads as events. Dispositions are the default ones already.
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut nothing = MaybeUninit::uninit();
        libc::sigemptyset(nothing.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, nothing.as_ptr(), ptr::null_mut());
    }
    Ok(())
}

/// Tries the program's paths in turn. As `execvp` does it, a file that may not be executed is
/// passed over, and is the reason given when there is no other.
fn execute_first(plan: &Plan) -> Errno {
    let mut reason = Errno::NOENT;
    for program in &plan.programs {
        // SAFETY: program, arguments and environment are texts that end with NUL, in arrays that
        // end with null, and live in the plan.
        unsafe {
            libc::execve(
                program.as_ptr(),
                plan.arguments.pointers.as_ptr(),
                plan.environment.pointers.as_ptr(),
            );
        }
        // Read at once: errno is this thread's, and the child borrows it with the rest.
        // SAFETY: the C library's own place for it.
        match Errno::from_raw_os_error(unsafe { *libc::__errno_location() }) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => reason = Errno::ACCESS,
            errno => return errno,
        }
    }
    reason
}
