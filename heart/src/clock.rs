//! Time that only goes forward: milliseconds since the heart started.
//!
//! Decisions take a [`Moment`]; only the shells ask a [`Clock`] for one.

use common::time::Span;

use crate::shim::BootTime;

/// A point in time, milliseconds after the heart's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus `span`, saturating.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the moment, by the time since the machine's boot: a suspended machine's counts too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: BootTime,
}

impl Clock {
    /// A clock that starts at zero.
    pub(crate) fn start() -> Self {
        Self {
            start: BootTime::now(),
        }
    }

    /// The present moment.
    pub(crate) fn now(self) -> Moment {
        self.moment(BootTime::now())
    }

    /// A point in time as a moment; zero when it lies before the start.
    pub(crate) const fn moment(self, time: BootTime) -> Moment {
        Moment(time.0.saturating_sub(self.start.0))
    }

    /// A moment as a point in time.
    pub(crate) const fn boot_time(self, moment: Moment) -> BootTime {
        BootTime(self.start.0.saturating_add(moment.0))
    }
}
