//! `pm dev` is killed around a minute: what was begun is never begun again, unless the manifest
//! asks for it, and what was due meanwhile is done.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::api::CronRunState;
use integration::{DevProcess, Receiver, Slot};
use serde_json::json;

use super::{CHORES, PREPARATION, agrees, called, history, settled};
use crate::support::deploy;

/// How long before the minute the one is killed that is away while it begins.
const BEFORE: Duration = Duration::from_millis(1500);
/// How long after the minute it is started again.
const AFTER: Duration = Duration::from_millis(200);

#[tokio::test]
async fn killed_around_a_minute_nothing_is_called_twice_and_nothing_is_forgotten() -> Result<()> {
    let mut killed_in_it = DevProcess::start().await?;
    let mut away_during_it = DevProcess::start().await?;
    let slot = Slot::after(PREPARATION)?;

    tokio::try_join!(
        killed_while_requests_are_under_way(&mut killed_in_it, slot),
        away_while_the_minute_begins(&mut away_during_it, slot),
    )?;

    killed_in_it.passed();
    away_during_it.passed();
    Ok(())
}

async fn killed_while_requests_are_under_way(dev: &mut DevProcess, slot: Slot) -> Result<()> {
    let at = slot.runspec();
    let mut receiver = Receiver::new(CHORES)?;
    receiver
        .cron("quick", &at, "/ok?quick", &json!({}))?
        .cron("once", &at, "/hold?once", &json!({}))?
        .cron(
            "again",
            &at,
            "/hold?again",
            // Otherwise it would wait until the lost request can no longer be answered.
            &json!({ "retries": 1, "overlap": "allow" }),
        )?;
    deploy(dev, receiver.application()).await?;
    receiver.hold()?;
    slot.comes(Duration::ZERO).await?;
    called(&receiver, "/hold?once", 1).await?;
    called(&receiver, "/hold?again", 1).await?;
    called(&receiver, "/ok?quick", 1).await?;

    dev.kill().await?;
    dev.spawn()?;
    dev.ready().await?;
    called(&receiver, "/hold?again", 2).await?;
    receiver.release()?;

    let again = settled(dev, "again").await?;
    ensure!(again.state == CronRunState::Succeeded, "{again:?}");
    ensure!(again.attempts == 2, "{again:?}");
    let once = settled(dev, "once").await?;
    ensure!(once.state == CronRunState::Lost, "{once:?}");
    let quick = settled(dev, "quick").await?;
    // Its answer may have come a moment before the end and not be on the disk.
    let is_known = [CronRunState::Succeeded, CronRunState::Lost].contains(&quick.state);
    ensure!(is_known, "{quick:?}");
    let calls = receiver.calls()?;
    for run in [&again, &once, &quick] {
        ensure!(run.scheduled == slot.time(), "{run:?}");
        agrees(run, &calls)?;
    }
    ensure!(calls.len() == 4, "{calls:?}");
    Ok(())
}

async fn away_while_the_minute_begins(dev: &mut DevProcess, slot: Slot) -> Result<()> {
    let at = slot.runspec();
    let mut receiver = Receiver::new(CHORES)?;
    receiver.cron("skips", &at, "/ok?skips", &json!({}))?.cron(
        "once",
        &at,
        "/ok?once",
        &json!({ "missed": "once" }),
    )?;
    deploy(dev, receiver.application()).await?;

    slot.comes(BEFORE).await?;
    dev.kill().await?;
    slot.has_passed(AFTER).await?;
    dev.spawn()?;
    dev.ready().await?;

    for cron in ["skips", "once"] {
        let calls = called(&receiver, &format!("/ok?{cron}"), 1).await?;
        let run = settled(dev, cron).await?;
        ensure!(run.state == CronRunState::Succeeded, "{run:?}");
        ensure!(run.scheduled == slot.time(), "{run:?}");
        agrees(&run, &calls)?;
        ensure!(history(dev, cron).await?.len() == 1);
        println!("{cron} began {} ms late", calls[0].began - slot.time().0);
    }
    let calls = receiver.calls()?;
    ensure!(calls.len() == 2, "{calls:?}");
    Ok(())
}
