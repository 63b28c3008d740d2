//! How long the instances of a machine are missed that disappears; run by `scripts/bench-failover`.
//!
//! A round cuts the cable of the machine with the most instances of an application and waits until
//! the router of another machine answers from as many instances as are wanted, none of them on the
//! machine that is gone. In every third round it is the machine that leads, if it has instances.
#![expect(clippy::print_stdout, reason = "the table is the program's result")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use common::id::NodeId;
use integration::{ALL_ROLES, NamespaceCluster, TestApp, eventually};
use serde_json::Value;

/// Rounds that are timed, unless the first argument says otherwise.
const ROUNDS: usize = 30;
/// Instances of the application.
const QUANTITY: usize = 6;
/// Requests that find all instances, very probably, when each chooses one of two at random.
const SWEEP: usize = QUANTITY * 8;
/// How long one answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(ROUNDS), |text| text.parse())
        .context("the first argument is the number of rounds")?;
    let Some(cluster) = NamespaceCluster::start(&[ALL_ROLES; 3]).await? else {
        bail!("the machines cannot be made here");
    };
    let mut application = TestApp::server("web", "body")?;
    application.set("/instances/0/quantity", QUANTITY.into())?;
    cluster.deploy(&application).await?;

    let (mut all, mut leading) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let leader = cluster.leader().await?;
        let dead = if round % 3 == 0 && has_instances(&cluster, leader).await? {
            leader
        } else {
            fullest(&cluster).await?
        };
        let is_leader = leader == dead;
        let took = cut(&cluster, dead).await?;
        println!(
            "round {round}: {:.0} ms{}",
            milliseconds(took),
            if is_leader { ", the leader" } else { "" }
        );
        all.push(took);
        if is_leader {
            leading.push(took);
        }
        mend(&cluster, dead).await?;
    }
    println!(
        "\n{:<44}{:>8}{:>8}{:>8}",
        "milliseconds", "p50", "p99", "rounds"
    );
    row("cable cut to replaced and routed", &mut all);
    row("  when the machine was the leader's", &mut leading);
    cluster.passed();
    Ok(())
}

async fn has_instances(cluster: &NamespaceCluster, machine: u8) -> Result<bool> {
    let node = cluster.node(machine)?;
    let instances = cluster.instances("web").await?;
    Ok(instances.iter().any(|instance| instance.node == node))
}

/// The machine with the most instances.
async fn fullest(cluster: &NamespaceCluster) -> Result<u8> {
    let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
    for instance in cluster.instances("web").await? {
        *counts.entry(instance.node).or_default() += 1;
    }
    let (node, _) = counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .context("there are instances")?;
    cluster.machine_of(node)
}

/// Cuts the cable and waits until all is well without the machine.
async fn cut(cluster: &NamespaceCluster, dead: u8) -> Result<Duration> {
    let alive = cluster.pacemakers_but(&[dead]);
    let gone = cluster.node(dead)?;
    let before: BTreeSet<u64> = cluster
        .instances("web")
        .await?
        .iter()
        .filter(|instance| instance.node == gone)
        .map(|instance| instance.id.0)
        .collect();
    let began = Instant::now();
    cluster.network.unplug(dead)?;
    eventually("as many instances answer as are wanted", || async {
        let mut seen = BTreeSet::new();
        for _ in 0..SWEEP {
            let answer = cluster.get(alive[0], "web", "/instance");
            let answer = tokio::time::timeout(ANSWER_LIMIT, answer)
                .await
                .ok()?
                .ok()?;
            let answer: Value = serde_json::from_slice(&answer.body).ok()?;
            let instance: u64 = answer.get("instance")?.as_str()?.parse().ok()?;
            seen.insert(instance);
        }
        (seen.len() >= QUANTITY && seen.is_disjoint(&before)).then_some(())
    })
    .await?;
    Ok(began.elapsed())
}

/// Puts the cable back and waits until nothing remembers it.
async fn mend(cluster: &NamespaceCluster, dead: u8) -> Result<()> {
    cluster.network.plug(dead)?;
    cluster.has_servers(QUANTITY).await?;
    cluster.is_heard(dead).await?;
    cluster.has_caught_up(dead).await
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn row(name: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    if let Some(last) = samples.len().checked_sub(1) {
        // Rank of the nearest sample: with thirty of them the p99 is the worst.
        let middle = milliseconds(samples[last / 2]);
        let worst = milliseconds(samples[last * 99 / 100 + usize::from(last * 99 % 100 > 0)]);
        println!("{name:<44}{middle:>8.0}{worst:>8.0}{:>8}", samples.len());
    }
}
