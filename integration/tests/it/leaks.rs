//! Change after change leaves no descriptor, thread, process or port behind.

use anyhow::Result;
use integration::{DevOptions, DevProcess, TestApp, eventually};

use crate::support::{deploy, processes_of};

/// Deployments before the first count; pools and caches have filled by then.
const WARM_UP: usize = 6;
/// Deployments between the counts.
const ROUNDS: usize = 24;
/// Descriptors and threads that may come and go: idle connections, blocking threads.
const SLACK: usize = 12;

fn count(pid: u32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}"))
        .map(Iterator::count)
        .unwrap_or_default()
}

async fn settled(dev: &DevProcess) -> Result<(usize, usize)> {
    eventually("only the current version runs", || async {
        let found = processes_of(&dev.data().join("heart/instances"));
        (found.len() == 1).then_some(())
    })
    .await?;
    let pid = dev.pid()?;
    Ok((count(pid, "fd"), count(pid, "task")))
}

#[tokio::test]
async fn deployments_leave_nothing_open() -> Result<()> {
    let options = DevOptions {
        watch_window: Some(0),
        ..DevOptions::default()
    };
    let dev = DevProcess::start_with(options).await?;
    let application = TestApp::site("again", "body")?;
    for _ in 0..WARM_UP {
        deploy(&dev, &application).await?;
    }
    let (descriptors, threads) = settled(&dev).await?;

    for _ in 0..ROUNDS {
        deploy(&dev, &application).await?;
    }

    let after = eventually("descriptors and threads are as few as before", || async {
        let after = settled(&dev).await.ok()?;
        (after.0 <= descriptors + SLACK && after.1 <= threads + SLACK).then_some(after)
    })
    .await?;
    println!(
        "descriptors {descriptors} -> {}, threads {threads} -> {}",
        after.0, after.1
    );
    dev.passed();
    Ok(())
}
