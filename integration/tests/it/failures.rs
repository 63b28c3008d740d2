//! Deployments that fail: the current version serves on, the reason is on one screen, nothing is left.

use std::collections::BTreeSet;

use anyhow::Result;
use integration::{DevOptions, DevProcess, PmOutput, TestApp, eventually};
use serde_json::json;

use crate::support::{body, deploy, processes_of};

/// One screen.
const SCREEN_LINES: usize = 40;

/// A cluster with a good version 1, before something bad is deployed over it.
struct Scene {
    dev: DevProcess,
    application: TestApp,
    processes: BTreeSet<u32>,
    instances: usize,
}

impl Scene {
    async fn new(options: DevOptions) -> Result<Self> {
        let dev = DevProcess::start_with(options).await?;
        let application = TestApp::server("victim", "one")?;
        deploy(&dev, &application).await?;
        let instances = instance_directories(&dev);
        Ok(Self {
            processes: processes_of(&dev.data()),
            application,
            dev,
            instances,
        })
    }

    async fn deploy_badly(&self) -> Result<PmOutput> {
        let said = self
            .dev
            .pm(&["deploy", self.application.argument()?])
            .await?
            .failure()?;
        assert!(
            said.stderr.lines().count() <= SCREEN_LINES,
            "{}",
            said.stderr
        );
        Ok(said)
    }

    /// Version 1 serves, and nothing is left of what failed.
    async fn ends_as_before(self) -> Result<()> {
        assert_eq!(body(&self.dev, "victim").await?, "one");
        eventually(
            "no process and no directory of the failed version is left",
            || async {
                let is_clean = processes_of(&self.dev.data()) == self.processes
                    && instance_directories(&self.dev) == self.instances;
                is_clean.then_some(())
            },
        )
        .await?;
        eventually("the cluster has forgotten its instances", || async {
            let view = self.dev.application("victim").await.ok()?;
            let others = view.versions.iter().filter(|version| !version.is_current);
            let left: usize = others
                .flat_map(|version| &version.instance_types)
                .map(|instance_type| instance_type.instances.len())
                .sum();
            (left == 0 && view.current.map(|version| version.0) == Some(1)).then_some(())
        })
        .await?;

        // What failed does not stand in the way of what comes next.
        let mended = TestApp::server("victim", "mended")?;
        deploy(&self.dev, &mended).await?;
        assert_eq!(body(&self.dev, "victim").await?, "mended");
        self.dev.passed();
        Ok(())
    }
}

fn instance_directories(dev: &DevProcess) -> usize {
    std::fs::read_dir(dev.data().join("heart/instances"))
        .map(Iterator::count)
        .unwrap_or_default()
}

fn shows(said: &PmOutput, parts: &[&str]) {
    for part in parts {
        assert!(
            said.stderr.contains(part),
            "{part:?} is missing in:\n{}",
            said.stderr
        );
    }
}

#[tokio::test]
async fn a_broken_manifest_is_not_sent() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene.application.set("/instances/0/quantiti", 2.into())?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["manifest.yml:", "quantiti", "quantity"]);
    assert_eq!(scene.dev.application("victim").await?.versions.len(), 1);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_runtime_that_no_node_offers_is_refused() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene
        .application
        .set("/instances/0/runtime/version", 9.into())?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["paasmaker.runtime.shell", "9", "1"]);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_failing_prepare_command_shows_its_output() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene
        .application
        .prepare(&["echo before", "ls /nowhere/at/all", "echo after"])?;

    let said = scene.deploy_badly().await?;

    shows(
        &said,
        &["prepare", "before", "/nowhere/at/all", "pm why job:"],
    );
    assert!(!said.stderr.contains("| after"), "{}", said.stderr);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_failing_startup_command_shows_its_output() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene.application.startup(&["echo warming up", "exit 7"])?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["startup", "7", "warming up"]);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_process_that_ends_shows_its_last_words() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene
        .application
        .file("server.py", "raise SystemExit('no database')")?;
    scene.application.set("/instances/0/quantity", 2.into())?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["no database", "exit"]);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene.application.set(
        "/instances/0/runtime/parameters/launch_command",
        "no-such-program %(port)d".into(),
    )?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["no-such-program"]);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_process_that_never_listens_is_given_up() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    let code = "import time\nprint('dreaming', flush=True)\ntime.sleep(600)";
    scene.application.file("server.py", code)?;
    scene
        .application
        .set("/instances/0/runtime/parameters/start_timeout", 1.into())?;
    scene.application.set(
        "/instances/0/stop",
        json!({ "signal": "TERM", "grace": "1s" }),
    )?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["listen", "dreaming"]);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_health_path_that_does_not_answer_is_named() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene.application.file("unhealthy", "")?;
    scene
        .application
        .set("/instances/0/health", json!({ "path": "/up" }))?;
    scene
        .application
        .set("/instances/0/runtime/parameters/start_timeout", 1.into())?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["/up", "503"]);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_node_without_a_free_port_says_so() -> Result<()> {
    // Two ports: one for version 1; a stranger has the other.
    let options = DevOptions {
        instance_ports: Some(2),
        ..DevOptions::default()
    };
    let scene = Scene::new(options).await?;
    let taken = scene.dev.instances("victim").await?[0].port;
    let ports = scene.dev.ports();
    let stranger: Vec<std::net::TcpListener> = (*ports.start()..=*ports.start() + 1)
        .filter(|port| Some(*port) != taken)
        .map(|port| std::net::TcpListener::bind(("127.0.0.1", port)))
        .collect::<std::io::Result<_>>()?;
    scene.application.file("body.txt", "two")?;

    let said = scene.deploy_badly().await?;

    shows(&said, &["port"]);
    drop(stranger);
    scene.ends_as_before().await
}

#[tokio::test]
async fn a_failed_first_deployment_leaves_nothing() -> Result<()> {
    let dev = DevProcess::start().await?;
    let application = TestApp::command("stillborn", "false %(port)d")?;

    let said = dev
        .pm(&["deploy", application.argument()?])
        .await?
        .failure()?;

    assert!(said.stderr.contains("exit"), "{}", said.stderr);
    let answer = dev.get(&DevProcess::host("stillborn"), "/").await?;
    assert!(answer.status >= 400, "{answer:?}");
    assert!(answer.header("x-pm-router-error").is_some(), "{answer:?}");
    eventually("nothing is left", || async {
        (processes_of(&dev.data()).is_empty() && instance_directories(&dev) == 0).then_some(())
    })
    .await?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn an_aborted_deployment_is_undone() -> Result<()> {
    let mut scene = Scene::new(DevOptions::default()).await?;
    scene.application.startup(&["sleep 600"])?;
    let said = scene
        .dev
        .pm(&[
            "deploy",
            scene.application.argument()?,
            "--detach",
            "--format",
            "json",
        ])
        .await?
        .success()?;
    let job = said.json::<serde_json::Value>()?["job"].to_string();

    scene.dev.pm(&["job", "abort", &job]).await?.success()?;

    let followed = scene.dev.pm(&["job", "follow", &job]).await?.failure()?;
    shows(&followed, &["aborted"]);
    scene.ends_as_before().await
}
