//! Machines that come, go, or are not who they seem: R11, R12, S3.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::{History, NamespaceCluster, Writing, eventually};

use super::pacemakers::clients;
use super::{PACEMAKERS, PARTED, lasts, servers};

/// How long it is listened to those who have nothing to say any more.
const QUIET: Duration = Duration::from_secs(6);
/// Warnings of five machines in that time; two that knock twice a second would make two dozen.
const LOUD_MAX: usize = 6;

/// Warnings and errors in the logs of all machines, those that were removed included.
fn loud_lines(cluster: &NamespaceCluster) -> Result<usize> {
    let mut count = 0;
    for machine in 1..=5 {
        let log = std::fs::read_to_string(cluster.data(machine).join("pm.log"))?;
        let is_loud = |line: &&str| line.contains("WARN") || line.contains("ERROR");
        count += log.lines().filter(is_loud).count();
    }
    Ok(count)
}

#[tokio::test]
async fn s3_a_machine_that_was_removed_while_it_was_away_stops_what_it_runs() -> Result<()> {
    let Some(cluster) = NamespaceCluster::start(&PARTED).await? else {
        return Ok(());
    };
    cluster.deploy(&servers(4)?).await?;
    let away = 5;
    cluster.network.unplug(away)?;
    cluster.runs_exactly("web", 4, &[away]).await?;
    ensure!(cluster.servers_alive(&[away])? > 0, "nothing runs there");
    let node = cluster.node(away)?.to_string();
    cluster.pm(&["node", "remove", &node]).await?.success()?;

    let back = Instant::now();
    cluster.network.plug(away)?;

    eventually("the machine stops what it runs", || async {
        (cluster.servers_alive(&[away]).ok()? == 0).then_some(())
    })
    .await?;
    println!("nothing runs there {:?} after its return", back.elapsed());
    cluster.has_servers(4).await?;
    cluster.answers_through(&[4], "web").await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r11_pacemakers_come_and_go_and_nothing_is_lost() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_with_room(&["pacemaker"], 4).await? else {
        return Ok(());
    };
    let history = History::start(&[cluster.client_of(1)?], &Writing::steady("kept"));
    for machines in [[2, 3], [4, 5]] {
        for machine in machines {
            let token = cluster.make_token("pacemaker").await?;
            cluster.join(machine, "pacemaker", &token)?;
        }
        cluster.all_take_part().await?;
        history.wait_for(10).await?;
    }
    // One dies while another is taken out; the group has an odd number at the end again.
    let leader = cluster.leader().await?;
    let others = cluster.pacemakers_but(&[leader]);
    let (dies, removed) = (others[0], [others[1], others[2]]);
    cluster.kill_agent(dies)?;
    for machine in removed {
        let node = cluster.node(machine)?.to_string();
        let said = cluster.pm(&["cluster", "remove", &node]).await?;
        said.success()?;
        cluster.forget(machine);
    }
    cluster.start_agent(dies)?;
    cluster.all_voters_are(3).await?;

    // The two that were removed still run, and cannot disturb.
    let leader = cluster.leader().await?;
    let term = cluster.term(leader).await?;
    let loud = loud_lines(&cluster)?;
    lasts(QUIET).await;
    let louder = loud_lines(&cluster)? - loud;
    ensure!(louder <= LOUD_MAX, "{louder} warnings in {QUIET:?}");
    let record = {
        let later = History::start(&clients(&cluster)?, &Writing::burst("later", 50));
        later.done().await?;
        later.stop().await
    };
    ensure!(cluster.leader().await? == leader && cluster.term(leader).await? == term);
    record.check(&clients(&cluster)?).await?;
    history.stop().await.check(&clients(&cluster)?).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn r12_a_pacemaker_of_another_cluster_is_not_listened_to() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let replaced = cluster.pacemakers_but(&[leader])[0];
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(10).await?;
    let before = cluster.client()?.cluster().await?;

    // Another cluster's founder answers at the address of a member.
    cluster.kill_agent(replaced)?;
    let data = cluster.data(replaced);
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside)?;
    cluster.found_another(replaced).await?;
    cluster.start_agent(replaced)?;
    history.wait_for(20).await?;

    let after = cluster.client_of(leader)?.cluster().await?;
    ensure!((after.term, after.leader) == (before.term, before.leader));
    let status = cluster.client_of(leader)?.cluster_status().await?;
    let node = cluster.node(replaced)?;
    let member = status.members.iter().find(|member| member.node == node);
    ensure!(!member.context("it is still a member")?.is_reachable);

    // The right one comes back.
    cluster.kill_agent(replaced)?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&aside, &data)?;
    cluster.start_agent(replaced)?;
    eventually("all agree again", || async { cluster.leader().await.ok() }).await?;
    history.stop().await.check(&clients).await?;
    cluster.passed();
    Ok(())
}
