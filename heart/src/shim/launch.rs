//! The application's process: made before it is needed, executed when it is known what to run.
//!
//! A *blank* is a process with everything that an application inherits and nothing to run: its own
//! session, default signals, the shim's pipe for its output, its life tied to the shim's. It waits
//! for a request, reads the specification and executes the program, so that no fork is on the way
//! of a start. (Android's zygote keeps such processes for the same reason.)
//!
//! Until then it borrows the shim's memory, as the child of a `posix_spawn` does: a copy would have
//! to be made, touched page by page, and torn down by the execution. The shim sleeps meanwhile; not
//! as the parent of a `vfork` does, which counts as load, but on the word that the kernel clears
//! when a process lets go of its memory.
//!
//! ```text
//! shim   ──make──┐ sleeps ......................................... ┌ tells the spawner ──►
//! blank          └ waits ── request ── specification ── execute ────┘ application ──►
//! ```
//! Its start, as the kernel tells it, is that of the blank; one that has waited too long is
//! therefore replaced.
#![expect(
    unsafe_code,
    reason = "a process that shares memory with its parent can only be made by hand"
)]

use std::ffi::{CString, OsStr, c_int, c_void};
use std::fs::File;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::futex;

use super::fork::{self, Urgency};
use super::lease::{Lease, Watched};
use super::prepare::Prepared;
use super::process::ProcessIdentity;
use super::record::{ProcessRecord, Started};
use super::specification::{RUN_VARIABLE, Specification, StoredSpecification};

/// A request is a path, and the kernel's PATH_MAX is this.
pub(super) const REQUEST_MAX_BYTES: usize = 4096;

/// Enough to read a specification in a debug build; what is not touched costs nothing.
const STACK_BYTES: usize = 256 << 10;

/// How long the shim's work waits for the answer to be taken: some switches of tasks.
const ANSWER_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// The exit code of a blank that has executed nothing; nobody looks at it.
const FAILURE: c_int = 1;

/// Searched when the environment has no `PATH`, as the C library does it.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How the wait for a request has ended.
pub(crate) enum Request {
    /// The blank has taken one.
    Taken(Taken),
    /// The blank has waited too long; another takes its place.
    Stale,
    /// There will be none.
    Ended,
}

/// A request that has been taken.
pub(crate) struct Taken {
    /// Where the specification is.
    pub(super) run_directory: PathBuf,
    /// Where the spawner waits for the answer.
    pub(super) answer: File,
    /// What has become of it.
    pub(super) launched: Launched,
}

/// What has become of a request.
pub(crate) enum Launched {
    /// The application has been executed, and the spawner knows.
    Running(Box<Running>),
    /// Nothing runs, because nobody waits for it any more.
    GivenUp,
    /// Nothing runs, and why: a sentence for the user.
    Failed(String),
}

/// An application that has been executed.
pub(crate) struct Running {
    /// What it runs.
    pub(super) stored: StoredSpecification,
    /// Its lease, when it must hold one.
    pub(super) lease: Option<Watched>,
    /// The processes.
    pub(super) record: ProcessRecord,
    /// The answer that says so.
    answer: Vec<u8>,
    /// What was executed; here because who executes does not come back to free it.
    plan: Plan,
}

/// Memory with the alignment of a stack.
#[repr(align(4096))]
#[derive(Clone, Copy)]
struct Page {
    _bytes: [u8; 4096],
}

/// What the shim gives to its blank, and gets back.
struct Shared<'a> {
    prepared: &'a Prepared,
    requests: BorrowedFd<'a>,
    request: Request,
    /// False while `request` is written: a blank that is killed then leaves something torn.
    is_whole: AtomicBool,
}

