//! D1: with every pacemaker dead, what serves goes on serving.

use anyhow::{Result, ensure};
use integration::{NamespaceCluster, eventually};

use super::{PARTED, places, servers};

#[tokio::test]
async fn d1_without_pacemakers_no_request_fails_while_hearts_and_routers_restart() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PARTED).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(4)?).await?;
    cluster.answers_through(&[4, 5], "web").await?;
    let before = places(&cluster).await?;
    let through_four = cluster.load(4, "web", 4);
    through_four.wait_for(100).await?;

    cluster.kill_agents(&[1, 2, 3])?;
    through_four.wait_for(200).await?;
    // Killed, as a crash would, and ended in order, as an upgrade would.
    cluster.kill_agent(5)?;
    through_four.wait_for(100).await?;
    cluster.start_agent(5)?;
    cluster.answers_through(&[5], "web").await?;
    through_four.wait_for(200).await?;
    through_four.stop().await.all_answered()?;

    let through_five = cluster.load(5, "web", 4);
    through_five.wait_for(100).await?;
    cluster.end_agent(4).await?;
    through_five.wait_for(100).await?;
    cluster.start_agent(4)?;
    cluster.answers_through(&[4], "web").await?;
    through_five.wait_for(200).await?;

    // They come back, and nothing moves that need not move.
    for machine in [3, 2, 1] {
        cluster.start_agent(machine)?;
    }
    cluster.all_take_part().await?;
    let after = eventually("all instances are known to run", || async {
        let after = places(&cluster).await.ok()?;
        (after.len() == 4).then_some(after)
    })
    .await?;
    ensure!(before == after, "{before:?} became {after:?}");
    through_five.wait_for(200).await?;
    through_five.stop().await.all_answered()?;
    cluster.has_servers(4).await?;
    cluster.passed();
    Ok(())
}
