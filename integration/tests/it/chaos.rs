//! The whole cluster is killed again and again at moments that nobody chose.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::{DevOptions, DevProcess, TestApp, eventually};
use serde_json::Value;

use crate::support::{body, processes_of};

/// Kills of one run of the story.
const ROUNDS: u64 = 8;
/// A deployment takes about so long on a busy machine; a kill falls into it.
const KILL_WITHIN_MS: u64 = 400;
/// Repeats a run: the seed that a failed one printed.
const SEED_VARIABLE: &str = "PM_TEST_SEED";

fn seed() -> Result<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().context("reading the seed"),
        Err(_) => Ok(RandomState::new().build_hasher().finish() % 1_000_000),
    }
}

/// The next number of a small generator (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[tokio::test]
async fn deployments_survive_kills_at_any_moment() -> Result<()> {
    let seed = seed()?;
    println!("repeat with {SEED_VARIABLE}={seed}");
    let mut random = seed;
    let options = DevOptions {
        watch_window: Some(1),
        ..DevOptions::default()
    };
    let mut dev = DevProcess::start_with(options).await?;
    let mut application = TestApp::site("survivor", "0")?;
    application.set("/instances/0/quantity", 2.into())?;
    application.prepare(&["echo prepared"])?;
    application.startup(&["echo started"])?;

    for round in 1..=ROUNDS {
        application.file("site/index.html", &round.to_string())?;
        let said = dev
            .pm(&[
                "deploy",
                application.argument()?,
                "--detach",
                "--format",
                "json",
            ])
            .await?
            .success()?;
        let job = said.json::<Value>()?["job"].to_string();
        let delay = Duration::from_millis(next(&mut random) % KILL_WITHIN_MS);
        // The moment is the test's input, not something that it waits for.
        tokio::time::timeout(delay, std::future::pending::<()>())
            .await
            .ok();

        dev.kill().await?;
        dev.spawn()?;
        dev.ready().await?;

        dev.pm(&["job", "follow", &job])
            .await?
            .success()
            .with_context(|| format!("round {round}, killed after {delay:?}"))?;
        let answer = body(&dev, "survivor").await?;
        ensure!(
            answer == round.to_string(),
            "round {round} answers {answer}"
        );
    }

    // Two instances of the last version run, each a shim and a server, and nothing else does.
    eventually("versions before are stopped", || async {
        let instances = dev.instances("survivor").await.ok()?;
        let pids: Vec<u32> = instances
            .iter()
            .filter_map(|instance| instance.pid)
            .collect();
        let found = processes_of(&dev.data().join("heart/instances"));
        let is_clean =
            pids.len() == 2 && found.len() == 2 && pids.iter().all(|pid| found.contains(pid));
        is_clean.then_some(())
    })
    .await?;
    dev.passed();
    Ok(())
}
