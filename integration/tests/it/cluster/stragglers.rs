//! Pacemakers that are slow, hang, or have lost their disk: R9, R10, R12.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::{History, NamespaceCluster, Writing, eventually};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::pacemakers::clients;
use super::{CHANGES_MAX, PACEMAKERS};

/// Below this, twice as long is chance: one turn of another test on the same cores.
const CHANCE: Duration = Duration::from_millis(25);
/// Less than a call to the follower that hangs would wait, and far more than a write on a busy machine.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// Writes before the fault, and as many beside it.
const COMPARED: usize = 200;

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
    let leads = cluster.leader().await?;
    let changes = cluster.term(leads).await?.saturating_sub(term);
    ensure!(changes <= CHANGES_MAX, "{changes} terms went by");
    cluster.network.widen(slow)?;

    cluster.has_caught_up(slow).await?;
    record.check(&clients).await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r10_a_follower_that_hangs_costs_a_write_at_most_twice_its_time() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let all = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let hung = cluster.pacemakers_but(&[leader])[0];
    let leading = [cluster.client_of(leader)?];
    let history = History::start(&leading, &Writing::steady("slowed"));
    let begun = Instant::now();
    history.wait_for(COMPARED).await?;

    let stopped = Instant::now();
    cluster.signal_agent(hung, Signal::SIGSTOP)?;
    history.wait_for(COMPARED).await?;
    let resumed = Instant::now();
    cluster.signal_agent(hung, Signal::SIGCONT)?;
    cluster.has_caught_up(hung).await?;
    // Again without the fault: what else the machine does must not count as its cost.
    let again = Instant::now();
    history.wait_for(COMPARED).await?;
    let ended = Instant::now();

    let record = history.stop().await;
    for (of_hundred, at_least) in [(50, CHANCE), (99, UNDISTURBED)] {
        let taken = |from, to| {
            let taken = record.quantile(from, to, of_hundred);
            taken.context("writes of each part")
        };
        let (before, after) = (taken(begun, stopped)?, taken(again, ended)?);
        let during = taken(stopped, resumed)?;
        println!(
            "p{of_hundred}: {before:?} before, {during:?} beside the one that hangs, {after:?} after"
        );
        let bound = at_least.max(2 * before.max(after));
        ensure!(during <= bound, "{during:?} and not {bound:?}");
    }
    ensure!(cluster.leader().await? == leader);
    record.check(&all).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r12_a_pacemaker_without_its_disk_counts_for_nothing_until_it_joins_anew() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_with_room(&PACEMAKERS, 1).await? else {
        return Ok(());
    };
    let leader = cluster.leader().await?;
    let emptied = cluster.pacemakers_but(&[leader])[0];
    let rest: Vec<_> = cluster
        .pacemakers_but(&[emptied])
        .into_iter()
        .map(|machine| cluster.client_of(machine))
        .collect::<Result<_>>()?;
    let history = History::start(&rest, &Writing::steady("kept"));
    history.wait_for(20).await?;

    cluster.kill_agent(emptied)?;
    std::fs::remove_dir_all(cluster.data(emptied).join("pacemaker"))?;
    cluster.start_agent(emptied)?;
    history.wait_for(20).await?;
    // It has promised things that it has forgotten: it is a member, and is not listened to.
    let node = cluster.node(emptied)?;
    eventually("it is known not to take part", || async {
        let status = rest[0].cluster_status().await.ok()?;
        let member = status.members.iter().find(|member| member.node == node)?;
        (!member.is_reachable && !status.problems.is_empty()).then_some(())
    })
    .await?;

    // An admin takes it out, and lets the machine join as a new one.
    let removed = ["cluster", "remove", &node.to_string()];
    cluster.pm(&removed).await?.success()?;
    cluster.kill_agent(emptied)?;
    cluster.forget(emptied);
    let token = cluster.make_token("pacemaker").await?;
    cluster.join(4, "pacemaker", &token)?;
    cluster.all_take_part().await?;
    history.wait_for(10).await?;
    history.stop().await.check(&clients(&cluster)?).await?;
    cluster.passed();
    Ok(())
}
