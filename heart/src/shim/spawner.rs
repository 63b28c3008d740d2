//! Starts shims through a shim server, which it executes when it is first needed.
//!
//! The server is executed by the posix_spawn path: `std::process::Command` takes it as long as no
//! `pre_exec`, uid, gid or groups are asked for, so the cost does not grow with the heart's memory.
//! A start is then one message and its answer.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};

use super::launch::REQUEST_MAX_BYTES;
use super::record::{ANSWER_END, Started};

/// A server that died is replaced and asked again; when that one dies as well, it is no accident.
const ATTEMPTS: usize = 3;

/// An answer takes a millisecond; one that takes this long waits for a disk that does not come back.
const ANSWER_LIMIT: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// An answer is one piece as a rule; a long message of a failure may take two.
const ANSWER_PIECE_BYTES: usize = 4096;

/// Starts one shim per run of an instance.
#[derive(Debug)]
pub struct Spawner {
    shim_program: PathBuf,
    arguments: Vec<OsString>,
    server: Mutex<Option<Server>>,
}

#[derive(Debug)]
struct Server {
    control: Arc<OwnedFd>,
    process: Child,
}

/// A shim could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The shim server could not be executed.
    #[error("could not execute the shim {}", program.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The shim server could not be talked to; call [`super::call_off`], because it may have been asked.
    #[error("could not ask for a shim")]
    Ask(#[source] io::Error),
    /// The shim ended before it could leave a record; nothing runs.
    #[error("the shim ended before it had started the application")]
    ShimDied,
    /// The shim does not answer; it may yet start the application, so call [`super::call_off`].
    #[error("the shim has not answered within {} seconds", ANSWER_LIMIT.tv_sec)]
    NoAnswer,
}

impl Spawner {
    /// A spawner that executes `shim_program` with `arguments`, which lead to [`super::main`].
    #[must_use]
    pub fn new(shim_program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self {
            shim_program,
            arguments,
            server: Mutex::new(None),
        }
    }

    /// Starts a shim on `run_directory`, which is absolute and holds a written specification.
    ///
    /// Blocks (less than a millisecond) until the application has been executed or that has failed.
    /// May be called from several threads at once.
    ///
    /// # Errors
    /// When the shim itself could not do its work.
    pub fn spawn(&self, run_directory: &Path) -> Result<Started, SpawnError> {
        if run_directory.as_os_str().len() >= REQUEST_MAX_BYTES {
            return Err(SpawnError::Ask(io::ErrorKind::InvalidFilename.into()));
        }
        for _ in 0..ATTEMPTS {
            let control = self.control()?;
            // A shim that died without an answer took its application with it, if it had one.
            if let Some(answer) = ask(&control, run_directory)? {
                return serde_json::from_slice(&answer).map_err(|_| SpawnError::ShimDied);
            }
            self.discard(&control);
        }
        Err(SpawnError::ShimDied)
    }

    /// The socket to the server, which is executed if there is none.
    fn control(&self) -> Result<Arc<OwnedFd>, SpawnError> {
        let mut server = self.lock();
        if let Some(server) = &*server {
            return Ok(Arc::clone(&server.control));
        }
        let started = self
            .execute_server()
            .map_err(|source| SpawnError::Execute {
                program: self.shim_program.clone(),
                source,
            })?;
        let control = Arc::clone(&started.control);
        *server = Some(started);
        Ok(control)
    }

    fn execute_server(&self) -> io::Result<Server> {
        let (control, server_end) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let process = Command::new(&self.shim_program)
            .args(&self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(server_end)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Server {
            control: Arc::new(control),
            process,
        })
    }

    /// Gives up the server behind `control`, unless that has been done already.
    fn discard(&self, control: &Arc<OwnedFd>) {
        let mut server = self.lock();
        if server
            .as_ref()
            .is_some_and(|server| Arc::ptr_eq(&server.control, control))
        {
            *server = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Server>> {
        // The lock guards one assignment; a panic elsewhere leaves it whole.
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    /// Ends and reaps the server. Shims are not concerned, but for those that wait.
    fn drop(&mut self) {
        // Fails only when the server has ended, and then the wait returns at once.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Sends the request and takes the answer; `None` when there will be none.
fn ask(control: &OwnedFd, run_directory: &Path) -> Result<Option<Vec<u8>>, SpawnError> {
    let (answer, answer_sender) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|errno| SpawnError::Ask(errno.into()))?;
    let descriptors = [answer_sender.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = loop {
        let result = sendmsg(
            control,
            &[IoSlice::new(run_directory.as_os_str().as_bytes())],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        if !matches!(result, Err(rustix::io::Errno::INTR)) {
            break result;
        }
    };
    match sent {
        Ok(_) => {}
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(errno) => return Err(SpawnError::Ask(errno.into())),
    }
    // Only shim and blank hold it now, so their death is the end of the file here.
    drop(answer_sender);
    wait_readable(&answer)?;
    read_answer(&mut File::from(answer)).map_err(SpawnError::Ask)
}

fn read_answer(answer: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut words = vec![0; ANSWER_PIECE_BYTES];
    let mut length = 0;
    loop {
        length += match answer.read(&mut words[length..]) {
            Ok(0) => return Ok(None),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        if words[..length].last() == Some(&ANSWER_END) {
            words.truncate(length - 1);
            return Ok(Some(words));
        }
        words.resize(length + ANSWER_PIECE_BYTES, 0);
    }
}

fn wait_readable(descriptor: impl std::os::fd::AsFd) -> Result<(), SpawnError> {
    loop {
        let mut events = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut events, Some(&ANSWER_LIMIT)) {
            Ok(0) => return Err(SpawnError::NoAnswer),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SpawnError::Ask(errno.into())),
        }
    }
}
