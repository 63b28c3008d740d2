//! Pacemakers that do not see each other: R4, R5, R6.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::api::CreateWorkspace;
use common::id::WorkspaceStub;
use integration::{History, NamespaceCluster, Network, Writing};
use tokio::time::Instant;

use super::pacemakers::clients;
use super::{PACEMAKERS, lasts};

/// How long an isolated leader is asked to write.
const TEMPTED: Duration = Duration::from_secs(4);
/// How long a fault lasts in which nothing may happen: several election timeouts.
const QUIET: Duration = Duration::from_secs(4);

#[tokio::test]
async fn r4_an_isolated_leader_acknowledges_nothing() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let others = cluster.pacemakers_but(&[leader]);
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(10).await?;

    let cut = Instant::now();
    cluster.network.isolate(leader)?;
    let tempted = tempt(&cluster, leader).await?;
    ensure!(
        tempted == 0,
        "{tempted} writes were acknowledged by one of three"
    );
    cluster.leader_among(&others).await?;
    history.wait_for(10).await?;
    cluster.network.heal()?;
    let healed = Instant::now();
    cluster.leader().await?;

    println!(
        "one leader {:?} after the cable was mended",
        healed.elapsed()
    );
    history.wait_for(10).await?;
    let record = history.stop().await;
    println!(
        "the first write after the cut took {:?}",
        record.first_after(cut)
    );
    record.check(&clients).await?;
    cluster.passed();
    Ok(())
}

/// Asks an isolated pacemaker to write again and again; gives how often it says that it has.
async fn tempt(cluster: &NamespaceCluster, machine: u8) -> Result<usize> {
    let client = cluster.client_of(machine)?;
    let mut acknowledged = 0;
    let mut number = 0;
    let tempting = async {
        loop {
            number += 1;
            let name = format!("tempted-{number}");
            let body = CreateWorkspace {
                stub: WorkspaceStub::parse(&name)?,
                name: name.clone(),
                tags: [].into(),
            };
            // Each try may wait for a majority until the end of the time.
            let answer = client.create_workspace(&body, &name);
            let answer = tokio::time::timeout(TEMPTED / 4, answer).await;
            if matches!(answer, Ok(Ok(_))) {
                acknowledged += 1;
            }
            tokio::task::yield_now().await;
        }
        #[expect(unreachable_code, reason = "it gives the loop's errors a type")]
        anyhow::Ok(())
    };
    tokio::time::timeout(TEMPTED, tempting)
        .await
        .unwrap_or(Ok(()))?;
    Ok(acknowledged)
}

#[tokio::test]
async fn r5_a_leader_that_cannot_hear_or_cannot_speak_is_replaced() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(10).await?;
    let mut times = Vec::new();
    for (name, fault) in [
        ("deaf", Network::deafen as fn(&Network, u8) -> Result<()>),
        ("mute", Network::mute),
    ] {
        let leader = cluster.leader().await?;
        let others = cluster.pacemakers_but(&[leader]);

        times.push((name, Instant::now()));
        fault(&cluster.network, leader)?;
        cluster.leader_among(&others).await?;
        history.wait_for(10).await?;
        cluster.network.heal()?;
        cluster.leader().await?;
    }
    let record = history.stop().await;
    for (name, from) in times {
        println!(
            "{name}: the first write took {:?}",
            record.first_after(from)
        );
    }
    record.check(&clients).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r6_two_that_do_not_see_each_other_change_the_leader_at_most_once() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(10).await?;
    for is_leader_parted in [true, false] {
        let leader = cluster.leader().await?;
        let others = cluster.pacemakers_but(&[leader]);
        let seen_by_both = if is_leader_parted { others[1] } else { leader };
        let one = if is_leader_parted { leader } else { others[1] };
        let before = cluster.term(leader).await?;

        cluster.network.part(one, others[0])?;
        lasts(QUIET).await;
        history.wait_for(20).await?;

        // Several terms can pass in one change of leader, when votes are split.
        let during = cluster.client_of(seen_by_both)?.cluster().await?;
        println!(
            "leader parted: {is_leader_parted}; term {before} before and {} during; leader {leader} before and {:?} during",
            during.term, during.leader
        );
        ensure!(
            during.term <= before + 2,
            "terms go by: {before} to {}",
            during.term
        );
        cluster.network.heal()?;
        cluster.leader().await?;
    }
    history.stop().await.check(&clients).await?;
    cluster.passed();
    Ok(())
}
