//! Processes are killed; what was promised goes on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::id::NodeId;
use common::instance::InstanceState;
use integration::{Connection, DevProcess, TestApp, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pacemaker_client::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{body, deploy, is_alive, processes_of};

fn kill_hard(pid: u32) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL).context("killing a process")
}

async fn pids(dev: &DevProcess, application: &str) -> Result<Vec<u32>> {
    let instances = dev.instances(application).await?;
    instances
        .into_iter()
        .map(|instance| instance.pid.context("the instance has a process"))
        .collect()
}

/// The numbers of the `tick N` lines in order.
async fn ticks(dev: &DevProcess, application: &str) -> Result<Vec<u64>> {
    let said = dev
        .pm(&["logs", application, "-n", "1000000"])
        .await?
        .success()?;
    said.stdout
        .lines()
        .filter_map(|line| line.strip_prefix("tick "))
        .map(|number| number.parse().context("reading a tick"))
        .collect()
}

fn has_no_gap(ticks: &[u64]) -> bool {
    ticks.first() == Some(&1) && ticks.windows(2).all(|pair| pair[0] + 1 == pair[1])
}

#[tokio::test]
async fn a_killed_cluster_comes_back_and_its_applications_never_stopped() -> Result<()> {
    let mut dev = DevProcess::start().await?;
    let mut application = TestApp::server("steady", "body")?;
    application.set("/instances/0/env", serde_json::json!({ "TICK": "1" }))?;
    application.set("/instances/0/quantity", 1.into())?;
    deploy(&dev, &application).await?;
    let before = pids(&dev, "steady").await?;

    dev.kill().await?;
    assert!(before.iter().all(|pid| is_alive(*pid)));
    dev.spawn()?;
    dev.ready().await?;

    eventually("the heart has adopted the instance", || async {
        (pids(&dev, "steady").await.ok()? == before).then_some(())
    })
    .await?;
    assert_eq!(body(&dev, "steady").await?, "body");
    let seen = ticks(&dev, "steady").await?.len();
    eventually("the log goes on", || async {
        (ticks(&dev, "steady").await.ok()?.len() > seen + 10).then_some(())
    })
    .await?;
    let ticks = ticks(&dev, "steady").await?;
    assert!(has_no_gap(&ticks), "{ticks:?}");
    let instance = &dev.instances("steady").await?[0];
    assert_eq!(
        (instance.state, instance.restarts),
        (InstanceState::Running, 0)
    );
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn heart_and_router_serve_from_disk_with_no_pacemaker() -> Result<()> {
    let mut dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::site("hello", "one")?).await?;
    let dead = dev.api()?.to_owned();
    dev.kill().await?;

    let shutdown = CancellationToken::new();
    let mut config = router::Config::new(
        NodeId(1),
        dev.data().join("router"),
        Client::new(&[dead], "nobody")?,
    );
    config.listen = "127.0.0.1:0".parse()?;
    let running = router::start(config, shutdown.clone()).await?;

    let mut connection = Connection::open(running.address).await?;
    let answer = connection.get(&DevProcess::host("hello"), "/").await?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "one"));
    shutdown.cancel();
    running.finished.await??;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() -> Result<()> {
    let mut dev = DevProcess::start().await?;
    for round in 1..=5 {
        let name = format!("kept-{round}");
        dev.pm(&["workspace", "create", &name]).await?.success()?;

        dev.kill().await?;
        dev.spawn()?;
        dev.ready().await?;

        let list = dev.pm(&["workspace", "list"]).await?.success()?;
        for earlier in 1..=round {
            assert!(
                list.stdout.contains(&format!("kept-{earlier}")),
                "{}",
                list.stdout
            );
        }
    }
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_deployment_goes_on_after_a_kill() -> Result<()> {
    let mut dev = DevProcess::start().await?;
    let mut application = TestApp::server("patient", "body")?;
    let gate = dev.directory().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    application.startup(&[&wait])?;
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
    let job = said.json::<serde_json::Value>()?["job"].to_string();

    dev.kill().await?;
    dev.spawn()?;
    dev.ready().await?;
    std::fs::write(&gate, "")?;

    dev.pm(&["job", "follow", &job]).await?.success()?;
    assert_eq!(body(&dev, "patient").await?, "body");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_killed_instance_is_restarted_and_no_client_sees_it() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::server("pair", "body")?;
    application.set("/instances/0/quantity", 2.into())?;
    deploy(&dev, &application).await?;
    let load = dev.load(&DevProcess::host("pair"), 4)?;
    load.wait_for(200).await?;
    let before = pids(&dev, "pair").await?;

    kill_hard(before[0])?;
    eventually("another process takes its place", || async {
        let now = pids(&dev, "pair").await.ok()?;
        let instances = dev.instances("pair").await.ok()?;
        let all_run = instances
            .iter()
            .all(|instance| instance.state == InstanceState::Running);
        (all_run && now.len() == 2 && !now.contains(&before[0])).then_some(())
    })
    .await?;
    load.wait_for(200).await?;

    load.stop().await.all_answered()?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_crash_loop_backs_off_beside_a_good_application() -> Result<()> {
    let dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::site("good", "good")?).await?;
    let crash = dev.directory().join("crash");
    let mut loop_application = TestApp::server("loop", "body")?;
    let variables = serde_json::json!({ "CRASH_FILE": crash });
    loop_application.set("/instances/0/env", variables)?;
    deploy(&dev, &loop_application).await?;
    let load = dev.load(&DevProcess::host("good"), 2)?;
    load.wait_for(500).await?;

    std::fs::write(&crash, "")?;
    kill_hard(pids(&dev, "loop").await?[0])?;
    eventually("the instance has failed again and again", || async {
        let instances = dev.instances("loop").await.ok()?;
        let instance = instances.first()?;
        (instance.state == InstanceState::Failed && instance.restarts >= 2).then_some(())
    })
    .await?;
    let why = dev.pm(&["why", "loop"]).await?.success()?;
    assert!(why.stdout.contains("told to crash"), "{}", why.stdout);
    load.wait_for(500).await?;

    load.stop().await.all_answered()?;
    std::fs::remove_file(&crash)?;
    eventually("the instance runs again", || async {
        body(&dev, "loop").await.ok()
    })
    .await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_signal_ends_the_cluster_and_only_ctrl_c_ends_the_applications() -> Result<()> {
    let mut dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::site("hello", "one")?).await?;
    let pid = pids(&dev, "hello").await?[0];

    assert_eq!(dev.end_by(Signal::SIGTERM).await?, Some(0));
    assert!(is_alive(pid));
    dev.spawn()?;
    dev.ready().await?;
    assert_eq!(pids(&dev, "hello").await?, [pid]);

    assert_eq!(dev.end_by(Signal::SIGINT).await?, Some(0));
    assert!(!is_alive(pid));
    assert_eq!(processes_of(&dev.data()).len(), 0);

    dev.spawn()?;
    dev.ready().await?;
    eventually("the application is started again", || async {
        body(&dev, "hello").await.ok()
    })
    .await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_second_dev_in_the_same_directory_is_refused() -> Result<()> {
    let dev = DevProcess::start().await?;
    let data = dev.data();
    let data = data.to_str().context("the path is UTF-8")?;

    let said = dev
        .pm(&[
            "dev",
            "--data-dir",
            data,
            "--api-port",
            "0",
            "--router-port",
            "0",
        ])
        .await?
        .failure()?;

    assert!(
        said.stderr.contains(&dev.pid()?.to_string()),
        "{}",
        said.stderr
    );
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_busy_port_is_named_with_its_flag() -> Result<()> {
    let dev = DevProcess::start().await?;
    let port = dev.router()?.port().to_string();
    let data = dev.directory().join("other");
    let data = data.to_str().context("the path is UTF-8")?;

    let said = dev
        .pm(&[
            "dev",
            "--data-dir",
            data,
            "--api-port",
            "0",
            "--router-port",
            &port,
        ])
        .await?
        .failure()?;

    assert!(said.stderr.contains(&port), "{}", said.stderr);
    assert!(said.stderr.contains("--router-port"), "{}", said.stderr);
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_follower_that_is_interrupted_leaves_the_job_alone() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::server("patient", "body")?;
    let gate = dev.directory().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    application.startup(&[&wait])?;
    let said = dev.directory().join("following");
    let mut following = tokio::process::Command::new(integration::pm_program()?)
        .args(["deploy", application.argument()?])
        .env("XDG_CONFIG_HOME", dev.directory().join("config"))
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&said)?)
        .spawn()?;
    eventually("pm deploy follows the job", || async {
        let text = std::fs::read_to_string(&said).ok()?;
        text.contains("  place ").then_some(())
    })
    .await?;
    let pid = following.id().context("pm deploy runs")?;

    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
    let status = tokio::time::timeout(Duration::from_secs(10), following.wait()).await??;

    ensure!(status.code() == Some(130), "{status}");
    let text = std::fs::read_to_string(&said)?;
    ensure!(text.contains("pm job follow 1"), "{text}");
    std::fs::write(&gate, "")?;
    dev.pm(&["job", "follow", "1"]).await?.success()?;
    assert_eq!(body(&dev, "patient").await?, "body");
    dev.passed();
    Ok(())
}
