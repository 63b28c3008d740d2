//! Clusters of machines that lose machines and nothing else: the cases of the catalogue of faults,
//! each a test that is named after its case.

mod clocks;
mod crons;
mod data_plane;
mod death;
mod disks;
mod drain;
mod exclusive;
mod membership;
mod pacemakers;
mod partition;
mod power;
mod smoke;
mod starvation;
mod stragglers;

use std::time::Duration;

use anyhow::Result;
use integration::{NamespaceCluster, TestApp};

/// Three machines that each do everything.
const THREE: [&str; 3] = [integration::ALL_ROLES; 3];
/// Three pacemakers, and two machines that serve.
const PARTED: [&str; 5] = [
    "pacemaker",
    "pacemaker",
    "pacemaker",
    "heart,router",
    "heart,router",
];
/// Three pacemakers and nothing else.
const PACEMAKERS: [&str; 3] = ["pacemaker"; 3];

/// Terms that other work on the same cores may cost. None is the goal. A build without optimisation
/// needs several times the processor, and shares it with the tests that run beside.
const CHANGES_MAX: u64 = if cfg!(debug_assertions) { 1 } else { 0 };

/// The application `web` with so many Python servers.
fn servers(quantity: u32) -> Result<TestApp> {
    let mut application = TestApp::server("web", "body")?;
    application.set("/instances/0/quantity", quantity.into())?;
    Ok(application)
}

/// Lets time pass that is the test's input: a fault of this length.
async fn lasts(time: Duration) {
    tokio::time::timeout(time, std::future::pending::<()>())
        .await
        .ok();
}

/// The instances' numbers and processes: the same as before when nothing moved.
async fn places(cluster: &NamespaceCluster) -> Result<Vec<(u64, Option<u32>)>> {
    let mut found: Vec<_> = cluster
        .instances("web")
        .await?
        .iter()
        .map(|instance| (instance.id.0, instance.pid))
        .collect();
    found.sort_unstable();
    Ok(found)
}
