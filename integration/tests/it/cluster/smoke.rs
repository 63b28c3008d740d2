//! A cluster is made, serves, and changes under load.

use anyhow::{Result, ensure};
use integration::{NamespaceCluster, TestApp};

use super::THREE;

#[tokio::test]
async fn three_machines_become_a_cluster_that_serves_and_changes_under_load() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    let mut application = TestApp::site("web", "one")?;
    application.set("/instances/0/quantity", 3.into())?;
    cluster.deploy(&application).await?;
    cluster.answers_through(&[1, 2, 3], "web").await?;
    let loads = [1, 2, 3].map(|machine| cluster.load(machine, "web", 2));

    for body in ["two", "three"] {
        application.file("site/index.html", body)?;
        cluster.deploy(&application).await?;
        for load in &loads {
            load.wait_for(200).await?;
        }
    }

    for load in loads {
        let tally = load.stop().await;
        tally.all_answered()?;
        ensure!(tally.bodies.contains_key("three"), "{tally:?}");
    }
    let nodes: std::collections::BTreeSet<_> = cluster
        .instances("web")
        .await?
        .iter()
        .map(|instance| instance.node)
        .collect();
    ensure!(nodes.len() == 3, "instances are spread over {nodes:?}");
    let status = cluster.client()?.cluster_status().await?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    cluster.pm(&["cluster", "status"]).await?.success()?;
    cluster.pm(&["node", "list"]).await?.success()?;
    cluster.passed();
    Ok(())
}
