//! The pacemaker's numbers, as Prometheus reads them.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The numbers; clones are the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Time of one durable commit of the log.
    pub(crate) flush_seconds: Histogram,
    /// Time from a proposal to its answer.
    pub(crate) proposal_seconds: Histogram,
    /// Proposals by what became of them.
    pub(crate) proposals: Family<ResultLabel, Counter>,
    /// Requests by route and status.
    pub(crate) requests: Family<RequestLabel, Counter>,
    /// Bytes of packages that were received.
    pub(crate) package_bytes_received: Counter,
    /// Bytes of packages that were sent.
    pub(crate) package_bytes_sent: Counter,
    /// Packages that the state knows and this disk lacks.
    pub(crate) packages_lacking: Gauge,
    /// Passes of the leader's loop.
    pub(crate) ticks: Counter,
    /// Actions that were proposed.
    pub(crate) actions: Counter,
    /// The last log index applied.
    pub(crate) applied: Gauge,
    /// The Raft term.
    pub(crate) term: Gauge,
    /// 1 on the leader.
    pub(crate) is_leader: Gauge,
    /// Attempts of cron runs that ended, and slots that were not run.
    pub(crate) cron_runs: Family<CronLabel, Counter>,
    /// Time from a slot to the first byte of its request.
    pub(crate) cron_lateness_seconds: Histogram,
    /// Requests of crons under way.
    pub(crate) crons_in_flight: Gauge,
    /// Crons that failed several times in a row.
    pub(crate) crons_failing: Gauge,
    /// Age of each node's newest report, by node and role.
    pub(crate) sighting_age_ms: Family<SightingLabel, Gauge>,
    registry: Shared,
}

#[derive(Clone)]
struct Shared(Arc<Registry>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    /// `accepted`, `rejected` or `failed`.
    pub(crate) result: &'static str,
}

/// What became of an attempt, or of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CronLabel {
    /// `succeeded`, `failed`, `timed_out`, `lost`, `replaced`, `skipped` or `missed`.
    pub(crate) outcome: &'static str,
}

/// A kind of request and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabel {
    /// GET, POST…
    pub(crate) method: &'static str,
    /// The path with its parameters unfilled.
    pub(crate) route: &'static str,
    /// The status of the answer.
    pub(crate) status: u16,
}

/// Who was heard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SightingLabel {
    /// The node's number.
    pub(crate) node: u64,
    /// `heart` or `router`.
    pub(crate) role: &'static str,
}

impl Metrics {
    /// Numbers at zero.
    pub(crate) fn new() -> Self {
        // From 50 µs, about the fastest flush of a disk, to 1.6 s, far past any patience.
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let mut metrics = Self {
            flush_seconds: seconds(),
            proposal_seconds: seconds(),
            proposals: Family::default(),
            requests: Family::default(),
            package_bytes_received: Counter::default(),
            package_bytes_sent: Counter::default(),
            packages_lacking: Gauge::default(),
            ticks: Counter::default(),
            actions: Counter::default(),
            applied: Gauge::default(),
            term: Gauge::default(),
            is_leader: Gauge::default(),
            cron_runs: Family::default(),
            // From 1 ms to 33 s, when a slot counts as missed.
            cron_lateness_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            crons_in_flight: Gauge::default(),
            crons_failing: Gauge::default(),
            sighting_age_ms: Family::default(),
            registry: Shared(Arc::default()),
        };
        metrics.registry = Shared(Arc::new(metrics.register()));
        metrics
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("pm_pacemaker");
        registry.register_with_unit(
            "raft_flush",
            "Time of one durable commit of the log",
            Unit::Seconds,
            self.flush_seconds.clone(),
        );
        registry.register_with_unit(
            "proposal",
            "Time from a proposal to its answer",
            Unit::Seconds,
            self.proposal_seconds.clone(),
        );
        registry.register(
            "proposals",
            "Proposals by what became of them",
            self.proposals.clone(),
        );
        registry.register(
            "requests",
            "Requests by route and status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "packages_received",
            "Package bytes received",
            Unit::Bytes,
            self.package_bytes_received.clone(),
        );
        registry.register_with_unit(
            "packages_sent",
            "Package bytes sent",
            Unit::Bytes,
            self.package_bytes_sent.clone(),
        );
        registry.register(
            "packages_lacking",
            "Packages that the cluster knows and this pacemaker's disk lacks",
            self.packages_lacking.clone(),
        );
        registry.register("ticks", "Passes of the leader's loop", self.ticks.clone());
        registry.register("actions", "Actions proposed", self.actions.clone());
        registry.register(
            "raft_applied_index",
            "The last log index applied",
            self.applied.clone(),
        );
        registry.register("raft_term", "The Raft term", self.term.clone());
        registry.register("raft_is_leader", "1 on the leader", self.is_leader.clone());
        self.register_crons(&mut registry);
        registry.register(
            "sighting_age_milliseconds",
            "Age of each node's newest report",
            self.sighting_age_ms.clone(),
        );
        registry
    }

    fn register_crons(&self, registry: &mut Registry) {
        registry.register(
            "cron_runs",
            "Attempts of cron runs that ended, and slots that were not run",
            self.cron_runs.clone(),
        );
        registry.register_with_unit(
            "cron_lateness",
            "Time from a slot to the first byte of its request",
            Unit::Seconds,
            self.cron_lateness_seconds.clone(),
        );
        registry.register(
            "crons_in_flight",
            "Requests of crons under way here",
            self.crons_in_flight.clone(),
        );
        registry.register(
            "crons_failing",
            "Crons whose last three runs or more failed",
            self.crons_failing.clone(),
        );
    }

    /// The text for a scrape, without the closing `# EOF`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry.0).is_err() {
            tracing::error!("writing metrics to a string failed");
        }
        text.truncate(
            text.trim_end()
                .strip_suffix("# EOF")
                .map_or(text.len(), str::len),
        );
        text
    }
}
