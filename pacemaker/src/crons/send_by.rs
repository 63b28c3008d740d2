//! Until when the request of a recorded attempt may leave.

use std::time::Duration;

use common::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::wall_clock::WallClock;

/// Nothing is sent later after its proposal began: a process that was stopped in between may have
/// been replaced, and its clock tells it so.
const SEND_WITHIN: Duration = Duration::from_secs(2);
/// How far the wall clock may be set forward meanwhile before nothing is sent for that alone: a
/// virtual machine that was paused has no other clock that goes on.
const SET_FORWARD_MAX: Duration = Duration::from_secs(3);

/// The end of the time to send; copies are the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendBy {
    wall: WallClock,
    /// The wall clock when it was decided.
    decided: Timestamp,
    /// By the clock that goes on while the machine is suspended, which that of timers does not.
    began: Duration,
}

impl SendBy {
    /// Begins now; `decided` is the time that the decision says.
    pub(super) fn begin(wall: WallClock, decided: Timestamp) -> Self {
        Self {
            wall,
            decided,
            began: since_boot(),
        }
    }

    /// What is left of the time.
    pub(super) fn left(&self) -> Duration {
        let passed = since_boot().saturating_sub(self.began);
        let by_wall = self.wall.real(self.wall.now().since(self.decided));
        left(passed, by_wall)
    }

    /// True when nothing may be sent any more.
    pub(super) fn is_past(&self) -> bool {
        self.left().is_zero()
    }
}

fn left(passed: Duration, by_wall: Duration) -> Duration {
    if by_wall > SEND_WITHIN + SET_FORWARD_MAX {
        return Duration::ZERO;
    }
    SEND_WITHIN.saturating_sub(passed)
}

/// Time since the machine's boot, suspended time included.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use common::time::Span;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_to_send_ends_by_either_clock() {
        assert_eq!(left(Duration::ZERO, Duration::ZERO), SEND_WITHIN);
        assert_eq!(left(SECOND, SECOND), SECOND);
        assert_eq!(left(SEND_WITHIN, Duration::ZERO), Duration::ZERO);
        assert_eq!(left(60 * SECOND, SECOND), Duration::ZERO);
        // A clock that is set right by some seconds ends nothing, a machine that slept does.
        assert_eq!(left(SECOND, 4 * SECOND), SECOND);
        assert_eq!(left(SECOND, 6 * SECOND), Duration::ZERO);
    }

    #[test]
    fn decision_of_before_a_pause_is_not_sent() {
        let wall = WallClock::system();
        let now = wall.now();

        assert!(!SendBy::begin(wall, now).is_past());
        let paused = Timestamp(now.0 - Span::seconds(3_600).0);
        assert!(SendBy::begin(wall, paused).is_past());
        let asleep = SendBy {
            began: since_boot().saturating_sub(3_600 * SECOND),
            ..SendBy::begin(wall, now)
        };
        assert!(asleep.is_past());
    }
}
