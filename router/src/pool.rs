//! One worker's connections to backends, and which backends it has ejected.
//!
//! Kept by the backend's slot, checked against its number: a slot or an address that belongs to
//! another instance meanwhile never yields the old instance's connections. When a table no longer
//! names a backend, its idle connections are closed.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::exchange::BackendConnection;
use crate::routes::CompiledTable;

/// How long a connection may be idle and still carry a request.
///
/// Applications close idle connections: gunicorn after 2 s, Node and uvicorn after 5 s. A request
/// that meets the close halfway cannot be repeated when it is a `POST`, so the router lets go first.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_millis(1500);
/// Idle connections to one backend from one worker; more than this is a burst that has passed.
const IDLE_MAX: usize = 128;

/// One worker's connections and ejections.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    slots: RefCell<Vec<Option<Slot>>>,
}

#[derive(Debug)]
struct Slot {
    /// The backend that this slot is about.
    number: u64,
    idle: Vec<Idle>,
    is_ejected: bool,
}

#[derive(Debug)]
struct Idle {
    connection: BackendConnection,
    since: Instant,
}

impl Pool {
    /// Takes the connection that was used last and is still good.
    pub(crate) fn take(&self, backend: &Backend, now: Instant) -> Option<BackendConnection> {
        let mut slots = self.slots.borrow_mut();
        let slot = own(&mut slots, backend)?;
        while let Some(mut idle) = slot.idle.pop() {
            if now.saturating_duration_since(idle.since) > IDLE_LIMIT {
                slot.idle.clear();
                return None;
            }
            if idle.connection.is_ready() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection whose response is complete.
    pub(crate) fn put(&self, backend: &Backend, connection: BackendConnection, now: Instant) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = own(&mut slots, backend) else {
            return;
        };
        if slot.idle.len() < IDLE_MAX {
            slot.idle.push(Idle {
                connection,
                since: now,
            });
        }
    }

    /// True when a connection to it was refused and no probe has succeeded since.
    pub(crate) fn is_ejected(&self, backend: &Backend) -> bool {
        self.slots
            .borrow()
            .get(backend.slot)
            .and_then(Option::as_ref)
            .is_some_and(|slot| slot.number == backend.number && slot.is_ejected)
    }

    /// Ejects or re-admits; true when that changed something.
    pub(crate) fn set_ejected(&self, backend: &Backend, is_ejected: bool) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = own(&mut slots, backend) else {
            return false;
        };
        if is_ejected {
            slot.idle.clear();
        }
        std::mem::replace(&mut slot.is_ejected, is_ejected) != is_ejected
    }

    /// Makes room for the backends of `table` and forgets those that it does not name.
    pub(crate) fn follow(&self, table: &CompiledTable) {
        let mut slots = self.slots.borrow_mut();
        let mut before = std::mem::take(&mut *slots);
        for backend in &table.backends {
            if slots.len() <= backend.slot {
                slots.resize_with(backend.slot + 1, || None);
            }
            let kept = before
                .get_mut(backend.slot)
                .and_then(Option::take)
                .filter(|slot| slot.number == backend.number);
            slots[backend.slot] = Some(kept.unwrap_or_else(|| Slot {
                number: backend.number,
                idle: Vec::new(),
                is_ejected: false,
            }));
        }
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        for slot in self.slots.borrow_mut().iter_mut().flatten() {
            slot.idle
                .retain(|idle| now.saturating_duration_since(idle.since) <= IDLE_LIMIT);
        }
    }
}

/// The slot of `backend`, when the worker's table names it.
fn own<'slots>(slots: &'slots mut [Option<Slot>], backend: &Backend) -> Option<&'slots mut Slot> {
    slots
        .get_mut(backend.slot)
        .and_then(Option::as_mut)
        .filter(|slot| slot.number == backend.number)
}
