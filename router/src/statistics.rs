//! Counters that a request adds to without a lock, and without sharing a cache line.
//!
//! Each worker has its own copy of every counter and is the only one that writes it, so adding is
//! a plain load and store; [`metrics`](crate::metrics) adds the copies up when it is asked.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::id::{ApplicationId, InstanceTypeName};
use common::routing_table::Route;
use http::StatusCode;

/// Upper bounds of the duration histogram, microseconds; one more bucket is above the last.
pub(crate) const BUCKETS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the worker that owns the counter may call this.
    pub(crate) fn add(&self, amount: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one instance type is called in metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteLabels {
    pub(crate) workspace: String,
    pub(crate) application_name: String,
    pub(crate) application: ApplicationId,
    pub(crate) instance_type: InstanceTypeName,
}

impl RouteLabels {
    pub(crate) fn of(route: &Route) -> Self {
        Self {
            workspace: route.workspace.clone(),
            application_name: route.application_name.clone(),
            application: route.application,
            instance_type: route.instance_type.clone(),
        }
    }
}

/// The counters of one instance type.
#[derive(Debug)]
pub(crate) struct RouteStatistics {
    pub(crate) labels: RouteLabels,
    /// Made when a worker first counts: most of many applications are asked for by few.
    workers: Box<[OnceLock<Box<RouteCounters>>]>,
}

impl RouteStatistics {
    pub(crate) fn new(labels: RouteLabels, workers: usize) -> Self {
        Self {
            labels,
            workers: (0..workers).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The copy of one worker.
    pub(crate) fn of_worker(&self, worker: usize) -> &RouteCounters {
        self.workers[worker].get_or_init(Box::default)
    }

    /// The sum of one counter over all workers.
    pub(crate) fn sum(&self, counter: impl Fn(&RouteCounters) -> &Counter) -> u64 {
        self.workers
            .iter()
            .filter_map(OnceLock::get)
            .map(|copy| counter(copy).get())
            .sum()
    }
}

/// One worker's copy of an instance type's counters; two cache lines apart from any other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct RouteCounters {
    /// By the hundreds of the status: 1xx (upgrades) to 5xx.
    pub(crate) statuses: [Counter; 5],
    /// Ended before the response was whole, by the client or by the backend.
    pub(crate) aborted: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    /// By [`BUCKETS`], not cumulative.
    pub(crate) durations: [Counter; BUCKETS.len() + 1],
    pub(crate) duration_sum_us: Counter,
}

impl RouteCounters {
    /// Counts a request that has ended.
    pub(crate) fn record(&self, status: StatusCode, duration: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.statuses[class].add(1);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS
            .iter()
            .position(|bound| us <= *bound)
            .unwrap_or(BUCKETS.len());
        self.durations[bucket].add(1);
        self.duration_sum_us.add(us);
    }
}

/// What one worker counts beside requests.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerStatistics {
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_closed: Counter,
    pub(crate) connections_timed_out: Counter,
    pub(crate) connections_evicted: Counter,
    pub(crate) responses_stalled: Counter,
    pub(crate) tunnels_opened: Counter,
    pub(crate) tunnels_closed: Counter,
    /// Requests that wait for a backend; a level, not a count.
    pub(crate) held: AtomicU64,
    pub(crate) backend_connections: Counter,
    pub(crate) retries: Counter,
    pub(crate) ejections: Counter,
    pub(crate) readmissions: Counter,
    /// Answers that the router made itself, by [`Refusal`](crate::answer::Refusal).
    pub(crate) refusals: [Counter; crate::answer::Refusal::ALL.len()],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_in_each_kind() {
        let counters = RouteCounters::default();

        counters.record(StatusCode::NOT_FOUND, Duration::from_millis(3));
        counters.record(StatusCode::OK, Duration::from_secs(60));

        assert_eq!(counters.statuses[3].get(), 1);
        assert_eq!(counters.statuses[1].get(), 1);
        assert_eq!(counters.durations[2].get(), 1);
        assert_eq!(counters.durations[BUCKETS.len()].get(), 1);
        assert_eq!(counters.duration_sum_us.get(), 60_003_000);
    }
}
