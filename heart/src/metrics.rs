//! What Prometheus sees of a heart.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::instance::InstanceState;
use common::time::Span;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::report::Snapshot;

/// The states of instances with their names.
const STATES: [(InstanceState, &str); 7] = [
    (InstanceState::Allocated, "allocated"),
    (InstanceState::Registered, "registered"),
    (InstanceState::Starting, "starting"),
    (InstanceState::Running, "running"),
    (InstanceState::Stopping, "stopping"),
    (InstanceState::Stopped, "stopped"),
    (InstanceState::Failed, "failed"),
];

/// The last line of an OpenMetrics text; the node writes it once for all its roles.
const END: &str = "# EOF\n";

/// The heart's counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    instances: Family<StateLabel, Gauge>,
    builds: Gauge,
    restarts: Counter,
    spawns: Histogram,
    report_failures: Counter,
    actions: Counter,
    silence: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("pm_heart");
        let instances = Family::default();
        let builds = Gauge::default();
        let restarts = Counter::default();
        // From half a millisecond to a second.
        let spawns = Histogram::new(exponential_buckets(0.0005, 2.0, 12));
        let report_failures = Counter::default();
        let actions = Counter::default();
        let silence = Gauge::<f64, AtomicU64>::default();
        registry.register(
            "silence_seconds",
            "Time since the last report that a pacemaker acknowledged was sent",
            silence.clone(),
        );
        registry.register("instances", "Instances by state", Family::clone(&instances));
        registry.register("builds", "Builds held", builds.clone());
        registry.register(
            "restarts",
            "Starts after a failure, since the heart began",
            restarts.clone(),
        );
        registry.register(
            "spawn_seconds",
            "Time from the decision to spawn until the process had been executed",
            spawns.clone(),
        );
        registry.register(
            "report_failures",
            "Reports that no pacemaker acknowledged",
            report_failures.clone(),
        );
        registry.register("actions", "Actions carried out", actions.clone());
        Arc::new(Self {
            registry,
            instances,
            builds,
            restarts,
            spawns,
            report_failures,
            actions,
            silence,
        })
    }

    pub(crate) fn note_spawn(&self, elapsed: Duration) {
        self.spawns.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn note_restart(&self) {
        self.restarts.inc();
    }

    pub(crate) fn note_report_failure(&self) {
        self.report_failures.inc();
    }

    pub(crate) fn note_action(&self) {
        self.actions.inc();
    }

    /// The text for Prometheus, without the line that ends it.
    pub(crate) fn text(&self, snapshot: &watch::Receiver<Snapshot>, silence: Span) -> String {
        self.silence.set(silence.duration().as_secs_f64());
        {
            let snapshot = snapshot.borrow();
            for (state, name) in STATES {
                let count = snapshot
                    .instances
                    .iter()
                    .filter(|instance| instance.state == state)
                    .count();
                self.instances
                    .get_or_create(&StateLabel { state: name })
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            self.builds
                .set(i64::try_from(snapshot.builds.len()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String cannot fail");
        match text.strip_suffix(END) {
            Some(body) => body.to_owned(),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_every_state_and_no_end() {
        let (_sender, snapshot) = watch::channel(Snapshot::default());
        let metrics = Metrics::new();
        metrics.note_restart();

        let text = metrics.text(&snapshot, Span(1500));

        assert!(
            text.contains("pm_heart_instances{state=\"running\"} 0"),
            "{text}"
        );
        assert!(text.contains("pm_heart_restarts_total 1"), "{text}");
        assert!(text.contains("pm_heart_silence_seconds 1.5"), "{text}");
        assert!(!text.contains("# EOF"));
    }
}
