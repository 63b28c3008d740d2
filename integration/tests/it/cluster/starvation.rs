//! E6: other work takes the processors, and nobody is declared dead for it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{NamespaceCluster, eventually};

use super::{CHANGES_MAX, THREE, lasts, places, servers};

/// How long the machine is starved.
const STARVED: Duration = Duration::from_secs(12);

/// Busy loops, two for each core; they end when this is dropped.
struct Loops(Vec<Child>);

impl Loops {
    fn start() -> Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        let mut loops = Self(Vec::new());
        for _ in 0..cores * 2 {
            let child = Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()?;
            loops.0.push(child);
        }
        Ok(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[tokio::test]
async fn e6_a_starved_machine_changes_no_leader_and_loses_no_node() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(3)?).await?;
    let leader = cluster.leader().await?;
    let term = cluster.term(leader).await?;
    let before = places(&cluster).await?;

    let loops = Loops::start()?;
    lasts(STARVED).await;
    drop(loops);

    let leads = cluster.leader().await?;
    let changes = cluster.term(leads).await?.saturating_sub(term);
    println!("machine {leader} led, and {leads} does after {changes} further terms");
    ensure!(changes <= CHANGES_MAX, "{changes} terms went by");
    let after = eventually("the instances are read", || async {
        places(&cluster).await.ok()
    })
    .await?;
    ensure!(before == after, "{before:?} became {after:?}");
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}
