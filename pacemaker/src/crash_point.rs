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
