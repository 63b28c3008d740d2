//! Static stability: with the pacemaker dead only change stops.

use anyhow::Result;
use integration::{Cluster, DevProcess, TestApp, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_restarts_go_on_without_a_pacemaker() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut application = TestApp::server("steady", "body")?;
    application.set("/instances/0/quantity", 2.into())?;
    cluster
        .pm(&["deploy", application.argument()?])
        .await?
        .success()?;
    let host = DevProcess::host("steady");
    let load = cluster.load(&host, 2);
    load.wait_for(100).await?;

    cluster.stop_pacemaker().await?;
    load.wait_for(200).await?;
    load.stop().await.all_answered()?;
    // One instance ends; the request that ended it is answered by nobody.
    let ended = cluster.get(&host, "/instance").await?.text();
    cluster.get(&host, "/exit").await.ok();
    eventually(
        "all instances answer, one of them newly started",
        || async {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..20 {
                let answer = cluster.get(&host, "/instance").await.ok()?;
                seen.insert(answer.text());
            }
            (seen.len() == 2).then_some(())
        },
    )
    .await?;

    // Heart and router restart too, and still nobody has told them anything.
    cluster.stop_heart().await?;
    cluster.stop_router().await?;
    cluster.start_heart().await?;
    cluster.start_router().await?;
    eventually("the router serves from its disk", || async {
        (cluster.get(&host, "/").await.ok()?.status == 200).then_some(())
    })
    .await?;

    cluster.start_pacemaker().await?;
    application.file("body.txt", "after")?;
    eventually("change is possible again", || async {
        let said = cluster
            .pm(&["deploy", application.argument().ok()?])
            .await
            .ok()?;
        said.success().ok()
    })
    .await?;
    assert_eq!(cluster.get(&host, "/").await?.text(), "after");
    assert!(!ended.is_empty());
    cluster.finish().await
}
