//! Crons while leaders are paused, cut off and killed around a minute: C1, C2, and H8's rule that
//! nothing is a stale leader's.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::{CronRunState, CronRunView};
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
/// The second is cut off so shortly before it that it still believes to lead.
const CUT_OFF: Duration = Duration::from_millis(250);
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
                &json!({ "retries": 3 }),
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
    let cut_off = cluster
        .leader_among(&cluster.pacemakers_but(&[paused]))
        .await?;
    // The next believes that it leads, and reaches nobody but what it would call.
    slot.comes(CUT_OFF).await?;
    let others = cluster.pacemakers_but(&[paused, cut_off]);
    for other in &others {
        cluster.network.part(cut_off, *other)?;
    }
    let killed = cluster.leader_among(&others).await?;
    all_called(&receiver, 1)
        .await
        .with_context(|| said(&receiver))?;

    // Both are back among those that know better; then the one dies that waits for the answers.
    cluster.network.heal()?;
    cluster.signal_agent(paused, Signal::SIGCONT)?;
    super::lasts(TEMPTED).await;
    let calls = receiver.calls()?;
    ensure!(
        calls.len() == 3 * OF_A_KIND,
        "a stale leader called: {calls:?}"
    );
    cluster.kill_agent(killed)?;
    let left = cluster.pacemakers_but(&[killed]);
    let last = cluster.leader_among(&left).await?;
    // Its supervisor starts it again: it says itself that it knows nothing of its requests any more.
    cluster.start_agent(killed)?;
    all_retried(&receiver)
        .await
        .with_context(|| said(&receiver))?;
    receiver.release()?;

    let client = cluster.client_of(last)?;
    let application = cluster.application(CHORES).await?.id;
    let runs = eventually("every run has ended", || async {
        let runs = client.cron_runs(application, None, None, 100).await.ok()?;
        let is_over = runs.len() == 3 * OF_A_KIND && runs.iter().all(|run| run.state.is_final());
        is_over.then_some(runs)
    })
    .await?;
    records_agree(&runs, &receiver.calls()?, slot)?;
    cluster.all_take_part().await?;
    cluster.all_agents_run()?;
    cluster.passed();
    Ok(())
}

fn said(receiver: &Receiver) -> String {
    format!("{:?}", receiver.calls())
}

/// Waits until every cron has been called so often.
async fn all_called(receiver: &Receiver, times: usize) -> Result<()> {
    eventually("every cron is called", || async {
        let called = by_uri(&receiver.calls().ok()?);
        let is_done = called.len() == 3 * OF_A_KIND && called.values().all(|count| *count >= times);
        is_done.then_some(())
    })
    .await
}

async fn all_retried(receiver: &Receiver) -> Result<()> {
    eventually("what is to be tried again is", || async {
        let called = by_uri(&receiver.calls().ok()?);
        let again = called.iter().filter(|(uri, _)| uri.contains("again"));
        again.clone().all(|(_, count)| *count >= 2).then_some(())
    })
    .await
}

fn by_uri(calls: &[Call]) -> BTreeMap<String, usize> {
    calls.iter().fold(BTreeMap::new(), |mut called, call| {
        *called.entry(call.uri.clone()).or_default() += 1;
        called
    })
}

/// What the cluster recorded is what arrived: no more, no less, under the same numbers.
fn records_agree(runs: &[CronRunView], calls: &[Call], slot: Slot) -> Result<()> {
    for run in runs {
        ensure!(run.scheduled == slot.time(), "{run:?}");
        let arrived: Vec<&Call> = calls.iter().filter(|call| call.run == run.id.0).collect();
        let attempts: Vec<u32> = arrived.iter().map(|call| call.attempt).collect();
        let begun: Vec<u32> = (1..=run.attempts).collect();
        ensure!(attempts == begun, "{run:?}, {arrived:?}");
        let is_signed = arrived.iter().all(|call| call.is_signed);
        ensure!(is_signed, "{arrived:?}");
        let is_as_asked = match run.cron.rsplit_once('/').map_or("", |(_, name)| name) {
            name if name.starts_with("quick") => {
                run.attempts == 1 && run.state == CronRunState::Succeeded
            }
            name if name.starts_with("once") => {
                run.attempts == 1 && run.state == CronRunState::Lost
            }
            _ => run.attempts == 2 && run.state == CronRunState::Succeeded,
        };
        ensure!(is_as_asked, "{run:?}");
    }
    let attempts: u32 = runs.iter().map(|run| run.attempts).sum();
    ensure!(u32::try_from(calls.len())? == attempts, "{calls:?}");
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
