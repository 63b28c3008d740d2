//! Changes under constant load: no client sees them.

use anyhow::Result;
use integration::{DevProcess, TestApp, eventually};

use crate::support::{body, deploy};

/// Connections that each send one request after the other.
const CONNECTIONS: usize = 8;

#[tokio::test]
async fn promote_and_rollback_lose_no_request() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::site("hello", "one")?;
    application.set("/instances/0/quantity", 2.into())?;
    deploy(&dev, &application).await?;
    let load = dev.load(&DevProcess::host("hello"), CONNECTIONS)?;
    load.wait_for(5_000).await?;

    application.file("site/index.html", "two")?;
    deploy(&dev, &application).await?;
    assert_eq!(body(&dev, "hello").await?, "two");
    load.wait_for(10_000).await?;
    dev.pm(&["rollback", "hello"]).await?.success()?;
    assert_eq!(body(&dev, "hello").await?, "one");
    load.wait_for(5_000).await?;

    let tally = load.stop().await;
    tally.all_answered()?;
    assert!(tally.answered >= 20_000, "{tally:?}");
    let seen: Vec<&str> = tally.bodies.keys().map(String::as_str).collect();
    assert_eq!(seen, ["one", "two"]);
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn slow_requests_to_the_old_version_are_finished() -> Result<()> {
    let dev = DevProcess::start().await?;
    let application = TestApp::server("slow", "one")?;
    deploy(&dev, &application).await?;
    application.file("body.txt", "two")?;

    let host = DevProcess::host("slow");
    let (slow, deployed) = tokio::join!(dev.get(&host, "/slow"), deploy(&dev, &application));

    deployed?;
    let slow = slow?;
    assert_eq!((slow.status, slow.text().as_str()), (200, "one"));
    assert_eq!(body(&dev, "slow").await?, "two");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn scaling_up_and_down_loses_no_request() -> Result<()> {
    let dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::server("elastic", "body")?).await?;
    let load = dev.load(&DevProcess::host("elastic"), CONNECTIONS)?;
    load.wait_for(500).await?;

    dev.pm(&["scale", "elastic", "web=4"]).await?.success()?;
    assert_eq!(dev.instances("elastic").await?.len(), 4);
    load.wait_for(1_000).await?;
    dev.pm(&["scale", "elastic", "web=1"]).await?.success()?;
    assert_eq!(dev.instances("elastic").await?.len(), 1);
    load.wait_for(500).await?;

    load.stop().await.all_answered()?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn an_exclusive_type_never_runs_in_two_versions_and_loses_no_request() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::server("single", "one")?;
    application.set("/instances/0/exclusive", true.into())?;
    // Every start takes a lock that only one process can hold; a second one would end with an error.
    let lock = dev.directory().join("exclusive.lock");
    let command = format!(
        "flock --nonblock {} python3 -u server.py %(port)d",
        lock.display()
    );
    application.set(
        "/instances/0/runtime/parameters/launch_command",
        command.into(),
    )?;
    deploy(&dev, &application).await?;
    let load = dev.load(&DevProcess::host("single"), 4)?;
    load.wait_for(200).await?;

    application.file("body.txt", "two")?;
    deploy(&dev, &application).await?;
    load.wait_for(200).await?;
    dev.pm(&["rollback", "single"]).await?.success()?;
    load.wait_for(200).await?;

    let tally = load.stop().await;
    tally.all_answered()?;
    assert_eq!(tally.bodies.len(), 2, "{tally:?}");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn the_version_before_is_stopped_when_its_watch_ends() -> Result<()> {
    let options = integration::DevOptions {
        watch_window: Some(1),
        ..integration::DevOptions::default()
    };
    let dev = DevProcess::start_with(options).await?;
    let application = TestApp::site("hello", "one")?;
    deploy(&dev, &application).await?;
    let first = dev.instances("hello").await?;
    application.file("site/index.html", "two")?;
    deploy(&dev, &application).await?;

    eventually("the instance of version 1 is stopped and kept", || async {
        let view = dev.application("hello").await.ok()?;
        let old = view.versions.iter().find(|version| version.number.0 == 1)?;
        let instance = old.instance_types.first()?.instances.first()?;
        let is_stopped = matches!(
            instance.state,
            common::instance::InstanceState::Stopped | common::instance::InstanceState::Registered
        );
        (is_stopped && instance.id == first.first()?.id).then_some(())
    })
    .await?;

    dev.pm(&["rollback", "hello"]).await?.success()?;
    assert_eq!(body(&dev, "hello").await?, "one");
    dev.passed();
    Ok(())
}
