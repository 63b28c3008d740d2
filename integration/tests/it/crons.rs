//! Web crons: they fire at real minutes of the wall clock, and the application writes down who came.

mod by_hand;
mod death;
mod metacharacters;
mod minute;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::{CronRunState, CronRunView, CronView};
use integration::{Call, DevProcess, PmOutput, Receiver, eventually};

/// The application of all stories.
const CHORES: &str = "chores";
/// Once a year: the story asks for it itself.
const BY_HAND: &str = "59 23 31 12 *";
/// What a story does before its minute takes less, also on two busy cores.
const PREPARATION: Duration = Duration::from_secs(20);

/// Types a command and reads its JSON.
async fn json<T: serde::de::DeserializeOwned>(dev: &DevProcess, arguments: &[&str]) -> Result<T> {
    let arguments = [arguments, &["--format", "json"]].concat();
    dev.pm(&arguments).await?.success()?.json()
}

async fn history(dev: &DevProcess, cron: &str) -> Result<Vec<CronRunView>> {
    json(dev, &["cron", "history", CHORES, cron, "-n", "50"]).await
}

async fn list(dev: &DevProcess) -> Result<Vec<CronView>> {
    json(dev, &["cron", "list", CHORES]).await
}

async fn cron_run(dev: &DevProcess, cron: &str) -> Result<PmOutput> {
    dev.pm(&["cron", "run", CHORES, cron]).await
}

/// The newest record of a cron once it will not change any more.
async fn settled(dev: &DevProcess, cron: &str) -> Result<CronRunView> {
    eventually(&format!("the newest run of {cron} has ended"), || async {
        let newest = history(dev, cron).await.ok()?.into_iter().next()?;
        newest.state.is_final().then_some(newest)
    })
    .await
}

/// Waits until a URI has been called so often.
async fn called(receiver: &Receiver, uri: &str, times: usize) -> Result<Vec<Call>> {
    eventually(&format!("{uri} is called {times} times"), || async {
        let calls = receiver.calls_of(uri).ok()?;
        (calls.len() >= times).then_some(calls)
    })
    .await
}

/// What the cluster has recorded of a run is what the application saw.
fn agrees(run: &CronRunView, calls: &[Call]) -> Result<()> {
    let calls: Vec<&Call> = calls.iter().filter(|call| call.run == run.id.0).collect();
    let attempts: Vec<u32> = calls.iter().map(|call| call.attempt).collect();
    let expected: Vec<u32> = (1..=run.attempts).collect();
    ensure!(
        attempts == expected,
        "{run:?} was recorded, and {calls:?} arrived"
    );
    for call in &calls {
        ensure!(call.is_signed, "not signed: {call:?}");
        ensure!(call.scheduled == run.scheduled.to_string(), "{call:?}");
    }
    if run.state == CronRunState::Succeeded {
        let last = calls.last().context("what succeeded was called")?;
        ensure!(last.status == Some(200), "{run:?}, {last:?}");
        ensure!(run.status == Some(200), "{run:?}");
        ensure!(
            run.instance.map(|instance| instance.0) == Some(last.instance),
            "{run:?}, {last:?}"
        );
        ensure!(
            run.version.map(|version| version.0) == Some(last.version),
            "{run:?}, {last:?}"
        );
    }
    Ok(())
}
