//! The leader changes: quickly when its process ends, without a failed write when it stops in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::group::{Group, workspace};
use crate::harness::eventually;

/// Far below the shortest timeout of an election by silence, and far above what one by a closed
/// connection takes.
const BY_NOTICE: Duration = Duration::from_millis(400);
/// Rounds of which some must be quick: the machine may stall in others.
const ROUNDS: usize = 5;
/// Commands at once, so that a log becomes long in a short time.
const AT_ONCE: usize = 200;
/// More than openraft sends as entries to a follower that was away.
const LONG_LOG: usize = 11_000;

#[tokio::test]
async fn leader_whose_process_ends_is_succeeded_at_once() {
    let mut group = Group::of(3).await;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let leader = group.leader().await;
        group.crash(leader);
        let started = Instant::now();
        let (_, survivor) = group.running.iter().next().unwrap();
        let client = survivor.administrator();
        let stub = format!("round-{round}");
        eventually("a write is accepted", async || {
            client.create_workspace(&workspace(&stub), &stub).await.ok()
        })
        .await;
        times.push(started.elapsed());
        group.start(leader).await;
        group.running[&leader].ready().await;
    }
    times.sort_unstable();
    assert!(times[1] < BY_NOTICE, "{times:?}");
}

#[tokio::test]
async fn leader_that_stops_in_order_costs_no_write() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let writer = group.running.iter().find(|(member, _)| **member != leader);
    let client = writer.unwrap().1.administrator();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let writing = tokio::spawn(async move {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) || count == 0 {
            let stub = format!("write-{count}");
            client
                .create_workspace(&workspace(&stub), &stub)
                .await
                .unwrap();
            count += 1;
        }
        count
    });

    let stopped = group.running.remove(&leader).unwrap();
    stopped.stop().await.unwrap();
    group.leader().await;
    is_over.store(true, Ordering::Relaxed);

    let count = writing.await.unwrap();
    let (survivor, _) = group.running.iter().next().unwrap();
    let stubs = group.stubs(*survivor).await;
    for number in 0..count {
        assert!(
            stubs.contains(&format!("write-{number}")),
            "{number} is lost"
        );
    }
}

#[tokio::test]
async fn member_that_was_away_for_long_is_brought_up_by_a_snapshot() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let away = *group
        .running
        .keys()
        .find(|member| **member != leader)
        .unwrap();
    group.write("taken").await;
    group.crash(away);

    let client = group.running[&leader].administrator();
    for round in 0..LONG_LOG / AT_ONCE {
        // Refused, but in the log nevertheless.
        let refused = (0..AT_ONCE).map(|number| {
            let client = client.clone();
            async move {
                let key = format!("{round} {number}");
                let mut body = workspace("taken");
                body.name.clone_from(&key);
                let again = client.create_workspace(&body, &key).await;
                assert_eq!(again.unwrap_err().status(), Some(409));
            }
        });
        join_all(refused).await;
    }
    group.write("last").await;
    group.start(away).await;
    group.running[&away].ready().await;

    group.reaches(away, "last").await;
    let snapshots = group.data(away).join("snapshots");
    assert!(std::fs::read_dir(snapshots).unwrap().count() > 0);
}
