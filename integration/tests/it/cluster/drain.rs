//! A machine is emptied, and no client sees it.

use anyhow::{Context as _, Result};
use integration::{NamespaceCluster, eventually};

use super::{THREE, servers};

#[tokio::test]
async fn a_drained_machine_is_emptied_and_no_request_fails() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(4)?).await?;
    cluster.answers_through(&[1, 2, 3], "web").await?;
    let instance = cluster.instances("web").await?;
    let instance = instance.first().context("there are instances")?;
    let drained = cluster.machine_of(instance.node)?;
    let number = instance.node.to_string();
    let others = cluster.pacemakers_but(&[drained]);
    let loads: Vec<_> = [drained, others[0]]
        .map(|machine| cluster.load(machine, "web", 4))
        .into();
    for load in &loads {
        load.wait_for(50).await?;
    }

    cluster.pm(&["node", "drain", &number]).await?.success()?;
    cluster.runs_exactly("web", 4, &[drained]).await?;
    eventually("the machine is empty", || async {
        (cluster.servers_alive(&[drained]).ok()? == 0).then_some(())
    })
    .await?;
    for load in &loads {
        load.wait_for(50).await?;
    }

    for load in loads {
        load.stop().await.all_answered()?;
    }
    cluster.pm(&["node", "undrain", &number]).await?.success()?;
    cluster.passed();
    Ok(())
}
