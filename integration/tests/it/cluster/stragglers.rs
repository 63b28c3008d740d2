//! Pacemakers that are slow, hang, or have lost their disk: R9, R10, R12.

use anyhow::{Context as _, Result, ensure};
use integration::{History, NamespaceCluster, Writing};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::Instant;

use super::PACEMAKERS;
use super::pacemakers::clients;

/// What the scheduler of a busy machine adds.
const SCHEDULING: Duration = Duration::from_millis(30);

#[tokio::test]
async fn r9_a_follower_behind_a_narrow_cable_catches_up_and_disturbs_nobody() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let slow = cluster.pacemakers_but(&[leader])[0];
    let term = cluster.term(leader).await?;

    cluster.network.narrow(slow, "100kbit")?;
    let others: Vec<_> = cluster
        .pacemakers_but(&[slow])
        .into_iter()
        .map(|machine| cluster.client_of(machine))
        .collect::<Result<_>>()?;
    let history = History::start(&others, &Writing::burst("behind", 800));
    history.done().await?;
    let record = history.stop().await;
    ensure!(cluster.leader().await? == leader && cluster.term(leader).await? == term);
    cluster.network.widen(slow)?;

    cluster.has_caught_up(slow).await?;
    record.check(&clients).await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r10_a_follower_that_hangs_slows_nobody() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let all = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let hung = cluster.pacemakers_but(&[leader])[0];
    let leading = [cluster.client_of(leader)?];
    let history = History::start(&leading, &Writing::steady("slowed"));
    let begun = Instant::now();
    history.wait_for(100).await?;

    let stopped = Instant::now();
    cluster.signal_agent(hung, Signal::SIGSTOP)?;
    history.wait_for(100).await?;
    let resumed = Instant::now();
    cluster.signal_agent(hung, Signal::SIGCONT)?;

    let record = history.stop().await;
    let before = record.median(begun, stopped).context("writes before")?;
    let during = record.median(stopped, resumed).context("writes during")?;
    println!(
        "median {before:?} before and {during:?} during; slowest {:?} and {:?}",
        record.slowest(begun, stopped),
        record.slowest(stopped, resumed)
    );
    ensure!(during <= before * 2 + SCHEDULING, "{before:?} {during:?}");
    ensure!(cluster.leader().await? == leader);
    record.check(&all).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r12_a_pacemaker_without_its_disk_comes_back_and_nothing_is_lost() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let emptied = cluster.pacemakers_but(&[leader])[0];
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(20).await?;

    cluster.kill_agent(emptied)?;
    std::fs::remove_dir_all(cluster.data(emptied).join("pacemaker"))?;
    cluster.start_agent(emptied)?;
    history.wait_for(20).await?;
    cluster.all_take_part().await?;
    cluster.has_caught_up(emptied).await?;

    // It counts again: the other two may go one after the other.
    let other = cluster.pacemakers_but(&[leader, emptied])[0];
    cluster.kill_agent(other)?;
    history.wait_for(10).await?;
    cluster.start_agent(other)?;
    let record = history.stop().await;
    record.check(&clients).await?;
    cluster.passed();
    Ok(())
}
