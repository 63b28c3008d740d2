//! The replicated state as it is applied here, and the wake-ups for those who wait for a change.
//!
//! Owns the one [`State`]. The state machine writes it, everyone else reads it in short
//! closures; nobody holds the lock across an await.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use common::id::Generation;
use common::time::Timestamp;
use pacemaker_core::State;
use pacemaker_core::command::{ApplyContext, Command, Outcome, Rejection};
use tokio::sync::watch;

use crate::clock::Clock;

/// The state with its wake-ups.
#[derive(Debug)]
pub(crate) struct Replica {
    held: RwLock<Held>,
    applied: watch::Sender<Generation>,
    clock: Mutex<Clock>,
    changed: watch::Sender<Generation>,
    /// The core has no defect to test with.
    #[cfg(test)]
    pub(crate) panics: std::sync::atomic::AtomicBool,
}

/// What a snapshot keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// The state.
    pub(crate) state: State,
    /// The newest time that was applied; time never goes backwards for the core.
    pub(crate) now: Timestamp,
}

/// The core panicked while it applied a command; what the state holds is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("applying log entry {0} panicked; the process must end")]
pub(crate) struct ApplyPanicked(pub(crate) Generation);

impl Default for Replica {
    fn default() -> Self {
        Self {
            held: RwLock::default(),
            applied: watch::Sender::new(Generation(0)),
            clock: Mutex::default(),
            changed: watch::Sender::new(Generation(0)),
            #[cfg(test)]
            panics: std::sync::atomic::AtomicBool::new(false),
        }
    }
}

impl Replica {
    /// Looks at the state; `look` must be short, because `apply` waits for it.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.reading().state)
    }

    /// A copy for a snapshot.
    pub(crate) fn copy(&self) -> Held {
        self.reading().clone()
    }

    /// The newest time that was applied.
    #[cfg(test)]
    pub(crate) fn newest_time(&self) -> Timestamp {
        self.reading().now
    }

    /// Wakes whenever a command has changed the state.
    pub(crate) fn changes(&self) -> watch::Receiver<Generation> {
        self.changed.subscribe()
    }

    /// The index of the last entry applied here.
    pub(crate) fn applied(&self) -> Generation {
        *self.applied.borrow()
    }

    /// Resolves when the entry with this index has been applied here.
    pub(crate) async fn applied_up_to(&self, index: Generation) {
        let mut applied = self.applied.subscribe();
        // The sender is a part of this replica, so that the channel cannot be closed meanwhile.
        if applied.wait_for(|applied| *applied >= index).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The wall clock, but never before a time that has been applied, and never standing still.
    pub(crate) fn now(&self) -> Timestamp {
        let floor = self.reading().now;
        let mut clock = self.clock.lock().expect("reading the clock cannot panic");
        clock.read(Instant::now(), wall_clock(), floor)
    }

    /// Applies one command; waiters are woken by [`Replica::advance`].
    pub(crate) fn apply(
        &self,
        command: &Command,
        now: Timestamp,
        index: Generation,
    ) -> Result<Result<Outcome, Rejection>, ApplyPanicked> {
        let mut held = self.writing();
        let now = held.now.max(now);
        held.now = now;
        let state = &mut held.state;
        let ctx = ApplyContext { now, index };
        let apply = || {
            #[cfg(test)]
            assert!(
                !self.panics.load(std::sync::atomic::Ordering::Relaxed),
                "a defect"
            );
            state.apply(command, &ctx)
        };
        catch_unwind(AssertUnwindSafe(apply)).map_err(|_| ApplyPanicked(index))
    }

    /// Notes how far the log has been applied and wakes waiters when something changed.
    pub(crate) fn advance(&self, index: Generation, has_changed: bool) {
        self.applied.send_if_modified(|applied| {
            let is_further = *applied < index;
            *applied = index.max(*applied);
            is_further
        });
        if has_changed {
            self.changed.send_replace(index);
        }
    }

    /// Puts a snapshot's content in place of the state.
    pub(crate) fn replace(&self, held: Held, index: Generation) {
        *self.writing() = held;
        self.advance(index, true);
    }

    fn reading(&self) -> RwLockReadGuard<'_, Held> {
        self.held
            .read()
            .expect("a panic in the core is caught before it reaches the lock")
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Held> {
        self.held
            .write()
            .expect("a panic in the core is caught before it reaches the lock")
    }
}

/// True when an accepted command can have changed the state.
pub(crate) fn has_changed(outcome: &Result<Outcome, Rejection>, actions: usize) -> bool {
    match outcome {
        Ok(Outcome::Acted { rejected }) => rejected.len() < actions,
        Ok(
            Outcome::Done
            | Outcome::Workspace(_)
            | Outcome::Node(_)
            | Outcome::Job { .. }
            | Outcome::CronsDecided { .. }
            | Outcome::CronRun(_)
            | Outcome::CronRunsReported { .. },
        ) => true,
        Err(_) => false,
    }
}

fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
