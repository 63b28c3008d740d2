//! Writes per second, and how long each takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::cluster::Cluster;
use crate::table::Table;

/// Clients at once, for each measurement.
const CLIENTS: [usize; 3] = [1, 64, 1_000];

/// What one measurement found.
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// Of all three processes, for each write.
    processor: Duration,
}

async fn measure(cluster: &Arc<Cluster>, clients: usize, time: Duration) -> Fallible<Measured> {
    let leader = cluster.leader().await?;
    let processor = cluster.processor_time()?;
    let numbers = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (cluster, numbers) = (Arc::clone(cluster), Arc::clone(&numbers));
        running.spawn(async move {
            let mut times = Vec::new();
            let mut connection = cluster.connect(leader).await?;
            while started.elapsed() < time {
                let begun = Instant::now();
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if connection.write(&cluster, number).await? {
                    times.push(begun.elapsed());
                }
            }
            Fallible::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(of_one) = running.join_next().await {
        times.extend(of_one??);
    }
    let elapsed = started.elapsed();
    let processor = cluster.processor_time()?.saturating_sub(processor);
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    let count = u32::try_from(times.len())?;
    Ok(Measured {
        per_second: f64::from(count) / elapsed.as_secs_f64(),
        p50: at(50).ok_or("nothing was written")?,
        p99: at(99).ok_or("nothing was written")?,
        processor: processor / count.max(1),
    })
}

/// Prints what it found for each number of clients.
pub(crate) async fn compare(
    clusters: &[Arc<Cluster>],
    rounds: u64,
    time: Duration,
    table: &Table,
) -> Fallible<()> {
    let mut found: BTreeMap<(usize, usize), Vec<Measured>> = BTreeMap::new();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..clusters.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for clients in CLIENTS {
            for system in &order {
                let measured = measure(&clusters[*system], clients, time).await?;
                found.entry((clients, *system)).or_default().push(measured);
            }
        }
    }
    for clients in CLIENTS.into_iter().filter(|_| rounds > 0) {
        let row = |name: &str, of: &dyn Fn(&Measured) -> f64| {
            let values = (0..clusters.len())
                .map(|system| found[&(clients, system)].iter().map(of).collect())
                .collect::<Vec<_>>();
            table.row(&format!("{name}, {clients} clients"), &values);
        };
        row("writes/s", &|one| one.per_second);
        row("p50 ms", &|one| one.p50.as_secs_f64() * 1e3);
        row("p99 ms", &|one| one.p99.as_secs_f64() * 1e3);
        row("cpu µs/write", &|one| one.processor.as_secs_f64() * 1e6);
    }
    Ok(())
}
