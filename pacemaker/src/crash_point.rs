//! Places where a pacemaker under test kills itself, as if by `kill -9` at the worst moment.
//!
//! Nothing but [`Config::crash_at`](crate::Config::crash_at) arms one, and only tests set that.

/// A step before or after which the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// A slot is due, and nothing of it is in the log.
    BeforeCronRecord,
    /// An attempt is recorded and the connection stands; nothing is sent.
    BeforeCronRequest,
    /// The answer is there; nothing is reported.
    AfterCronAnswer,
}

/// Knows which crash point is armed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Crash(pub(crate) Option<CrashPoint>);

impl Crash {
    /// Kills this process when `point` is the armed one.
    pub(crate) fn at(self, point: CrashPoint) {
        if self.0 == Some(point) {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .expect("a process may always kill itself");
        }
    }
}
