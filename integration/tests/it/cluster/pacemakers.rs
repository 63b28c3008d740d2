//! Pacemakers that die: R1, R2, R8.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::{History, NamespaceCluster, Record, Writing, eventually};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::{PACEMAKERS, lasts};

/// Rounds of a story that is told in continuous integration; more by the variable.
const ROUNDS: usize = 5;
/// Says how many rounds there are: 50 for a night.
const ROUNDS_VARIABLE: &str = "PM_TEST_ROUNDS";
/// A cluster keeps 1,000 workspaces.
const WRITES_OF_ALL_ROUNDS: usize = 900;
/// Longer than any failure detector waits.
const LONG: Duration = Duration::from_secs(5);

fn rounds() -> usize {
    std::env::var(ROUNDS_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS)
}

#[tokio::test]
async fn r1_killed_leaders_lose_nothing_that_was_acknowledged() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let rounds = rounds();
    let clients = clients(&cluster)?;
    let mut records: Vec<Record> = Vec::new();
    for round in 1..=rounds {
        let leader = cluster.leader().await?;
        let most = WRITES_OF_ALL_ROUNDS / rounds;
        // Of the writes of a short round, too, some begin after the kill.
        let writing = Writing {
            writers: (most / 4).clamp(1, 50),
            ..Writing::burst(&format!("round-{round}"), most)
        };
        let history = History::start(&clients, &writing);
        eventually("the burst is under way", || async {
            (history.acknowledged() * 4 >= writing.most).then_some(())
        })
        .await?;

        let killed = Instant::now();
        cluster.kill_agent(leader)?;
        history.done().await?;
        cluster
            .leader_among(&cluster.pacemakers_but(&[leader]))
            .await?;
        cluster.start_agent(leader)?;
        cluster.all_take_part().await?;

        let record = history.stop().await;
        println!(
            "round {round}: the first write after the kill took {:?}",
            record.first_after(killed)
        );
        records.push(record);
    }
    for record in records {
        record.check(&clients).await?;
    }
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r2_all_killed_in_a_burst_lose_nothing_that_was_acknowledged() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let mut records = Vec::new();
    for (round, order) in [[1, 2, 3], [3, 1, 2], [2, 3, 1]].into_iter().enumerate() {
        let writing = Writing::burst(&format!("round-{round}"), WRITES_OF_ALL_ROUNDS / 3);
        let history = History::start(&clients, &writing);
        eventually("the burst is under way", || async {
            (history.acknowledged() * 3 >= writing.most).then_some(())
        })
        .await?;

        cluster.kill_agents(&[1, 2, 3])?;
        let record = history.stop().await;
        let started = Instant::now();
        for machine in order {
            cluster.start_agent(machine)?;
        }
        cluster.all_take_part().await?;

        println!(
            "round {round}: {} writes; all took part {:?} after their start",
            record.count(),
            started.elapsed()
        );
        records.push(record);
        for record in &records {
            record.check(&clients).await?;
        }
    }
    let mut seen = None;
    for client in &clients {
        let all = (client.workspaces().await?, client.nodes().await?);
        ensure!(
            *seen.get_or_insert_with(|| all.clone()) == all,
            "states differ"
        );
    }
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r8_a_paused_leader_comes_back_as_a_follower_and_says_nothing_stale() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let others = cluster.pacemakers_but(&[leader]);
    let history = History::start(&clients, &Writing::steady("paused"));
    history.wait_for(10).await?;
    let before = cluster.term(leader).await?;

    cluster.signal_agent(leader, Signal::SIGSTOP)?;
    cluster.leader_among(&others).await?;
    history.wait_for(20).await?;
    lasts(LONG).await;
    let record = history.stop().await;
    cluster.signal_agent(leader, Signal::SIGCONT)?;

    // At once: what it answers has everything, or is an error.
    let old = cluster.client_of(leader)?;
    record
        .check(std::slice::from_ref(&old))
        .await
        .context("the paused leader answers what is stale")?;
    let after = cluster.leader().await?;
    ensure!(after != leader || cluster.term(leader).await? > before);
    cluster.all_agents_run()?;
    record.check(&clients).await?;
    cluster.passed();
    Ok(())
}

/// A client for each pacemaker.
pub(super) fn clients(cluster: &NamespaceCluster) -> Result<Vec<pacemaker_client::Client>> {
    cluster
        .with_role("pacemaker")
        .into_iter()
        .map(|machine| cluster.client_of(machine))
        .collect()
}
