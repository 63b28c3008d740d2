//! Crons while leaders are paused, cut off and killed around a minute: C1, C2, and H8's rule that
//! nothing is a stale leader's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use common::api::{CronRunState, CronRunView};
use common::id::NodeId;
use integration::{Call, NamespaceCluster, Receiver, Slot, eventually};
use nix::sys::signal::Signal;
use serde_json::json;

/// Five pacemakers, so that two can be wrong at once, and the machine that is called.
const MACHINES: [&str; 6] = [
    "pacemaker",
    "pacemaker",
    "pacemaker",
    "pacemaker",
    "pacemaker",
    "heart",
];
const CHORES: &str = "chores";
/// What is done before the minute takes less, also on two busy cores.
const PREPARATION: Duration = Duration::from_secs(20);
/// The first leader is paused so long before the minute that another leads when it begins.
const PAUSED: Duration = Duration::from_secs(4);
/// The second is cut off so shortly before it that it still believes to lead; the cutting itself
/// takes a moment.
const CUT_OFF: Duration = Duration::from_millis(400);
/// How long those that were away are listened to after they are back.
const TEMPTED: Duration = Duration::from_secs(2);
/// Crons of a kind: one alone may slip between two faults.
const OF_A_KIND: usize = 10;

fn chores(slot: Slot) -> Result<Receiver> {
    let mut receiver = Receiver::new(CHORES)?;
    let at = slot.runspec();
    for number in 0..OF_A_KIND {
        receiver
            .cron(
                &format!("quick-{number}"),
                &at,
                &format!("/ok?{number}"),
                &json!({}),
            )?
            .cron(
                &format!("once-{number}"),
                &at,
                &format!("/hold?once-{number}"),
                &json!({}),
            )?
            .cron(
                &format!("again-{number}"),
                &at,
                &format!("/hold?again-{number}"),
                &json!({ "retries": 3, "overlap": "allow" }),
            )?;
    }
    Ok(receiver)
}

