//! What a shim does before it knows what to run, so that a start has less to do.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::pipe::{PipeFlags, pipe_with};

use super::fork;
use super::process::ProcessIdentity;

/// The application is as likely a victim as any process.
const APPLICATION_OUT_OF_MEMORY_SCORE: &str = "0";

/// A shim that is ready to run something.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) signals: SignalFd,
    pub(super) identity: ProcessIdentity,
    /// The pipe for the application's output, and its inode.
    pub(super) output: OwnedFd,
    pub(super) output_inode: u64,
    /// What the application reads, and where the shim's own streams lead once it has been executed.
    pub(super) nothing: File,
}

impl Prepared {
    /// Makes the calling process a shim: own session, sub-reaper, signals as readable events, and the
    /// application's streams as its own.
    ///
    /// # Errors
    /// What the system answered.
    pub(crate) fn new() -> io::Result<Self> {
        fork::reap_oneself();
        let events = SigSet::from_iter([
            nix::sys::signal::SIGTERM,
            nix::sys::signal::SIGINT,
            nix::sys::signal::SIGHUP,
            nix::sys::signal::SIGCHLD,
        ]);
        events.thread_block()?;
        // Not ignored, because the application would inherit that: an answer to a spawner that
        // has been killed is an error of the write.
        SigSet::from(nix::sys::signal::SIGPIPE).thread_block()?;
        // Fails only for a process that leads a group already, and then its spawner has seen to it.
        rustix::process::setsid().ok();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::thread::set_name(c"pm-shim")?;
        let (output, application_output) = pipe_with(PipeFlags::CLOEXEC)?;
        let nothing = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&application_output)?;
        rustix::stdio::dup2_stderr(&application_output)?;
        Ok(Self {
            signals: SignalFd::with_flags(&events, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?,
            identity: ProcessIdentity::current()?,
            output_inode: rustix::fs::fstat(&output)?.st_ino,
            output,
            nothing,
        })
    }

    /// Lets go of the application's output, which ends when the application's processes have.
    pub(super) fn let_go_of_output(&self) -> io::Result<()> {
        rustix::stdio::dup2_stdout(&self.nothing)?;
        Ok(rustix::stdio::dup2_stderr(&self.nothing)?)
    }
}

/// Sets on the calling process what applications inherit through it: no leaked descriptors, no new
/// privileges, and an ordinary place in the order of the out-of-memory killer.
///
/// # Errors
/// What the system answered.
pub(crate) fn inherit_to_application() -> io::Result<()> {
    fork::close_leaked_descriptors();
    rustix::thread::set_no_new_privs(true)?;
    // A container may forbid to write it; then all processes keep what they were given.
    fs::write("/proc/self/oom_score_adj", APPLICATION_OUT_OF_MEMORY_SCORE).ok();
    Ok(())
}
