//! The role's metrics: every worker's counters added up when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::answer::Refusal;
use crate::statistics::{
    BUCKETS, Counter, RouteCounters, RouteLabels, RouteStatistics, WorkerStatistics,
};
use crate::worker::Shared;

const PREFIX: &str = "pm_router";
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Name, help, and where a worker keeps it.
type Described<Counters> = (&'static str, &'static str, fn(&Counters) -> &Counter);

const MICROSECONDS: f64 = 1e-6;

/// Makes the function that a scrape calls: OpenMetrics text without its end mark.
pub(crate) fn scraper(shared: Arc<Shared>) -> Arc<dyn Fn() -> String + Send + Sync> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Workers(shared)));
    Arc::new(move || {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode_registry(&mut text, &registry)
        {
            tracing::error!(%error, "the router's metrics cannot be written");
        }
        text
    })
}

/// Adds up what the workers count.
#[derive(Debug)]
struct Workers(Arc<Shared>);

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let routes = self
            .0
            .tables
            .with_registry(|registry| registry.statistics());
        encode_requests(&mut encoder, &routes)?;
        encode_refusals(&mut encoder, &self.0.statistics)?;
        encode_workers(&mut encoder, &self.0)?;
        encode_levels(&mut encoder, &self.0)?;
        encode_table(&mut encoder, &self.0)
    }
}

fn encode_requests(
    encoder: &mut DescriptorEncoder<'_>,
    routes: &[Arc<RouteStatistics>],
) -> Result<(), fmt::Error> {
    let mut requests = encoder.encode_descriptor(
        "requests",
        "Requests that have ended, by instance type and status",
        None,
        MetricType::Counter,
    )?;
    for route in routes {
        for (index, class) in STATUS_CLASSES.into_iter().enumerate() {
            let mut labels = labels(&route.labels).to_vec();
            labels.push(("class", class));
            let count = route.sum(|counters| &counters.statuses[index]);
            counter(requests.encode_family(&labels)?, count)?;
        }
    }
    let sums: [Described<RouteCounters>; 3] = [
        (
            "requests_aborted",
            "Requests that ended before their response was whole",
            |counters| &counters.aborted,
        ),
        ("request_bytes", "Bytes of request bodies", |counters| {
            &counters.bytes_in
        }),
        ("response_bytes", "Bytes of response bodies", |counters| {
            &counters.bytes_out
        }),
    ];
    for (name, help, sum) in sums {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for route in routes {
            let labels = labels(&route.labels);
            counter(metric.encode_family(&labels)?, route.sum(sum))?;
        }
    }
    let mut durations = encoder.encode_descriptor(
        "request_duration_seconds",
        "Time from a request's head to the end of its response",
        None,
        MetricType::Histogram,
    )?;
    for route in routes {
        let labels = labels(&route.labels);
        histogram(durations.encode_family(&labels)?, route)?;
    }
    Ok(())
}

fn encode_refusals(
    encoder: &mut DescriptorEncoder<'_>,
    workers: &[WorkerStatistics],
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(
        "refusals",
        "Answers of the router's own, by code",
        None,
        MetricType::Counter,
    )?;
    for refusal in Refusal::ALL {
        let count = sum(workers, |worker| &worker.refusals[refusal.index()]);
        counter(metric.encode_family(&[("code", refusal.code())])?, count)?;
    }
    Ok(())
}

fn encode_workers(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let counters: [Described<WorkerStatistics>; 8] = [
        ("connections_accepted", "Client connections", |worker| {
            &worker.connections_accepted
        }),
        (
            "connections_timed_out",
            "Client connections closed because they were silent",
            |worker| &worker.connections_timed_out,
        ),
        (
            "connections_evicted",
            "Idle client connections closed to make room for new ones",
            |worker| &worker.connections_evicted,
        ),
        (
            "responses_stalled",
            "Responses given up because an HTTP/2 client took nothing of them",
            |worker| &worker.responses_stalled,
        ),
        (
            "backend_connections",
            "Connections opened, or tried, to backends",
            |worker| &worker.backend_connections,
        ),
        ("retries", "Requests sent again", |worker| &worker.retries),
        (
            "ejections",
            "Backends passed over because they refused a connection",
            |worker| &worker.ejections,
        ),
        (
            "readmissions",
            "Ejected backends that accept connections again",
            |worker| &worker.readmissions,
        ),
    ];
    for (name, help, pick) in counters {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter(metric, sum(&shared.statistics, pick))?;
    }
    let dropped = shared.log.as_ref().map_or(0, |log| log.dropped());
    let metric = encoder.encode_descriptor(
        "access_log_lines_dropped",
        "Access log lines dropped because the writer was behind",
        None,
        MetricType::Counter,
    )?;
    counter(metric, dropped)
}