/// Makes a blank and waits for what becomes of it. The caller has one thread, and its standard
/// streams are those of the application.
///
/// # Errors
/// When it could not be made.
pub(crate) fn wait(prepared: &Prepared, requests: BorrowedFd<'_>) -> io::Result<Request> {
    let mut stack = Stack::new()?;
    let mut shared = Shared {
        prepared,
        requests,
        request: Request::Ended,
        is_whole: AtomicBool::new(true),
    };
    let shared = &raw mut shared;
    // The blank's process id while it borrows the memory; cleared and woken by the kernel.
    let borrower = AtomicU32::new(0);
    // SAFETY: the child runs on its own stack and is the only one of the two that runs: from here on
    // this process, which has one thread, looks at the word, which is atomic, and makes the system
    // call that waits, until the kernel has cleared the word, and that is when the child has executed
    // the program or ended. So what the child uses outlives its use, and nothing else is touched by
    // two at once: not what is passed here, nor the allocator or what else belongs to the thread.
    // Descriptors are shared until then too; signals and directory are the child's own.
    let child = unsafe {
        libc::clone(
            enter,
            stack.top(),
            libc::CLONE_VM
                | libc::CLONE_FILES
                | libc::CLONE_PARENT_SETTID
                | libc::CLONE_CHILD_CLEARTID
                | libc::SIGCHLD,
            shared.cast(),
            borrower.as_ptr(),
            ptr::null_mut::<c_void>(),
            borrower.as_ptr(),
        )
    };
    if child == -1 {
        return Err(io::Error::last_os_error());
    }
    loop {
        match borrower.load(Ordering::Acquire) {
            0 => break,
            // Interrupted or woken: looked at again.
            value => {
                futex::wait(&borrower, futex::Flags::empty(), value, None).ok();
            }
        }
    }
    // SAFETY: the child has let go of the memory. Killed in the middle of writing what became of the
    // request, it has left something that is not even to be dropped, and is written over.
    let shared = unsafe {
        if !(*shared).is_whole.load(Ordering::Acquire) {
            (&raw mut (*shared).request).write(Request::Ended);
        }
        &mut *shared
    };
    let request = std::mem::replace(&mut shared.request, Request::Ended);
    if let Request::Taken(taken) = &request
        && let Launched::Running(running) = &taken.launched
    {
        tell(&taken.answer, &running.answer);
    } else {
        // It ends, and was never the application.
        rustix::process::waitpid(Pid::from_raw(child), WaitOptions::empty())?;
    }
    Ok(request)
}

/// The stack of a blank, above a page that ends who runs over it.
struct Stack(Vec<MaybeUninit<Page>>);

impl Stack {
    fn new() -> io::Result<Self> {
        let pages = STACK_BYTES / size_of::<Page>();
        let mut stack = Self(vec![MaybeUninit::uninit(); pages]);
        stack.protect(libc::PROT_NONE)?;
        Ok(stack)
    }

    fn top(&mut self) -> *mut c_void {
        self.0.as_mut_ptr_range().end.cast()
    }

    fn protect(&mut self, protection: c_int) -> io::Result<()> {
        // SAFETY: the lowest page of our own memory, which nobody reads or writes meanwhile.
        match unsafe { libc::mprotect(self.0.as_mut_ptr().cast(), size_of::<Page>(), protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.protect(libc::PROT_READ | libc::PROT_WRITE).is_err() {
            // Memory that may not be touched must not be given back.
            std::mem::forget(std::mem::take(&mut self.0));
        }
    }
}

/// Gives the answer before all else, because someone waits, and then the processor to him: what
/// comes next, even giving back the memory of a stack, can wait until the answer has been taken. A
/// spawner that has been killed meanwhile does not hear it, and the application runs all the same.
fn tell(mut answer: &File, words: &[u8]) {
    if answer.write_all(words).is_ok() {
        // The other end is closed by a spawner that has read the answer.
        let mut events = [PollFd::new(answer, PollFlags::empty())];
        poll(&mut events, Some(&ANSWER_PAUSE)).ok();
    }
}

/// The first function of a blank.
extern "C" fn enter(shared: *mut c_void) -> c_int {
    // SAFETY: that is what was passed, and nobody else uses it while this process does.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    // What fails here leaves no request, and the shim learns it that way.
    if let Ok(blank) = Blank::new(shared.prepared) {
        blank.serve(shared).ok();
    }
    // SAFETY: ends this process alone, without what the shim has registered for its own end.
    unsafe { libc::_exit(FAILURE) }
}

/// The calling process, once it is what an application expects to be.
struct Blank {
    record: ProcessRecord,
    /// What the spawner is told when the application has been executed.
    answer: Vec<u8>,
}

impl Blank {
    fn new(prepared: &Prepared) -> io::Result<Self> {
        // Until it waits, this is work ahead of its need.
        fork::set_urgency(Urgency::Patient);
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let parent = rustix::process::getppid();
        let parent = parent.map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if parent != Some(prepared.identity.pid) {
            // The shim died before the line above took effect; nobody would ever stop this process.
            return Err(io::ErrorKind::NotFound.into());
        }
        // The shim has blocked what it reads as events. Dispositions are the default ones already.
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        let record = ProcessRecord {
            shim: prepared.identity.clone(),
            application: ProcessIdentity::current()?,
            output_pipe: prepared.output_inode,
        };
        let answer = Started::Running(record.clone()).line();
        rehearse();
        fork::set_urgency(Urgency::Prompt);
        rustix::thread::set_name(c"pm-blank")?;
        Ok(Self { record, answer })
    }

    /// Waits for a request and serves it; returns only when nothing has been executed.
    fn serve(self, shared: &mut Shared<'_>) -> io::Result<()> {
        let (run_directory, answer) = match receive(shared.requests) {
            // The server has limited the wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                shared.put(Request::Stale);
                return Ok(());
            }
            received => match received? {
                Some(request) => request,
                None => return Ok(()),
            },
        };
        let stored = StoredSpecification::read(&run_directory)
            .map_err(|error| format!("the specification could not be read: {error}"));
        // Looked at after the specification has been read: who still waits means this one.
        let is_given_up = is_given_up(&answer);
        let taken = Taken {
            run_directory,
            answer,
            launched: Launched::GivenUp,
        };
        if is_given_up {
            shared.put(Request::Taken(taken));
            return Ok(());
        }
        match stored.and_then(|stored| self.prepare(stored)) {
            Ok(running) => execute(shared, taken, running),
            Err(message) => shared.put(Request::Taken(Taken {
                launched: Launched::Failed(message),
                ..taken
            })),
        }
        Ok(())
    }

    /// Does all that comes before the execution; a failure is a sentence for the user.
    fn prepare(self, stored: StoredSpecification) -> Result<Running, String> {
        let specification = &stored.specification;
        let lease = specification.lease.as_ref().map(hold).transpose()?;
        let plan = Plan::new(&stored).map_err(|error| describe(specification, &error))?;
        std::env::set_current_dir(&specification.directory)
            .map_err(|error| describe(specification, &error))?;
        Ok(Running {
            stored,
            lease,
            record: self.record,
            answer: self.answer,
            plan,
        })
    }
}

impl Shared<'_> {
    /// Says what has become of the request, all of it or nothing.
    fn put(&mut self, request: Request) {
        self.is_whole.store(false, Ordering::SeqCst);
        self.request = request;
        self.is_whole.store(true, Ordering::SeqCst);
    }
}

