//! Executes the application: its own session, default signals, nothing inherited.
//!
//! The child borrows the shim's memory until it executes the program, as a child of `posix_spawn`
//! does: a fork would copy page tables and then fault on every page that either of the two touches.
//! Unlike there the shim does not wait for it. The child holds the answer pipe open; its execution
//! closes it, and that is what tells the spawner, without another switch to the shim.
#![expect(
    unsafe_code,
    reason = "a process that shares memory with its parent can only be made by hand"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::specification::{RUN_VARIABLE, Specification, StoredSpecification};

/// Enough for a dozen system calls in a row in a debug build.
const STACK_BYTES: usize = 16 << 10;

/// What the processors of today want of a stack.
const STACK_ALIGNMENT: usize = 16;

/// What a child that could not execute the program adds to the answer.
pub(super) const NOT_EXECUTED: u8 = b'!';

/// Searched when the environment has no `PATH`, as the C library does it.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What the application gets as its standard input, output and error.
#[derive(Clone, Copy)]
pub(crate) struct Streams<'a> {
    pub(crate) input: BorrowedFd<'a>,
    pub(crate) output: BorrowedFd<'a>,
}

/// A child on its way to become the application.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    launch: &'static Launch,
}

impl Launched {
    /// What is run.
    pub(crate) fn specification(&self) -> &'static Specification {
        &self.launch.stored.specification
    }

    /// Why the program was not executed, once the child has ended; a sentence for the user.
    pub(crate) fn failure(&self) -> Option<String> {
        match self.launch.failure.load(Ordering::Acquire) {
            0 => None,
            errno => {
                let error = io::Error::from_raw_os_error(errno);
                Some(describe(&self.launch.stored, &error))
            }
        }
    }
}

fn describe(stored: &StoredSpecification, error: &io::Error) -> String {
    let specification = &stored.specification;
    let program = specification.arguments.first().map_or("", String::as_str);
    let directory = specification.directory.display();
    format!("`{program}` could not be executed in {directory}: {error}")
}

/// Lets a child execute the application; an error is a sentence for the user.
///
/// `answer`, if there is one, must be closed on execution. Should that fail, the child writes
/// [`NOT_EXECUTED`] to it before it ends.
pub(crate) fn launch(
    stored: StoredSpecification,
    streams: Streams<'_>,
    answer: Option<BorrowedFd<'_>>,
) -> Result<Launched, String> {
    let plan = Plan::new(&stored).map_err(|error| describe(&stored, &error))?;
    // A shim launches once, so what the child borrows may as well stay for ever.
    let launch: &'static Launch = Box::leak(Box::new(Launch {
        stored,
        plan,
        input: streams.input.as_raw_fd(),
        output: streams.output.as_raw_fd(),
        answer: answer.map_or(-1, |answer| answer.as_raw_fd()),
        failure: AtomicI32::new(0),
    }));
    let pid = start_child(launch).map_err(|error| describe(&launch.stored, &error))?;
    Ok(Launched { pid, launch })
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

/// What the child borrows.
#[derive(Debug)]
struct Launch {
    stored: StoredSpecification,
    plan: Plan,
    input: RawFd,
    output: RawFd,
    /// -1 for none.
    answer: RawFd,
    /// The error number of a child that could not execute the program.
    failure: AtomicI32,
}

/// Everything that the child needs, ready before it exists: it must not allocate.
#[derive(Debug)]
struct Plan {
    program: CString,
    arguments: Strings,
    environment: Strings,
    directory: CString,
    shim: Pid,
}

/// Texts as the kernel takes them: an array of pointers that ends with a null.
#[derive(Debug)]
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
        let program = if program.contains('/') {
            CString::new(program.as_str())?
        } else {
            let path = specification.environment.get("PATH");
            let path = path.map_or(DEFAULT_PATH, String::as_str);
            search(program, path, &specification.directory)?
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
            program,
            arguments: Strings::new(arguments?),
            environment: Strings::new(environment?),
            directory: CString::new(specification.directory.as_os_str().as_bytes())?,
            shim: rustix::process::getpid(),
        })
    }
}

/// The first place of `path`, seen from `directory`, that holds a `program` which may be executed.
/// As `execvp` does it, one that may not is passed over, and is the reason given when there is no
/// other.
fn search(program: &str, path: &str, directory: &Path) -> io::Result<CString> {
    let mut reason = Errno::NOENT;
    for place in path.split(':') {
        let candidate = directory.join(place).join(program);
        if !candidate.is_file() {
            continue;
        }
        match rustix::fs::access(&candidate, Access::EXEC_OK) {
            Ok(()) => return Ok(CString::new(candidate.as_os_str().as_bytes())?),
            Err(errno) => reason = errno,
        }
    }
    Err(reason.into())
}

fn start_child(launch: &'static Launch) -> io::Result<Pid> {
    let stack = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % STACK_ALIGNMENT);
    // SAFETY: the child runs in this memory beside this process, which has one thread. What it
    // reads is never changed or freed; it writes to its own stack and to one atomic; it makes
    // system calls only, neither allocates nor unwinds, and its descriptors, signals and directory
    // are its own. The C library's errno is shared: the child touches it only when the execution
    // fails, and meanwhile this process makes calls that either do not use it or succeed.
    let pid = unsafe {
        libc::clone(
            child,
            top.cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            ptr::from_ref(launch).cast_mut().cast(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process id")),
    }
}

/// The child: becomes the application, or ends.
extern "C" fn child(launch: *mut c_void) -> c_int {
    // SAFETY: it is the leaked launch that was given to clone, and nobody changes it.
    let launch: &Launch = unsafe { &*launch.cast_const().cast() };
    let errno = match prepare(launch) {
        Ok(()) => execute(&launch.plan),
        Err(errno) => errno,
    };
    launch
        .failure
        .store(errno.raw_os_error(), Ordering::Release);
    if launch.answer >= 0 {
        // SAFETY: the descriptor was open when this process was made, which has its own table.
        let answer = unsafe { BorrowedFd::borrow_raw(launch.answer) };
        // A spawner that is gone does not miss it.
        rustix::io::write(answer, &[NOT_EXECUTED]).ok();
    }
    1
}

fn prepare(launch: &Launch) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(launch.plan.shim) {
        // The shim died before the line above took effect; nobody would ever stop this process.
        return Err(Errno::SRCH);
    }
    // SAFETY: both were open when this process was made, which has its own table.
    let (input, output) = unsafe {
        (
            BorrowedFd::borrow_raw(launch.input),
            BorrowedFd::borrow_raw(launch.output),
        )
    };
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(output)?;
    rustix::process::chdir::<&CStr>(&launch.plan.directory)?;
    // The shim has blocked what it reads as events. Dispositions are the default ones already.
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut nothing = MaybeUninit::uninit();
        libc::sigemptyset(nothing.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, nothing.as_ptr(), ptr::null_mut());
    }
    Ok(())
}

/// Returns only when it failed.
fn execute(plan: &Plan) -> Errno {
    // SAFETY: program, arguments and environment are texts that end with NUL, in arrays that end
    // with null, and stay in the plan. errno is read at once, see `start_child`.
    unsafe {
        libc::execve(
            plan.program.as_ptr(),
            plan.arguments.pointers.as_ptr(),
            plan.environment.pointers.as_ptr(),
        );
        Errno::from_raw_os_error(*libc::__errno_location())
    }
}