#[tokio::test]
async fn c1_c2_whatever_happens_to_leaders_around_a_minute_each_cron_is_called_once() -> Result<()>
{
    let Some(mut cluster) = NamespaceCluster::start(&MACHINES).await? else {
        return Ok(());
    };
    let slot = Slot::after(PREPARATION)?;
    let receiver = chores(slot)?;
    cluster.deploy(receiver.application()).await?;
    receiver.hold()?;

    // The leader stands still while the minute begins.
    slot.comes(PAUSED).await?;
    let paused = cluster.leader().await?;
    cluster.signal_agent(paused, Signal::SIGSTOP)?;
    let awake = cluster.pacemakers_but(&[paused]);
    let cut_off = cluster.leader_among(&awake).await?;
    // The next believes that it leads, and reaches nobody but what it would call.
    slot.comes(CUT_OFF).await?;
    let others = cluster.pacemakers_but(&[paused, cut_off]);
    for other in &others {
        cluster.network.part(cut_off, *other)?;
    }
    let runs = every_cron_has_its_run(&cluster, &others, &receiver).await?;
    println!("machine {paused} was paused and {cut_off} cut off; made by nodes:");
    println!("{:?}", by_node(&runs));

    // Both are back among those that know better, and have nothing to say.
    let before = receiver.calls()?.len();
    cluster.network.heal()?;
    cluster.signal_agent(paused, Signal::SIGCONT)?;
    super::lasts(TEMPTED).await;
    ensure!(receiver.calls()?.len() == before, "{:?}", receiver.calls());

    // Then the one dies that waits for the answers; its supervisor starts it again.
    let held = runs.iter().filter(|run| run.state == CronRunState::Running);
    let held: Vec<CronRunView> = held.cloned().collect();
    let (node, _) = by_node(&held)
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .context("one waits")?;
    let killed = cluster.machine_of(NodeId(node))?;
    cluster.kill_agent(killed)?;
    let survivors = cluster.pacemakers_but(&[killed]);
    cluster.leader_among(&survivors).await?;
    cluster.start_agent(killed)?;
    for run in held
        .iter()
        .filter(|run| run.node == Some(NodeId(node)) && is(run, "again"))
    {
        eventually("what is to be tried again is", || async {
            let calls = receiver.calls().ok()?;
            calls
                .iter()
                .any(|call| call.run == run.id.0 && call.attempt == 2)
                .then_some(())
        })
        .await
        .with_context(|| format!("{run:?}"))?;
    }
    receiver.release()?;

    let runs = every_run_has_ended(&cluster, &survivors).await?;
    records_agree(&runs, &receiver.calls()?, slot)?;
    for run in runs
        .iter()
        .filter(|run| run.node == Some(NodeId(node)) && is(run, "once"))
    {
        ensure!(run.state == CronRunState::Lost, "{run:?}");
    }
    cluster.all_take_part().await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

async fn runs_of(cluster: &NamespaceCluster, asked: &[u8]) -> Result<Vec<CronRunView>> {
    let leader = cluster.leader_among(asked).await?;
    let client = cluster.client_of(leader)?;
    let applications = client.applications(None, Some(CHORES)).await?;
    let application = applications.first().context("it is deployed")?.id;
    Ok(client.cron_runs(application, None, None, 100).await?)
}

/// Waits until each cron has a run that was sent, or that has ended though it could not be.
async fn every_cron_has_its_run(
    cluster: &NamespaceCluster,
    asked: &[u8],
    receiver: &Receiver,
) -> Result<Vec<CronRunView>> {
    eventually("every cron has its run", || async {
        let runs = runs_of(cluster, asked).await.ok()?;
        let calls = receiver.calls().ok()?;
        let is_sent = |run: &CronRunView| calls.iter().any(|call| call.run == run.id.0);
        let is_done = |run: &CronRunView| run.state.is_final() || !is(run, "quick") && is_sent(run);
        (runs.len() == 3 * OF_A_KIND && runs.iter().all(is_done)).then_some(runs)
    })
    .await
    .with_context(|| format!("{:?}", receiver.calls()))
}

async fn every_run_has_ended(cluster: &NamespaceCluster, asked: &[u8]) -> Result<Vec<CronRunView>> {
    eventually("every run has ended", || async {
        let runs = runs_of(cluster, asked).await.ok()?;
        runs.iter().all(|run| run.state.is_final()).then_some(runs)
    })
    .await
}

/// How many of these runs each pacemaker made.
fn by_node(runs: &[CronRunView]) -> BTreeMap<u64, usize> {
    runs.iter().fold(BTreeMap::new(), |mut made, run| {
        *made.entry(run.node.unwrap_or_default().0).or_default() += 1;
        made
    })
}

/// True for a run of a cron of that kind.
fn is(run: &CronRunView, kind: &str) -> bool {
    run.cron.starts_with(&format!("web/{kind}"))
}

/// What the cluster recorded is what arrived: nothing twice, nothing under another number, and
/// nothing forgotten. What is lost may have arrived or not: that is what the word says.
fn records_agree(runs: &[CronRunView], calls: &[Call], slot: Slot) -> Result<()> {
    ensure!(runs.len() == 3 * OF_A_KIND, "{runs:?}");
    for run in runs {
        ensure!(run.scheduled == slot.time(), "{run:?}");
        let arrived: Vec<&Call> = calls.iter().filter(|call| call.run == run.id.0).collect();
        let attempts: BTreeSet<u32> = arrived.iter().map(|call| call.attempt).collect();
        ensure!(attempts.len() == arrived.len(), "{run:?}, {arrived:?}");
        let is_begun = |attempt: &u32| (1..=run.attempts).contains(attempt);
        ensure!(attempts.iter().all(is_begun), "{run:?}, {arrived:?}");
        ensure!(arrived.iter().all(|call| call.is_signed), "{arrived:?}");
        ensure!(is(run, "again") || run.attempts == 1, "{run:?}");
        match run.state {
            CronRunState::Succeeded => {
                let last = arrived.last().with_context(|| format!("{run:?}"))?;
                ensure!(
                    last.attempt == run.attempts && last.status == Some(200),
                    "{last:?}"
                );
            }
            CronRunState::Lost => ensure!(!is(run, "again"), "{run:?}"),
            _ => bail!("{run:?}, {arrived:?}"),
        }
    }
    let known: BTreeSet<u64> = runs.iter().map(|run| run.id.0).collect();
    ensure!(
        calls.iter().all(|call| known.contains(&call.run)),
        "{calls:?}"
    );
    let late = calls
        .iter()
        .map(|call| call.began.saturating_sub(slot.time().0));
    println!(
        "{} runs, {} calls, the first {:?} ms after the minute",
        runs.len(),
        calls.len(),
        late.min()
    );
    Ok(())
}
