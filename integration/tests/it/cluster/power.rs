//! Power that goes everywhere at once, and comes back in any order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use integration::{History, NamespaceCluster, Writing};

use super::pacemakers::clients;
use super::{THREE, lasts, servers};

/// How long the first machine is alone when power comes back bit by bit.
const ALONE: Duration = Duration::from_secs(4);
/// What a cluster keeps, shared by the rounds.
const WRITES_OF_ALL_ROUNDS: usize = 800;
/// Of those of a round, how many are acknowledged when others are under way.
const WRITES_BEFORE_THE_CUT: usize = 16;
/// In a row.
const CYCLES: usize = 10;
/// Says how many cycles there are, where ten are too many.
const CYCLES_VARIABLE: &str = "PM_TEST_POWER_CYCLES";
/// In this order power comes back, one after the other.
const ORDERS: [[u8; 3]; 3] = [[1, 2, 3], [3, 2, 1], [2, 3, 1]];

fn cycles() -> usize {
    let told = std::env::var(CYCLES_VARIABLE).ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

#[tokio::test]
async fn power_that_is_cut_ten_times_in_a_row_comes_back_to_a_cluster_that_serves() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(3)?).await?;
    cluster.answers_through(&[1, 2, 3], "web").await?;
    let clients = clients(&cluster)?;
    let mut records = Vec::new();
    let cycles = cycles();
    for (round, order) in ORDERS.into_iter().cycle().take(cycles).enumerate() {
        let load = cluster.load(2, "web", 2);
        load.wait_for(20).await?;
        let writing = Writing {
            most: WRITES_OF_ALL_ROUNDS / cycles,
            ..Writing::steady(&format!("round-{round}"))
        };
        let history = History::start(&clients, &writing);
        history.wait_for(WRITES_BEFORE_THE_CUT).await?;

        cluster.cut_power(&[1, 2, 3])?;
        let record = history.stop().await;
        load.stop().await;
        let restored = Instant::now();
        for (step, machine) in order.into_iter().enumerate() {
            cluster.restore_power(machine)?;
            // In the second cycle the others come when the first has long been waiting.
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
