//! E5: one machine's time of day is set by a day, and nobody else has to notice.

use anyhow::{Context as _, Result, ensure};
use integration::{History, NamespaceCluster, Writing, eventually};

use super::exclusive::exclusive;
use super::pacemakers::clients;
use super::{PACEMAKERS, THREE, servers};

/// In seconds; as long as a certificate lives.
const DAY: i64 = 24 * 3_600;

#[tokio::test]
async fn e5_commits_go_on_when_a_pacemakers_clock_is_set() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_with_clocks(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(10).await?;
    for (is_leader, ahead) in [(false, DAY), (false, -DAY), (true, -DAY), (true, DAY)] {
        let leader = cluster.leader().await?;
        let others = cluster.pacemakers_but(&[leader]);
        let set = if is_leader { leader } else { others[0] };

        cluster.set_clock(set, ahead)?;
        history
            .wait_for(20)
            .await
            .with_context(|| format!("the leader's: {is_leader}; by {ahead} s"))?;
        cluster.set_clock(set, 0)?;

        history.wait_for(10).await?;
        cluster.leader().await?;
    }
    history.stop().await.check(&clients).await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn e5_a_machine_whose_clock_is_set_runs_nothing_twice_and_loses_no_request() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_with_clocks(&THREE).await? else {
        return Ok(());
    };
    let (mut single, taken) = exclusive(&cluster)?;
    single.set("/application/name", "single".into())?;
    cluster.deploy(&single).await?;
    cluster.deploy(&servers(3)?).await?;
    cluster.answers_through(&[1, 2, 3], "web").await?;
    cluster.answers_through(&[1, 2, 3], "single").await?;
    let loads = [1, 2, 3].map(|machine| cluster.load(machine, "web", 2));
    for ahead in [DAY, -DAY] {
        let leader = cluster.leader().await?;
        let place = cluster.instances("single").await?;
        let place = place.first().context("there is an instance")?;
        let holder = cluster.machine_of(place.node)?;
        for machine in [leader, holder] {
            cluster.set_clock(machine, ahead)?;
            for load in &loads {
                load.wait_for(500).await?;
            }
            ensure!(!taken.exists(), "two were alive at the same time");
            cluster.set_clock(machine, 0)?;
            cluster.all_take_part().await?;
        }
    }

    // Three of the one and one of the other, wherever they are in the end.
    cluster.runs_exactly("web", 3, &[]).await?;
    cluster.runs_exactly("single", 1, &[]).await?;
    cluster.has_servers(4).await?;
    for load in loads {
        load.stop().await.all_answered()?;
    }
    ensure!(!taken.exists(), "two were alive at the same time");
    let client = cluster.client()?;
    let well = eventually("all is well", || async {
        let status = client.cluster_status().await.ok()?;
        status.problems.is_empty().then_some(())
    });
    if let Err(error) = well.await {
        let status = client.cluster_status().await?;
        return Err(error.context(status.problems.join("\n")));
    }
    cluster.passed();
    Ok(())
}
