//! H8: an exclusive type never runs twice, whatever its machine does.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use integration::{NamespaceCluster, TestApp};
use nix::sys::signal::Signal;
use serde_json::json;

use super::THREE;

/// An application of which one process at most may be alive, and the file that says when two were.
pub(super) fn exclusive(cluster: &NamespaceCluster) -> Result<(TestApp, PathBuf)> {
    let lock = cluster.directory().join("exclusive.lock");
    let mut application = TestApp::server("web", "body")?;
    application.set("/instances/0/exclusive", true.into())?;
    // Nobody waits for it when the machine is silent: the lease that it has ends sooner.
    application.set("/instances/0/stop", json!({ "grace": "60s" }))?;
    application.set("/instances/0/env", json!({ "EXCLUSIVE_LOCK": lock }))?;
    Ok((
        application,
        cluster.directory().join("exclusive.lock.taken"),
    ))
}

/// The machine that the only instance is on.
async fn place(cluster: &NamespaceCluster) -> Result<u8> {
    let instances = cluster.instances("web").await?;
    let instance = instances.first().context("there is an instance")?;
    cluster.machine_of(instance.node)
}

#[tokio::test]
async fn h8_an_exclusive_instance_that_is_cut_off_ends_before_its_successor_starts() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    let (application, taken) = exclusive(&cluster)?;
    cluster.deploy(&application).await?;
    let cut = place(&cluster).await?;

    let began = Instant::now();
    cluster.network.unplug(cut)?;
    cluster.runs_exactly("web", 1, &[cut]).await?;
    println!("replaced after {:?}", began.elapsed());
    ensure!(cluster.servers_alive(&[cut])? == 0);
    cluster.network.plug(cut)?;
    cluster.answers_through(&[1, 2, 3], "web").await?;

    cluster.has_servers(1).await?;
    ensure!(!taken.exists(), "two were alive at the same time");
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn h8_an_exclusive_instance_of_a_paused_heart_ends_before_its_successor_starts() -> Result<()>
{
    let Some(mut cluster) = NamespaceCluster::start(&THREE).await? else {
        return Ok(());
    };
    let (application, taken) = exclusive(&cluster)?;
    cluster.deploy(&application).await?;
    let paused = place(&cluster).await?;

    let began = Instant::now();
    cluster.signal_agent(paused, Signal::SIGSTOP)?;
    cluster.runs_exactly("web", 1, &[paused]).await?;
    println!("replaced after {:?}", began.elapsed());
    cluster.signal_agent(paused, Signal::SIGCONT)?;
    cluster.answers_through(&[1, 2, 3], "web").await?;

    cluster.has_servers(1).await?;
    ensure!(!taken.exists(), "two were alive at the same time");
    cluster.passed();
    Ok(())
}