fn encode_levels(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let difference = |up: fn(&WorkerStatistics) -> &Counter,
                      down: fn(&WorkerStatistics) -> &Counter| {
        let down = sum(&shared.statistics, down);
        sum(&shared.statistics, up).saturating_sub(down)
    };
    let held = shared
        .statistics
        .iter()
        .map(|worker| worker.held.load(Ordering::Relaxed))
        .sum();
    let gauges = [
        (
            "connections_open",
            "Client connections that are open, tunnels apart",
            difference(
                |worker| &worker.connections_accepted,
                |worker| &worker.connections_closed,
            ),
        ),
        (
            "tunnels_open",
            "Upgraded connections",
            difference(
                |worker| &worker.tunnels_opened,
                |worker| &worker.tunnels_closed,
            ),
        ),
        (
            "requests_held",
            "Requests that wait for a backend to appear",
            held,
        ),
        (
            "requests_in_flight",
            "Requests and tunnels at backends",
            shared.tables.with_registry(|registry| registry.in_flight()),
        ),
    ];
    for (name, help, value) in gauges {
        gauge(encoder, name, help, value)?;
    }
    Ok(())
}

fn encode_table(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let table = shared.tables.current.load();
    let routes = u64::try_from(table.len()).unwrap_or(u64::MAX);
    gauge(
        encoder,
        "table_generation",
        "The newest routing table here",
        table.generation.0,
    )?;
    gauge(
        encoder,
        "table_applied",
        "The routing table that every worker uses",
        shared.tables.applied().0,
    )?;
    gauge(encoder, "table_routes", "Hostnames and wildcards", routes)?;
    gauge(
        encoder,
        "pacemaker_contact",
        "1 once a pacemaker has answered since the start",
        u64::from(shared.tables.has_had_contact()),
    )?;
    let mut metric = encoder.encode_descriptor(
        "table_age_seconds",
        "Time since a pacemaker last answered a watch of the routes, also of an earlier router here; up to 30 is usual",
        None,
        MetricType::Gauge,
    )?;
    metric.encode_gauge(&shared.tables.staleness().as_secs_f64())
}

fn labels(labels: &RouteLabels) -> [(&str, &str); 3] {
    [
        ("workspace", &labels.workspace),
        ("application", &labels.application_name),
        ("instance_type", labels.instance_type.as_str()),
    ]
}

fn sum(workers: &[WorkerStatistics], pick: impl Fn(&WorkerStatistics) -> &Counter) -> u64 {
    workers.iter().map(|worker| pick(worker).get()).sum()
}

fn counter(mut metric: MetricEncoder<'_>, value: u64) -> Result<(), fmt::Error> {
    metric.encode_counter(&value, None::<&Exemplar<[(&str, &str); 0], u64>>)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    metric.encode_gauge(&value)
}

fn histogram(mut metric: MetricEncoder<'_>, route: &RouteStatistics) -> Result<(), fmt::Error> {
    let mut buckets = Vec::with_capacity(BUCKETS.len() + 1);
    for index in 0..=BUCKETS.len() {
        // A bound in microseconds is exact as a float; the last bucket has none.
        let bound = BUCKETS.get(index).map_or(f64::MAX, |us| {
            f64::from(u32::try_from(*us).unwrap_or(u32::MAX)) * MICROSECONDS
        });
        buckets.push((bound, route.sum(|counters| &counters.durations[index])));
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of times is shown, not calculated with"
    )]
    let sum = route.sum(|counters| &counters.duration_sum_us) as f64 * MICROSECONDS;
    metric.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
}
