//! Placements per second, from the deployments to the last of them in the state.

use std::path::Path;
use std::time::{Duration, Instant};

use common::api::UPLOAD_OFFSET;
use common::digest::Digest;
use http::Method;
use pacemaker_client::UPLOAD_LENGTH;
use serde_json::{Value, json};

use crate::Fallible;
use crate::cluster::{Cluster, System, TRIES, pause};
use crate::table::Table;

/// Nodes that take instances.
const HEARTS: usize = 100;
/// The most that a manifest may ask of one type.
const INSTANCES_EACH: u64 = 1_000;
/// Times that it is measured, each on a new cluster.
const ROUNDS: usize = 3;
/// The source package's content.
const PACKAGE: &[u8] = b"nothing";

/// Prints what it found; etcd places nothing.
pub(crate) async fn compare(
    systems: &[System],
    directory: &Path,
    placements: u64,
    table: &Table,
) -> Fallible<()> {
    let mut found = vec![Vec::new(); systems.len()];
    for round in 0..ROUNDS {
        for (number, system) in systems.iter().enumerate() {
            let value = match system {
                System::Etcd => f64::NAN,
                System::Pacemaker(_) => {
                    let place = directory.join(format!("placements-{number}-{round}"));
                    let cluster = Cluster::start(system.clone(), &place).await?;
                    measure(&cluster, placements).await?
                }
            };
            found[number].push(value);
        }
    }
    table.row("placements/s", &found);
    Ok(())
}

async fn measure(cluster: &Cluster, placements: u64) -> Fallible<f64> {
    let leader = cluster.leader().await?;
    let mut hearts = Vec::new();
    for number in 0..HEARTS {
        hearts.push(register(cluster, leader, number).await?);
    }
    let digest = Digest::of(PACKAGE);
    let path = format!("/v1/packages/{digest}");
    let upload = cluster.ask(leader, Method::PUT, &path);
    let upload = upload.header(UPLOAD_OFFSET, 0);
    let upload = upload.header(UPLOAD_LENGTH, PACKAGE.len()).body(PACKAGE);
    upload.send().await?.error_for_status()?;
    let started = Instant::now();
    let applications = placements.div_ceil(INSTANCES_EACH);
    for number in 0..applications {
        let asked = cluster.ask(leader, Method::POST, "/v1/deployments");
        let deployment = json!({
            "workspace": "default", "source": digest, "promote": true,
            "manifest": manifest(number),
        });
        asked.json(&deployment).send().await?.error_for_status()?;
    }
    let wanted = applications * INSTANCES_EACH;
    let elapsed = placed(cluster, leader, &hearts, wanted, started).await?;
    let placed = u32::try_from(wanted)?;
    Ok(f64::from(placed) / elapsed.as_secs_f64())
}

async fn register(cluster: &Cluster, leader: usize, number: usize) -> Fallible<u64> {
    let description = json!({
        "key": format!("heart-{number}"), "name": format!("heart{number}"),
        "roles": ["heart"], "address": "127.0.0.1", "api": "http://127.0.0.1:1",
        "runtimes": { "paasmaker.runtime.shell": ["1"] },
    });
    let asked = cluster.ask(leader, Method::POST, "/v1/nodes");
    let answer = asked.json(&description).send().await?.error_for_status()?;
    let answer: Value = answer.json().await?;
    Ok(answer["node"].as_u64().ok_or("no number")?)
}

fn manifest(number: u64) -> String {
    format!(
        r#"
manifest: {{format: 1}}
application: {{name: application-{number}}}
instances:
  - name: web
    quantity: {INSTANCES_EACH}
    runtime:
      plugin: paasmaker.runtime.shell
      version: 1
      parameters: {{launch_command: "serve --port=%(port)d"}}
"#
    )
}

/// Waits until so many instances are placed; first until as many have been planned, because to
/// count them all takes the cluster's time.
async fn placed(
    cluster: &Cluster,
    leader: usize,
    hearts: &[u64],
    wanted: u64,
    started: Instant,
) -> Fallible<Duration> {
    for _ in 0..TRIES {
        if planned(cluster, leader).await? >= wanted {
            let mut sum = 0;
            for heart in hearts {
                let path = format!("/v1/nodes/{heart}");
                let view = cluster.ask(leader, Method::GET, &path).send().await?;
                let view: Value = view.error_for_status()?.json().await?;
                sum += view["instances"].as_u64().ok_or("no count")?;
            }
            if sum >= wanted {
                return Ok(started.elapsed());
            }
        }
        pause().await;
    }
    Err("not everything is placed".into())
}

async fn planned(cluster: &Cluster, leader: usize) -> Fallible<u64> {
    let metrics = cluster.ask(leader, Method::GET, "/metrics").send().await?;
    let text = metrics.error_for_status()?.text().await?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("pm_pacemaker_actions_total "));
    Ok(line.ok_or("no count of actions")?.trim().parse()?)
}
