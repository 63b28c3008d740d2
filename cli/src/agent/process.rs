//! The process around the roles: its panics, its limits, the signals that end it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CommandError;

/// What ended the foreground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Ctrl-C: `pm dev` stops the applications too.
    Interrupt,
    /// SIGTERM or SIGHUP: the applications go on.
    Terminate,
}

/// The signals that end the foreground.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, CommandError> {
        let listen =
            |kind| signal(kind).map_err(|error| CommandError::file("listen for signals", &error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupt,
            _ = self.terminate.recv() => Ending::Terminate,
            _ = self.hangup.recv() => Ending::Terminate,
        }
    }
}

/// Makes every panic end the process with exit code 101, whatever task it was in.
///
/// A process must not linger with a dead core; whoever supervises it starts it again.
pub(crate) fn die_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!(panic = %panic, "a task panicked; the process ends");
        end_process(101);
    }));
}

/// Raises the limit on open files as far as this process may.
///
/// The usual soft limit of 1024 is for programs that use `select`; a router has two files for each
/// request. Shims and applications inherit the raised limit.
pub(crate) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// Ends the process at once.
#[expect(
    clippy::exit,
    reason = "the whole purpose: tasks that hang must not keep a failed process alive"
)]
pub(crate) fn end_process(code: i32) -> ! {
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        raise_file_limit();

        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
