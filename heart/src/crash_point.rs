//! Places where a heart under test kills itself, as if by `kill -9` at the worst moment.
//!
//! Nothing but [`Config::crash_at`](crate::Config::crash_at) arms one, and only tests set that.

/// A step after (or before) which the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// The assignment is on disk, nothing has been done about it.
    AfterAssignment,
    /// Some bytes of a package have arrived.
    DuringFetch,
    /// All bytes of a package have arrived, unverified.
    AfterFetch,
    /// The digest has been verified, nothing is unpacked.
    AfterVerify,
    /// The package is unpacked under a temporary name.
    AfterUnpack,
    /// The unpacked package has its final name.
    AfterRename,
    /// The instance's copy is made under a temporary name.
    AfterCopy,
    /// The instance's copy has its final name; the journal does not say so.
    AfterLayOut,
    /// The startup commands are done.
    AfterStartup,
    /// The port and the run are in the journal, no process exists.
    BeforeSpawn,
    /// The shim has been started; nobody knows.
    AfterSpawn,
    /// The application runs; no report has said so.
    BeforeReport,
    /// The stop signal has been sent.
    AfterStop,
    /// A removed instance's directory is gone; the journal does not say so.
    AfterRemove,
}

/// Every crash point in the order of an instance's life.
pub const ALL: [CrashPoint; 14] = [
    CrashPoint::AfterAssignment,
    CrashPoint::DuringFetch,
    CrashPoint::AfterFetch,
    CrashPoint::AfterVerify,
    CrashPoint::AfterUnpack,
    CrashPoint::AfterRename,
    CrashPoint::AfterCopy,
    CrashPoint::AfterLayOut,
    CrashPoint::AfterStartup,
    CrashPoint::BeforeSpawn,
    CrashPoint::AfterSpawn,
    CrashPoint::BeforeReport,
    CrashPoint::AfterStop,
    CrashPoint::AfterRemove,
];

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
