//! Runs that people ask for: outcomes in words, attempts, what is refused and what is shown.

use anyhow::{Result, ensure};
use common::api::{CronRunState, CronRunView, CronTrigger};
use integration::{DevProcess, Receiver};
use serde_json::json;

use super::{BY_HAND, CHORES, agrees, cron_run, history, list};
use crate::support::deploy;

#[tokio::test]
async fn a_run_is_asked_for_and_says_what_became_of_it() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut receiver = Receiver::new(CHORES)?;
    receiver
        .cron("clean", BY_HAND, "/ok?clean", &json!({ "method": "POST" }))?
        .cron("flaky", BY_HAND, "/flaky", &json!({ "retries": 1 }))?
        .cron("late", BY_HAND, "/slow?s=3", &json!({ "timeout": "1s" }))?
        .cron("broken", BY_HAND, "/fail", &json!({}))?;
    deploy(&dev, receiver.application()).await?;

    let said = cron_run(&dev, "clean").await?.success()?.stdout;
    ensure!(said.contains("`web/clean` succeeded"), "{said}");
    ensure!(said.contains("    | done: /ok?clean\n"), "{said}");
    let run: CronRunView = super::json(&dev, &["cron", "run", CHORES, "web/clean"]).await?;
    ensure!(run.trigger == CronTrigger::Manual, "{run:?}");
    let log = dev.pm(&["cron", "log", &run.id.to_string()]).await?;
    let log = log.success()?.stdout;
    ensure!(log.contains("200") && log.contains("text/plain"), "{log}");
    ensure!(log.contains("\ndone: /ok?clean\n"), "{log}");

    cron_run(&dev, "flaky").await?.success()?;
    let said = cron_run(&dev, "late").await?.failure()?.stderr;
    ensure!(said.contains("not answered in time"), "{said}");
    let fails = receiver.calls_of("/fail")?.len();
    ensure!(fails == 0, "{fails}");

    let calls = receiver.calls()?;
    for (cron, attempts, state) in [
        ("clean", 1, CronRunState::Succeeded),
        ("flaky", 2, CronRunState::Succeeded),
        ("late", 1, CronRunState::TimedOut),
    ] {
        let runs = history(&dev, cron).await?;
        ensure!(runs[0].state == state, "{runs:?}");
        ensure!(runs[0].attempts == attempts, "{runs:?}");
        for run in &runs {
            agrees(run, &calls)?;
        }
    }
    what_fails_again_and_again_is_shown(&dev).await?;
    what_is_not_there_is_refused(&dev).await?;

    dev.pm(&["scale", CHORES, "web=0"]).await?.success()?;
    let said = cron_run(&dev, "clean").await?.failure()?.stderr;
    ensure!(said.contains("no instance"), "{said}");
    dev.passed();
    Ok(())
}

async fn what_fails_again_and_again_is_shown(dev: &DevProcess) -> Result<()> {
    for _ in 0..2 {
        let said = cron_run(dev, "broken").await?.failure()?.stderr;
        ensure!(said.contains("500"), "{said}");
        ensure!(said.contains("    | something broke\n"), "{said}");
        ensure!(said.contains("pm cron log"), "{said}");
    }
    let said = dev.pm(&["status"]).await?.success()?.stdout;
    ensure!(!said.contains("in a row"), "{said}");

    cron_run(dev, "broken").await?.failure()?;

    for arguments in [&["status"] as &[_], &["status", CHORES], &["why", CHORES]] {
        let said = dev.pm(arguments).await?.success()?.stdout;
        ensure!(said.contains("web/broken"), "{said}");
        ensure!(said.contains("3 times in a row"), "{said}");
    }
    let metrics = dev.metrics().await?;
    ensure!(metrics.contains("crons_failing 1\n"), "{metrics}");
    let failed = "cron_runs_total{outcome=\"failed\"}";
    ensure!(metrics.contains(failed), "{metrics}");
    ensure!(
        list(dev).await?.iter().any(|cron| cron.failures == 3),
        "{:?}",
        list(dev).await
    );
    let table = dev.pm(&["cron", "list", CHORES]).await?.success()?.stdout;
    ensure!(table.contains("3 failures in a row"), "{table}");
    Ok(())
}

async fn what_is_not_there_is_refused(dev: &DevProcess) -> Result<()> {
    let unknown = ["cron", "run", CHORES, "no such"];
    let said = dev.pm(&unknown).await?.failure()?.stderr;
    ensure!(said.contains("pm cron list chores"), "{said}");
    let said = dev.pm(&["cron", "log", "4711"]).await?.failure()?.stderr;
    ensure!(said.contains("pm cron history"), "{said}");
    let said = dev.pm(&["cron", "list", "nobody"]).await?.failure()?.stderr;
    ensure!(said.contains("applications there: chores"), "{said}");

    let mut idle = Receiver::new("idle")?;
    idle.cron("clean", BY_HAND, "/ok", &json!({}))?;
    let directory = idle.application().argument()?;
    dev.pm(&["deploy", directory, "--no-promote"])
        .await?
        .success()?;
    let said = dev.pm(&["cron", "run", "idle", "clean"]).await?.failure()?;
    ensure!(said.stderr.contains("next:"), "{}", said.stderr);
    let said = dev.pm(&["cron", "list", "idle"]).await?.success()?.stdout;
    ensure!(said.contains("pm version promote idle"), "{said}");
    ensure!(idle.calls()?.is_empty(), "{:?}", idle.calls());
    Ok(())
}
