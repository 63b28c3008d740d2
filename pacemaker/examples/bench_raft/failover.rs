//! From the death of the leader to the next accepted write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Fallible;
use crate::cluster::{Cluster, TRIES, pause};
use crate::table::Table;

/// From the death of the leader to the next accepted write: one is tried every few milliseconds,
/// by one of the others in turn, whatever became of those before.
async fn fail_over(cluster: &mut Arc<Cluster>) -> Fallible<Duration> {
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..3).filter(|one| *one != leader).collect();
    for one in &others {
        cluster.write(*one, 0).await;
    }
    let alone = Arc::get_mut(cluster).ok_or("a client is still running")?;
    let mut process = alone.processes.remove(&leader).ok_or("it is not running")?;
    process.kill()?;
    let started = Instant::now();
    let mut tries = tokio::task::JoinSet::new();
    let mut turns = others.iter().cycle();
    let elapsed = loop {
        let one = *turns.next().ok_or("there are two others")?;
        let trying = Arc::clone(cluster);
        tries.spawn(async move { trying.write(one, 1).await });
        pause().await;
        let mut is_accepted = false;
        while let Some(tried) = tries.try_join_next() {
            is_accepted |= tried?;
        }
        if is_accepted {
            break started.elapsed();
        }
    };
    tries.shutdown().await;
    process.wait()?;
    let alone = Arc::get_mut(cluster).ok_or("a client is still running")?;
    alone.spawn(leader)?;
    for _ in 0..TRIES {
        if cluster.write(leader, 2).await {
            return Ok(elapsed);
        }
        pause().await;
    }
    Err("the one that was killed does not come back".into())
}

/// Prints the median and the worst.
pub(crate) async fn compare(
    clusters: &mut [Arc<Cluster>],
    kills: u64,
    table: &Table,
) -> Fallible<()> {
    let mut times: Vec<Vec<f64>> = Vec::new();
    for cluster in &mut *clusters {
        let mut of_one = Vec::new();
        for _ in 0..kills {
            of_one.push(fail_over(cluster).await?.as_secs_f64() * 1e3);
        }
        times.push(of_one);
    }
    if kills > 0 {
        table.row("kill -9 to write, p50 ms", &times);
        let worst = times
            .iter()
            .map(|times| vec![times.iter().copied().fold(0.0, f64::max)]);
        table.row("kill -9 to write, worst ms", &worst.collect::<Vec<_>>());
    }
    Ok(())
}
