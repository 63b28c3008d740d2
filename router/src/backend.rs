//! One instance at one address, and how many requests it carries.
//!
//! A [`Backend`] is shared by all workers and outlives the tables that name it as long as a request
//! to it is in flight. The pair of instance and address is its identity: an address that another
//! instance gets later is another backend, with connections and counts of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::id::{InstanceId, VersionNumber};
use tokio::sync::Notify;

use crate::routes::CompiledRoute;

/// One instance at one address.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Never given to another backend of this process.
    pub(crate) number: u64,
    /// Where workers keep what they know of it; reused when the backend has gone.
    pub(crate) slot: usize,
    pub(crate) instance: InstanceId,
    pub(crate) version: VersionNumber,
    pub(crate) address: SocketAddr,
    in_flight: AtomicU64,
    is_leaving: AtomicBool,
    /// Woken when a leaving backend has carried its last request.
    report: Arc<Notify>,
}

impl Backend {
    pub(crate) fn new(
        number: u64,
        slot: usize,
        source: &common::routing_table::Backend,
        report: Arc<Notify>,
    ) -> Self {
        Self {
            number,
            slot,
            instance: source.instance,
            version: source.version,
            address: source.address,
            in_flight: AtomicU64::new(0),
            is_leaving: AtomicBool::new(false),
            report,
        }
    }

    /// Requests between selection and the end of their response, over all workers.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Says whether the newest table still names it.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::SeqCst);
    }

    /// True when the newest table does not name it any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    fn end_one(&self) {
        // Both sides are sequentially consistent: either this sees that the backend leaves, or
        // the reporter, woken by the table that dropped it, sees the count without this request.
        let was = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if was == 1 && self.is_leaving.load(Ordering::SeqCst) {
            self.report.notify_one();
        }
    }
}

/// A request in flight to a chosen backend: counted while this lives.
#[derive(Debug)]
pub(crate) struct InFlight {
    route: Arc<CompiledRoute>,
    index: usize,
}

impl InFlight {
    /// Counts a request to the backend at `index` of `route`.
    ///
    /// The caller has taken `route` from its worker's table since it last awaited anything:
    /// that is what makes the worker's acknowledgement of a newer table final.
    pub(crate) fn begin(route: Arc<CompiledRoute>, index: usize) -> Self {
        route.backends[index]
            .in_flight
            .fetch_add(1, Ordering::SeqCst);
        Self { route, index }
    }

    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.route.backends[self.index]
    }

    pub(crate) fn route(&self) -> &Arc<CompiledRoute> {
        &self.route
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.backend().end_one();
    }
}
