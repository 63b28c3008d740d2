//! Power that goes everywhere at once, and comes back in any order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use integration::{History, NamespaceCluster, Writing};

use super::pacemakers::clients;
use super::{THREE, lasts, servers};

/// How long the first machine is alone when power comes back bit by bit.
const ALONE: Duration = Duration::from_secs(4);
/// What a cluster keeps, shared by the rounds.
const WRITES_OF_A_ROUND: usize = 200;

#[tokio::test]
async fn a_cluster_whose_power_is_cut_comes_back_by_itself() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(3)?).await?;
    cluster.answers_through(&[1, 2, 3], "web").await?;
    let clients = clients(&cluster)?;
    let mut records = Vec::new();
    for (round, order) in [[1, 2, 3], [3, 2, 1], [2, 3, 1]].into_iter().enumerate() {
        let load = cluster.load(2, "web", 2);
        let writing = Writing::burst(&format!("round-{round}"), WRITES_OF_A_ROUND);
        let history = History::start(&clients, &writing);
        load.wait_for(20).await?;
        history.wait_for(20).await?;

        cluster.cut_power(&[1, 2, 3])?;
        let record = history.stop().await;
        load.stop().await;
        let restored = Instant::now();
        for (step, machine) in order.into_iter().enumerate() {
            cluster.restore_power(machine)?;
            // The second round: the others come when the first has long been waiting.
            if round == 1 && step == 0 {
                lasts(ALONE).await;
                cluster.all_agents_run_of(&[machine])?;
            }
        }
        cluster
            .answers_through(&[1, 2, 3], "web")
            .await
            .with_context(|| format!("round {round}, started in the order {order:?}"))?;
        println!(
            "round {round}: it serves {:?} after the power",
            restored.elapsed()
        );
        cluster.all_take_part().await?;
        cluster.runs_exactly("web", 3, &[]).await?;
        cluster.has_servers(3).await?;
        records.push(record);
        for record in &records {
            record.check(&clients).await?;
        }
    }
    cluster.passed();
    Ok(())
}
