//! Three pacemakers against three etcd on this machine: latency, throughput, and the time from the
//! death of the leader to the next accepted write. Run by `scripts/bench-raft`.
//!
//! `bench_raft [ROUNDS [KILLS [SECONDS_EACH [PLACEMENTS]]]]`; with `FORMER` in the environment, the
//! path of an older build of this program, its pacemakers take part too.
//!
//! All are asked through their HTTP APIs by the same client, always the leader's except after its
//! death. A write of etcd is a put of 256 bytes; ours is a node that describes itself anew, with as
//! many bytes of tags: both are one entry of the log, on the disks of a majority. Placements are
//! those of applications that are deployed to hearts that do nothing: what is measured is the way
//! from the plan through the log into the state.
#![expect(clippy::print_stdout, reason = "the table is the program's result")]

mod cluster;
mod failover;
mod placements;
mod table;
mod writes;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, System};
use crate::table::Table;

/// As in `pm`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.get(1).map(String::as_str) {
        Some("node") => runtime.block_on(cluster::node(&arguments[2..])),
        _ => runtime.block_on(compare(
            number(&arguments, 1, 7)?,
            number(&arguments, 2, 9)?,
            Duration::from_secs(number(&arguments, 3, 3)?),
            number(&arguments, 4, 50_000)?,
        )),
    }
}

fn number(arguments: &[String], at: usize, otherwise: u64) -> Fallible<u64> {
    Ok(arguments
        .get(at)
        .map_or(Ok(otherwise), |text| text.parse())?)
}

async fn compare(rounds: u64, kills: u64, time: Duration, placements: u64) -> Fallible<()> {
    let directory = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let former = std::env::var_os("FORMER").map(PathBuf::from);
    let mut systems = vec![System::Etcd];
    systems.extend(former.clone().map(System::Pacemaker));
    systems.push(System::Pacemaker(own));
    let table = Table::new(former.is_some());
    let mut clusters = Vec::new();
    for (number, system) in systems.iter().enumerate() {
        let place = directory.path().join(number.to_string());
        clusters.push(Arc::new(Cluster::start(system.clone(), &place).await?));
    }
    let ours = clusters.len() - 1;
    let term = clusters[ours].term().await?;
    table.head();
    writes::compare(&clusters, rounds, time, &table).await?;
    let elections = clusters[ours].term().await? - term;
    println!("elections of paasmaker while it was under load: {elections}");
    failover::compare(&mut clusters, kills, &table).await?;
    drop(clusters);
    if placements > 0 {
        placements::compare(&systems, directory.path(), placements, &table).await?;
    }
    Ok(())
}
