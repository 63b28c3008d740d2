//! Kinds of instance types: without a port, and scaled to nothing.

use anyhow::Result;
use common::instance::InstanceState;
use integration::{DevProcess, TestApp, eventually};
use serde_json::json;

use crate::support::deploy;

#[tokio::test]
async fn a_standalone_type_runs_without_a_port_and_is_not_routed() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut worker = TestApp::command("worker", "python3 -u worker.py")?;
    worker.file(
        "worker.py",
        "import os, time\nprint('port', os.environ.get('PM_PORT'), flush=True)\ntime.sleep(600)",
    )?;
    worker.set("/instances/0/standalone", true.into())?;
    worker.set("/instances/0/runtime/parameters/standalone_wait", 1.into())?;

    deploy(&dev, &worker).await?;

    let instance = dev.instances("worker").await?.remove(0);
    assert_eq!(
        (instance.state, instance.port),
        (InstanceState::Running, None)
    );
    let logs = dev.pm(&["logs", "worker"]).await?.success()?;
    assert!(logs.stdout.contains("port None"), "{}", logs.stdout);
    assert_eq!(dev.get(&DevProcess::host("worker"), "/").await?.status, 404);
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_standalone_process_that_ends_at_once_fails_the_deployment() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut worker = TestApp::command("worker", "python3 -c 'print(41 + 1)'")?;
    worker.set("/instances/0/standalone", true.into())?;

    let said = dev.pm(&["deploy", worker.argument()?]).await?.failure()?;

    assert!(said.stderr.contains("| 42"), "{}", said.stderr);
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_type_can_be_scaled_to_nothing_and_back() -> Result<()> {
    let dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::site("hello", "one")?).await?;
    let host = DevProcess::host("hello");

    dev.pm(&["scale", "hello", "web=0"]).await?.success()?;
    assert_eq!(dev.get(&host, "/").await?.status, 503);
    dev.pm(&["scale", "hello", "web=1"]).await?.success()?;

    eventually("the application answers again", || async {
        (dev.get(&host, "/").await.ok()?.status == 200).then_some(())
    })
    .await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn logs_follow_instances_that_start_later() -> Result<()> {
    let dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::server("talker", "body")?).await?;
    let path = dev.directory().join("followed");
    let mut following = tokio::process::Command::new(integration::pm_program()?)
        .args(["logs", "talker", "--follow", "--format", "json"])
        .env("XDG_CONFIG_HOME", dev.directory().join("config"))
        .stdout(std::fs::File::create(&path)?)
        .kill_on_drop(true)
        .spawn()?;

    dev.pm(&["scale", "talker", "web=2"]).await?.success()?;

    eventually("both instances have been heard", || async {
        let said = std::fs::read_to_string(&path).ok()?;
        let heard: std::collections::BTreeSet<u64> = said
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|line| line["line"] == json!("listening"))
            .filter_map(|line| line["instance"].as_u64())
            .collect();
        (heard.len() == 2).then_some(())
    })
    .await?;
    following.kill().await?;
    dev.passed();
    Ok(())
}
