//! One minute of the wall clock, and everything that can be due at it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::{CronRunState, CronTrigger};
use integration::{CREDENTIALS, DevProcess, Receiver, Slot};
use serde_json::json;

use super::{CHORES, PREPARATION, agrees, called, history, list, settled};
use crate::support::deploy;

/// How long after the minute nothing more is expected: longer than a pass of the leader's loop.
const QUIET: Duration = Duration::from_secs(2);

/// The application whose crons are all due at the slot.
fn chores(slot: Slot) -> Result<Receiver> {
    let (username, password) = CREDENTIALS;
    let at = slot.runspec();
    let mut receiver = Receiver::new(CHORES)?;
    receiver
        .cron("tick", &at, "/ok?tick", &json!({ "timezone": "UTC" }))?
        .cron(
            "guarded",
            &at,
            "/auth?a=1&b=%20z",
            &json!({ "method": "POST", "username": username, "password": password }),
        )?
        .cron("asleep", &at, "/ok?asleep", &json!({}))?
        .cron("forbids", &at, "/hold?forbids", &json!({}))?
        .cron(
            "replaces",
            &at,
            "/hold?replaces",
            &json!({ "overlap": "replace" }),
        )?
        .cron(
            "allows",
            &at,
            "/hold?allows",
            &json!({ "overlap": "allow" }),
        )?;
    Ok(receiver)
}

#[tokio::test]
async fn everything_that_is_due_at_a_minute_happens_as_the_manifest_says() -> Result<()> {
    let dev = DevProcess::start().await?;
    let slot = Slot::after(PREPARATION)?;
    let receiver = chores(slot)?;
    deploy(&dev, receiver.application()).await?;
    ensure!(
        list(&dev)
            .await?
            .iter()
            .all(|cron| cron.next == Some(slot.time())),
        "{:?}",
        list(&dev).await
    );

    // Three requests are under way when a new version takes over.
    receiver.hold()?;
    for cron in ["forbids", "replaces", "allows"] {
        let run = ["cron", "run", CHORES, cron, "--detach"];
        dev.pm(&run).await?.success()?;
        called(&receiver, &format!("/hold?{cron}"), 1).await?;
    }
    let refused = ["cron", "run", CHORES, "forbids", "--detach"];
    let said = dev.pm(&refused).await?.failure()?.stderr;
    ensure!(said.contains("pm cron history chores forbids"), "{said}");
    dev.pm(&["cron", "suspend", CHORES, "asleep"])
        .await?
        .success()?;
    deploy(&dev, receiver.application()).await?;

    slot.comes(Duration::ZERO).await?;
    called(&receiver, "/ok?tick", 1).await?;
    called(&receiver, "/auth?a=1&b=%20z", 1).await?;
    called(&receiver, "/hold?replaces", 2).await?;
    called(&receiver, "/hold?allows", 2).await?;
    slot.has_passed(QUIET).await?;
    receiver.release()?;

    what_was_due_was_called_once(&dev, &receiver, slot).await?;
    what_overlapped_was_treated_as_it_says(&dev, &receiver, slot).await?;
    dev.pm(&["cron", "resume", CHORES, "asleep"])
        .await?
        .success()?;
    let asleep = list(&dev).await?;
    let asleep = asleep.iter().find(|cron| cron.name == "asleep");
    let next = asleep
        .and_then(|cron| cron.next)
        .context("it is due again")?;
    ensure!(next > slot.time(), "{asleep:?}");
    ensure!(receiver.calls_of("/ok?asleep")?.is_empty());
    secrets_are_shown_to_nobody(&dev).await?;
    dev.passed();
    Ok(())
}

/// The password is in no log and in no answer of the API.
async fn secrets_are_shown_to_nobody(dev: &DevProcess) -> Result<()> {
    let canary = CREDENTIALS.1.rsplit('"').next().unwrap_or_default();
    let mut shown = std::fs::read_to_string(dev.data().join("pm.log"))?;
    for arguments in [
        &["cron", "list", CHORES, "--format", "json"] as &[_],
        &["cron", "history", CHORES, "--format", "json"],
        &["status", CHORES, "--format", "json"],
        &["why", CHORES],
    ] {
        shown.push_str(&dev.pm(arguments).await?.success()?.stdout);
    }
    let line = shown.lines().find(|line| line.contains(canary));
    ensure!(line.is_none(), "{line:?}");
    Ok(())
}

async fn what_was_due_was_called_once(
    dev: &DevProcess,
    receiver: &Receiver,
    slot: Slot,
) -> Result<()> {
    let (username, password) = CREDENTIALS;
    for (cron, uri, method, credentials) in [
        ("tick", "/ok?tick", "GET", None),
        (
            "guarded",
            "/auth?a=1&b=%20z",
            "POST",
            Some(format!("{username}:{password}")),
        ),
    ] {
        let run = settled(dev, cron).await?;
        ensure!(run.state == CronRunState::Succeeded, "{run:?}");
        ensure!(run.trigger == CronTrigger::Schedule, "{run:?}");
        ensure!(run.scheduled == slot.time(), "{run:?}");
        let calls = receiver.calls_of(uri)?;
        ensure!(
            calls.len() == 1 && history(dev, cron).await?.len() == 1,
            "{calls:?}"
        );
        agrees(&run, &calls)?;
        let call = &calls[0];
        ensure!(call.began >= slot.time().0, "it came too early: {call:?}");
        ensure!(call.version == 2, "the version before was called: {call:?}");
        ensure!(
            call.method == method && call.credentials == credentials,
            "{call:?}"
        );
        ensure!(call.agent == "paasmaker-cron/1", "{call:?}");
        ensure!(call.host.starts_with("web.chores.default."), "{call:?}");
        println!(
            "{cron} began {} ms after its slot",
            call.began - slot.time().0
        );
    }
    Ok(())
}

async fn what_overlapped_was_treated_as_it_says(
    dev: &DevProcess,
    receiver: &Receiver,
    slot: Slot,
) -> Result<()> {
    let calls = receiver.calls()?;
    for (cron, before, due, requests) in [
        ("forbids", CronRunState::Succeeded, CronRunState::Skipped, 1),
        (
            "replaces",
            CronRunState::Replaced,
            CronRunState::Succeeded,
            2,
        ),
        (
            "allows",
            CronRunState::Succeeded,
            CronRunState::Succeeded,
            2,
        ),
    ] {
        settled(dev, cron).await?;
        let by_hand = integration::eventually("the run before has ended", || async {
            let runs = history(dev, cron).await.ok()?;
            let run = runs
                .into_iter()
                .find(|run| run.trigger == CronTrigger::Manual)?;
            run.state.is_final().then_some(run)
        })
        .await?;
        let runs = history(dev, cron).await?;
        ensure!(runs.len() == 2, "{runs:?}");
        ensure!(by_hand.state == before, "{by_hand:?}");
        let version = by_hand.version.map(|version| version.0);
        ensure!(version == Some(1), "{by_hand:?}");
        let run = runs.iter().find(|run| run.trigger == CronTrigger::Schedule);
        let run = run.with_context(|| format!("{runs:?}"))?;
        ensure!(run.state == due && run.scheduled == slot.time(), "{run:?}");
        let uri = format!("/hold?{cron}");
        let seen = calls.iter().filter(|call| call.uri == uri).count();
        ensure!(seen == requests, "{seen} requests of {cron} arrived");
        if due == CronRunState::Skipped {
            ensure!(!run.outcome.is_empty(), "{run:?}");
        }
    }
    Ok(())
}
