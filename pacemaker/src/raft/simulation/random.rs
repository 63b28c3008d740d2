//! The chance of the simulation's own: what the network, the disks and the faults do.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// `SplitMix64`: small, and the same on every machine.
#[derive(Debug)]
pub(crate) struct Random(Mutex<u64>);

impl Random {
    /// The same seed gives the same sequence.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Any number.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.state();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of a range that is not empty.
    pub(crate) fn within(&self, range: Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start)
    }

    /// A time of a range of milliseconds.
    pub(crate) fn milliseconds(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// True `percent` times of a hundred.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// One of `items`, which are not none.
    pub(crate) fn pick<T: Copy>(&self, items: &[T]) -> T {
        items[usize::try_from(self.within(0..items.len() as u64)).expect("it is an index")]
    }

    fn state(&self) -> MutexGuard<'_, u64> {
        self.0.lock().expect("one thread runs the simulation")
    }
}
