//! Machines that disappear and come back: the death of a node, H7.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::NamespaceCluster;

use super::{THREE, lasts, places, servers};

/// A cut that is over before a node counts as down.
const SHORT: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn h7_a_machine_whose_cable_is_cut_is_replaced_and_routed() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(3)?).await?;
    // A follower, and then whoever leads.
    for round in 0..2 {
        let leader = cluster.leader().await?;
        let dead = if round == 0 {
            cluster.pacemakers_but(&[leader])[0]
        } else {
            leader
        };
        let alive = cluster.pacemakers_but(&[dead]);
        cluster.answers_through(&alive, "web").await?;
        let load = cluster.load(alive[0], "web", 2);
        load.wait_for(50).await?;

        let cut = Instant::now();
        cluster.network.unplug(dead)?;
        cluster.runs_exactly("web", 3, &[dead]).await?;
        let replaced = cut.elapsed();
        let tally = load.stop().await;
        println!(
            "round {round}: replaced after {replaced:?}; of {} requests meanwhile {} failed: {:?}",
            tally.answered, tally.failed, tally.failures
        );
        // What was in flight to the dead machine was sent to another when it had left the table.
        tally.all_answered()?;
        let load = cluster.load(alive[0], "web", 2);
        load.wait_for(200).await?;
        load.stop().await.all_answered()?;

        let mended = Instant::now();
        cluster.network.plug(dead)?;
        cluster.has_servers(3).await?;
        println!(
            "round {round}: exactly three {:?} after the return",
            mended.elapsed()
        );
        cluster.answers_through(&[1, 2, 3], "web").await?;
    }
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn h7_a_short_cut_moves_nothing() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(3)?).await?;
    let before = places(&cluster).await?;
    let leader = cluster.leader().await?;
    let cut = cluster.pacemakers_but(&[leader])[0];

    cluster.network.unplug(cut)?;
    lasts(SHORT).await;
    cluster.network.plug(cut)?;

    cluster.answers_through(&[1, 2, 3], "web").await?;
    cluster.is_heard(cut).await?;
    let after = places(&cluster).await?;
    ensure!(before == after, "{before:?} became {after:?}");
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn h7_a_paused_machine_comes_back_to_exactly_the_wanted_number() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(3)?).await?;
    let leader = cluster.leader().await?;
    let paused = cluster.pacemakers_but(&[leader])[0];

    cluster.pause_machine(paused)?;
    cluster.runs_exactly("web", 3, &[paused]).await?;
    let resumed = Instant::now();
    cluster.resume_machine(paused)?;
    cluster.has_servers(3).await.context("after the return")?;

    println!("exactly three {:?} after the return", resumed.elapsed());
    cluster.answers_through(&[1, 2, 3], "web").await?;
    cluster.passed();
    Ok(())
}
