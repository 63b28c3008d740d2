//! Disks that lose what was not flushed, fail, are slow, full or damaged: R3, E1, E2, E3, E4.
//!
//! Each pacemaker has a file system of its own; see `integration::Disk` for how faults are made.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::{History, NamespaceCluster, Writing, eventually};
use tokio::time::Instant;

use super::pacemakers::clients;
use super::{CHANGES_MAX, PACEMAKERS, lasts};

/// A young log, a snapshot, and the reserve that a pacemaker keeps.
const MEBIBYTES: u64 = 96;
/// Less than that reserve, and room enough for what is under way.
const LEFT_MEBIBYTES: u64 = 12;
/// Written by the test and never flushed: it is gone after a power cut, or the disk is no such disk.
const UNFLUSHED: &str = "never-flushed";
/// What a cluster keeps, shared by the rounds.
const WRITES_OF_A_ROUND: usize = 200;
/// What a slow disk of another may cost a write, on a machine that runs other tests too.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// Many times an election's timeout.
const STALLED: Duration = Duration::from_secs(4);
/// What a write may take while the disk of the leader is slow: a few flushes, or one election.
const SLOW: Duration = Duration::from_secs(5);

#[tokio::test]
async fn r3_power_loss_on_one_two_or_all_machines_loses_nothing_acknowledged() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_on_disks(&PACEMAKERS, MEBIBYTES).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let mut records = Vec::new();
    for count in [1, 2, 3] {
        let leader = cluster.leader().await?;
        let term = cluster.term(leader).await?;
        let mut victims = vec![leader];
        victims.extend(cluster.pacemakers_but(&[leader]));
        victims.truncate(count);
        let writing = Writing::burst(&format!("round-{count}"), WRITES_OF_A_ROUND);
        let history = History::start(&clients, &writing);
        history.wait_for(40).await?;
        // A new name each time: what takes the place of a file that is there is written out when it is
        // closed (ext4's `auto_da_alloc`).
        let unflushed = format!("{UNFLUSHED}-{count}");
        for victim in &victims {
            std::fs::write(cluster.on_disk(*victim, &unflushed)?, "lost")?;
        }

        cluster.lose_power(&victims).await?;
        if count > 1 {
            // Nobody could acknowledge anything any more.
            records.push(history.stop().await);
        } else {
            history.done().await?;
            records.push(history.stop().await);
        }
        for victim in victims.iter().rev() {
            cluster.restore_power(*victim)?;
        }
        cluster.all_take_part().await?;

        for victim in &victims {
            // Its name may have gone to the disk with what the pacemaker flushed; its content has not.
            let kept = std::fs::read(cluster.on_disk(*victim, &unflushed)?);
            let is_kept = kept.is_ok_and(|kept| !kept.is_empty());
            ensure!(!is_kept, "the disk kept what was never flushed");
        }
        let leader = cluster.leader().await?;
        ensure!(cluster.term(leader).await? >= term, "a term was forgotten");
        for record in &records {
            record.check(&clients).await?;
        }
    }
    let acknowledged: usize = records.iter().map(integration::Record::count).sum();
    println!("{acknowledged} writes were acknowledged, and all of them are there");
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn e1_a_pacemaker_whose_disk_fails_ends_and_nothing_acknowledged_is_lost() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_on_disks(&PACEMAKERS, MEBIBYTES).await? else {
        return Ok(());
    };
    let clients = clients(&cluster)?;
    let history = History::start(&clients, &Writing::steady("kept"));
    history.wait_for(10).await?;
    for is_leader in [false, true] {
        let leader = cluster.leader().await?;
        let others = cluster.pacemakers_but(&[leader]);
        let victim = if is_leader { leader } else { others[0] };

        let failed = Instant::now();
        cluster.fail_disk(victim)?;
        // It takes no part with what it cannot write; a service would start it again.
        cluster.agent_ends(victim).await?;
        println!(
            "the leader's: {is_leader}; its pacemaker ended after {:?}",
            failed.elapsed()
        );
        cluster
            .leader_among(&cluster.pacemakers_but(&[victim]))
            .await?;
        history.wait_for(10).await?;
        cluster.disk_is_free(victim).await?;
        cluster.start_agent(victim)?;
        cluster.all_take_part().await?;
        cluster.has_caught_up(victim).await?;
    }
    history.stop().await.check(&clients).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn e2_a_pacemaker_whose_log_is_damaged_stays_out_and_the_others_go_on() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start(&PACEMAKERS).await? else {
        return Ok(());
    };
    let leader = cluster.leader().await?;
    let damaged = cluster.pacemakers_but(&[leader])[0];
    let others = cluster.pacemakers_but(&[damaged]);
    let rest: Vec<_> = others
        .iter()
        .map(|machine| cluster.client_of(*machine))
        .collect::<Result<_>>()?;
    let history = History::start(&rest, &Writing::steady("kept"));
    history.wait_for(20).await?;

    // Every page has a bit that turned: whatever it reads first is damaged.
    cluster.kill_agent(damaged)?;
    let log = cluster.data(damaged).join("pacemaker/raft/0000000001.log");
    let whole = std::fs::read(&log).context("reading the log")?;
    let file = std::fs::File::options().write(true).open(&log)?;
    for (page, at) in (512..whole.len()).step_by(4096).enumerate() {
        let bit = 1 << (page % 8);
        file.write_all_at(&[whole[at] ^ bit], u64::try_from(at)?)?;
    }
    cluster.start_agent(damaged)?;

    cluster.agent_ends(damaged).await?;
    let said = cluster.data(damaged).with_file_name("agent.log");
    let said = std::fs::read_to_string(said)?;
    ensure!(said.contains("damaged"), "it does not say why it ended");
    history.wait_for(20).await?;
    cluster.leader_among(&others).await?;

    // With its own disk as it was, it goes on where it was.
    std::fs::write(&log, whole)?;
    cluster.start_agent(damaged)?;
    cluster.all_take_part().await?;
    history.stop().await.check(&clients(&cluster)?).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn e3_a_follower_whose_disk_stalls_slows_nobody() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_on_disks(&PACEMAKERS, MEBIBYTES).await? else {
        return Ok(());
    };
    let all = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let term = cluster.term(leader).await?;
    let slow = cluster.pacemakers_but(&[leader])[0];
    let leading = [cluster.client_of(leader)?];
    let history = History::start(&leading, &Writing::steady("kept"));
    let begun = Instant::now();
    history.wait_for(60).await?;

    let stalled = Instant::now();
    let stall = cluster.stall_disk(slow)?;
    lasts(STALLED).await;
    history.wait_for(60).await?;
    drop(stall);
    let crawls = Instant::now();
    let stall = cluster.slow_disk(slow)?;
    history.wait_for(60).await?;
    lasts(STALLED).await;
    drop(stall);
    let ended = Instant::now();

    let record = history.stop().await;
    let before = record.median(begun, stalled).context("writes before")?;
    let during = record.median(stalled, crawls).context("writes during")?;
    let slowly = record.median(crawls, ended).context("writes during")?;
    println!(
        "median {before:?} before, {during:?} beside a stalled disk, {slowly:?} beside a slow one"
    );
    ensure!(during <= UNDISTURBED && slowly <= UNDISTURBED);
    let leads = cluster.leader().await?;
    let changes = cluster.term(leads).await?.saturating_sub(term);
    ensure!(changes <= CHANGES_MAX, "{changes} terms went by");
    cluster.has_caught_up(slow).await?;
    record.check(&all).await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn e3_a_leader_whose_disk_is_slow_costs_at_most_one_election() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_on_disks(&PACEMAKERS, MEBIBYTES).await? else {
        return Ok(());
    };
    let all = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let term = cluster.term(leader).await?;
    let history = History::start(&all, &Writing::steady("kept"));
    history.wait_for(20).await?;

    let slowed = Instant::now();
    let stall = cluster.slow_disk(leader)?;
    history.wait_for(20).await?;
    lasts(STALLED).await;
    let during = cluster.leader().await?;
    let terms = cluster.term(during).await? - term;
    drop(stall);
    let ended = Instant::now();

    history.wait_for(20).await?;
    let record = history.stop().await;
    let slowest = record.slowest(slowed, ended).context("writes during")?;
    println!(
        "machine {leader} led, and {during} does after {terms} terms; a write took {:?} in the middle and {slowest:?} at most",
        record.median(slowed, ended)
    );
    // Several terms can pass in one change of leader, when votes are split.
    ensure!(terms <= 2, "{terms} terms went by");
    ensure!(slowest <= SLOW, "a write took {slowest:?}");
    record.check(&all).await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