/// Executes the program; returns only when that has failed, which it says.
fn execute(shared: &mut Shared<'_>, taken: Taken, running: Running) {
    // Said beforehand, because afterwards this process is another.
    shared.put(Request::Taken(Taken {
        launched: Launched::Running(Box::new(running)),
        ..taken
    }));
    fork::set_urgency(Urgency::Ordinary);
    if let Request::Taken(taken) = &mut shared.request
        && let Launched::Running(running) = &taken.launched
    {
        let error = running.plan.execute().into();
        let message = describe(&running.stored.specification, &error);
        shared.is_whole.store(false, Ordering::SeqCst);
        taken.launched = Launched::Failed(message);
        shared.is_whole.store(true, Ordering::SeqCst);
    }
}

fn describe(specification: &Specification, error: &io::Error) -> String {
    let program = specification.arguments.first().map_or("", String::as_str);
    let directory = specification.directory.display();
    format!("`{program}` could not be executed in {directory}: {error}")
}

/// The next request: a run directory and where to answer; `None` when there will be none.
fn receive(requests: BorrowedFd<'_>) -> io::Result<Option<(PathBuf, File)>> {
    let mut path = [0_u8; REQUEST_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut buffer = [IoSliceMut::new(&mut path)];
        recvmsg(
            requests,
            &mut buffer,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let answer = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(answer.filter(|_| received.bytes > 0).map(|answer| {
        let path = Path::new(OsStr::from_bytes(&path[..received.bytes]));
        (path.to_owned(), File::from(answer))
    }))
}

/// True when nobody waits for the answer any more.
fn is_given_up(answer: &File) -> bool {
    let mut events = [PollFd::new(answer, PollFlags::empty())];
    poll(&mut events, Some(&Timespec::default())).is_ok()
        && events[0].revents().contains(PollFlags::ERR)
}

/// The lease of an exclusive instance, which nothing is started without.
fn hold(lease: &Lease) -> Result<Watched, String> {
    let unknown = |error| format!("whether the instance may run here cannot be read: {error}");
    Watched::begin(lease).map_err(unknown)?.ok_or_else(|| {
        "no pacemaker has been heard for too long: an exclusive instance may run elsewhere"
            .to_owned()
    })
}

/// Goes through the work before an execution once, so that the one that counts finds the pages of
/// heap, stack and code that it needs in place; a fork leaves them to be fetched at first use.
fn rehearse() {
    let rehearsed = serde_json::to_vec(&StoredSpecification::sample())
        .and_then(|text| serde_json::from_slice::<StoredSpecification>(&text))
        .map_err(io::Error::from)
        .and_then(|stored| Plan::new(&stored));
    drop(std::hint::black_box(rehearsed));
}

/// The program and what it gets, as the kernel takes them.
struct Plan {
    /// The program's possible paths, in the order in which they are tried.
    programs: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
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
            arguments: arguments?,
            environment: environment?,
        })
    }

    /// Tries the program's paths in turn; returns only when all have failed. As `execvp` does it, a
    /// file that may not be executed is passed over, and is the reason given when there is no other.
    fn execute(&self) -> Errno {
        let mut reason = Errno::ENOENT;
        for program in &self.programs {
            let Err(errno) = nix::unistd::execve(program, &self.arguments, &self.environment);
            match errno {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => reason = Errno::EACCES,
                errno => return errno,
            }
        }
        reason
    }
}
