//! The shim: a small process beside each instance that outlives the heart.
//!
//! ```text
//! heart ──Spawner──► shim ─────► application (own session) ──► descendants
//!   ▲                 │  ▲ output pipe ◄──────┘
//!   │                 │  └ sub-reaper of everything below
//!   └─ pidfd, files ──┘ process.json, exit.json, rotated log
//! ```
//! The shim makes the application's process, ahead of its need; moves its output into a rotated
//! log; and writes `exit.json` when the main process has ended and everything it left behind has
//! been killed. The heart may be killed or upgraded meanwhile: it finds the run again by the files
//! in the run directory and adopts the shim by a [`ProcessIdentity`].
//!
//! SIGTERM to the shim ([`request_stop`]) begins the stop: the stop signal goes to the
//! application's process group; after the grace SIGKILL goes to the whole tree, processes that left
//! the session included. A shim that is killed takes the main process with it (the kernel sends it
//! SIGKILL): without its shim an application would run unwatched, and die of its closed output at
//! the next line anyway. [`kill_tree`] then removes what the main process left behind.
//!
//! The shim of an exclusive instance does the same by itself when the instance's [`Lease`] is over.
//!
//! Plain synchronous code, one thread, `poll`: a node runs a thousand of these. The shim never
//! talks to the network and never restarts anything; that is the heart's business.

pub mod log;

mod fork;
mod launch;
mod lease;
mod prepare;
mod process;
mod record;
mod remains;
mod server;
mod spawner;
mod specification;
mod supervise;
mod tree;

use std::io;
use std::process::ExitCode;

use rustix::process::{Signal, pidfd_send_signal};

pub use lease::{BootTime, Lease, LeaseFile};
pub use process::ProcessIdentity;
pub use record::{Ending, ExitRecord, ProcessRecord, Started};
pub use remains::{call_off, kill_tree, kill_tree_of};
pub use spawner::{SpawnError, Spawner};
pub(crate) use specification::create_private;
pub use specification::{LogLimits, Specification};
pub(crate) use tree::VANISH_LIMIT;

/// The body of `pm shim`: the server that a [`Spawner`] asks for shims, over standard input; and,
/// forked from it, each shim.
///
/// Returns when the spawner is gone; in a shim, when nothing of the application is left. Fails when
/// no record could be left, and when standard input is no socket or no shim can be made.
#[must_use]
pub fn main() -> ExitCode {
    match server::serve(rustix::stdio::stdin()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Asks a shim to stop its application; returns at once.
///
/// The shim sends the stop signal, waits for the grace, kills the whole tree, writes `exit.json`
/// and ends: wait for its pidfd. A shim that is gone is success.
///
/// # Errors
/// When the shim may not be signalled.
pub fn request_stop(shim: &ProcessIdentity) -> io::Result<()> {
    let Some(descriptor) = shim.open_pidfd()? else {
        return Ok(());
    };
    match pidfd_send_signal(descriptor, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