#[tokio::test]
async fn e4_a_full_disk_of_a_follower_or_of_the_leader_is_well_when_there_is_room() -> Result<()> {
    let Some(mut cluster) = NamespaceCluster::start_on_disks(&PACEMAKERS, MEBIBYTES).await? else {
        return Ok(());
    };
    let all = clients(&cluster)?;
    let leader = cluster.leader().await?;
    let follower = cluster.pacemakers_but(&[leader])[0];
    let leading = [cluster.client_of(leader)?];
    let first = History::start(&leading, &Writing::burst("first", WRITES_OF_A_ROUND));

    // A follower cannot say no to what is committed: it ends, and nobody else notices.
    cluster.fill_disk(follower, 0)?;
    first.done().await?;
    let first = first.stop().await;
    cluster.agent_ends(follower).await?;
    let others = cluster.pacemakers_but(&[follower]);
    let leads = cluster.leader_among(&others).await?;
    ensure!(leads == leader, "the leader has changed");
    cluster.disk_is_free(follower).await?;
    cluster.empty_disk(follower)?;
    cluster.start_agent(follower)?;
    cluster.all_take_part().await?;
    cluster.has_caught_up(follower).await?;

    // A leader takes nothing in long before that, says so, and needs no restart.
    cluster.fill_disk(leader, LEFT_MEBIBYTES)?;
    eventually("changes are refused in words", || async {
        let refused = cluster.pm(&["workspace", "create", "one-more"]);
        let refused = refused.await.ok()?;
        (refused.code == Some(1) && refused.stderr.contains("disk")).then_some(())
    })
    .await?;
    cluster.empty_disk(leader)?;
    eventually("changes are taken again", || async {
        let taken = cluster
            .pm(&["workspace", "create", "one-more"])
            .await
            .ok()?;
        (taken.code == Some(0)).then_some(())
    })
    .await?;
    let second = History::start(&all, &Writing::burst("second", WRITES_OF_A_ROUND));
    second.done().await?;
    second.stop().await.check(&all).await?;
    first.check(&all).await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}
