//! Pacemakers that do not see each other: R4, R5, R6, R7.

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
/// Between two links that clog or clear: less than an election takes.
const CLOGGED: Duration = Duration::from_millis(300);
/// After the last link is clear, writes are acknowledged again within this.
const HEALS_WITHIN: Duration = Duration::from_secs(5);
/// Rounds of links that clog and clear.
const ROUNDS: u64 = 4;
/// Writes of a round: a cluster keeps 1,000 workspaces.
const WRITES_OF_A_ROUND: usize = 200;

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

/// The links of three machines in an order that a number decides.
fn shuffled(mut chance: u64) -> Vec<(u8, u8)> {
    let mut links: Vec<(u8, u8)> = (1..=3)
        .flat_map(|from| (1..=3).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect();
    let mut order = Vec::new();
    while !links.is_empty() {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let count = u64::try_from(links.len()).unwrap_or(1);
        let at = usize::try_from((chance >> 33) % count).unwrap_or_default();
        order.push(links.swap_remove(at));
    }
    order
}

/// What is seen throughout is checked at the end: every acknowledged write is there, once, everywhere.
#[tokio::test]
async fn r7_links_that_clog_one_by_one_and_clear_in_any_order_heal_cleanly() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let mut records = Vec::new();
    for round in 0..ROUNDS {
        let writing = Writing::burst(&format!("round-{round}"), WRITES_OF_A_ROUND);
        let history = History::start(&clients, &writing);
        history.wait_for(10).await?;
        let mut clogged = Vec::new();
        for link in shuffled(2 * round) {
            clogged.push(link);
            cluster.network.clog(&clogged)?;
            lasts(CLOGGED).await;
        }
        for link in shuffled(2 * round + 1) {
            clogged.retain(|other| *other != link);
            cluster.network.clog(&clogged)?;
            lasts(CLOGGED).await;
        }

        let cleared = Instant::now();
        let probe = Writing::burst(&format!("healed-{round}"), 20);
        let healed = History::start(&clients, &probe);
        healed.wait_for(1).await?;
        println!(
            "round {round}: a write {:?} after the last link cleared",
            cleared.elapsed()
        );
        ensure!(cleared.elapsed() <= HEALS_WITHIN, "{:?}", cleared.elapsed());
        healed.done().await?;
        history.done().await?;
        cluster.leader().await?;
        records.extend([history.stop().await, healed.stop().await]);
    }
    for record in records {
        record.check(&clients).await?;
    }
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}
