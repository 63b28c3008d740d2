//! From a directory to an answer.

use anyhow::{Context as _, Result};
use common::api::ApplicationView;
use integration::{DevOptions, DevProcess, TestApp, eventually};
use serde_json::Value;

use crate::support::{body, deploy};

#[tokio::test]
async fn first_deploy_answers_through_the_router() -> Result<()> {
    let dev = DevProcess::start().await?;
    let application = TestApp::site("hello", "one")?;

    let said = dev
        .pm(&["deploy", application.argument()?])
        .await?
        .success()?;

    assert_eq!(body(&dev, "hello").await?, "one");
    let url = format!(
        "http://{}:{}/",
        DevProcess::host("hello"),
        dev.router()?.port()
    );
    assert!(
        said.stdout.lines().any(|line| line == url),
        "{}",
        said.stdout
    );
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn dev_deploys_a_directory_at_its_start() -> Result<()> {
    let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/hello");
    let options = DevOptions {
        deploy: Some(sample),
        ..DevOptions::default()
    };
    let dev = DevProcess::start_with(options).await?;

    let said = eventually("pm dev says where it answers", || async {
        let said = std::fs::read_to_string(dev.directory().join("pm.err")).ok()?;
        said.contains("http://web.hello.default.localhost:")
            .then_some(said)
    })
    .await?;

    assert!(
        said.contains("Version 1 of `hello` answers (status 200)"),
        "{said}"
    );
    assert!(body(&dev, "hello").await?.contains("Hello."));
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn dev_goes_on_when_its_first_deployment_fails() -> Result<()> {
    let application = TestApp::command("stillborn", "false %(port)d")?;
    let options = DevOptions {
        deploy: Some(application.path().to_owned()),
        ..DevOptions::default()
    };
    let dev = DevProcess::start_with(options).await?;

    eventually("pm dev says that it goes on", || async {
        let said = std::fs::read_to_string(dev.directory().join("pm.err")).ok()?;
        said.contains("The cluster goes on").then_some(())
    })
    .await?;

    deploy(&dev, &TestApp::site("stillborn", "mended")?).await?;
    assert_eq!(body(&dev, "stillborn").await?, "mended");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_version_that_is_not_promoted_waits_beside_the_current_one() -> Result<()> {
    let dev = DevProcess::start().await?;
    let application = TestApp::site("hello", "one")?;
    deploy(&dev, &application).await?;
    application.file("site/index.html", "two")?;

    dev.pm(&["deploy", application.argument()?, "--no-promote"])
        .await?
        .success()?;

    assert_eq!(body(&dev, "hello").await?, "one");
    let beside = dev.get("2.web.hello.default.localhost", "/").await?;
    assert_eq!((beside.status, beside.text().as_str()), (200, "two"));
    dev.pm(&["version", "promote", "hello", "2"])
        .await?
        .success()?;
    assert_eq!(body(&dev, "hello").await?, "two");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_detached_deployment_goes_on_in_the_cluster() -> Result<()> {
    let dev = DevProcess::start().await?;
    let application = TestApp::site("hello", "one")?;

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
    dev.pm(&["job", "follow", &job]).await?.success()?;

    assert_eq!(body(&dev, "hello").await?, "one");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn every_listing_is_json_when_asked() -> Result<()> {
    let dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::site("hello", "one")?).await?;

    for arguments in [
        &["status"][..],
        &["status", "hello"],
        &["version", "list", "hello"],
        &["job", "list"],
        &["job", "show", "1"],
        &["route", "list"],
        &["why", "hello"],
        &["why", "job:1"],
        &["why", "instance:1"],
        &["workspace", "list"],
        &["node", "list"],
        &["node", "show", "1"],
    ] {
        let human = dev.pm(arguments).await?.success()?;
        assert!(!human.stdout.trim().is_empty(), "{arguments:?}");
        let json = dev
            .pm(&[arguments, &["--format", "json"]].concat())
            .await?
            .success()?;
        json.json::<Value>()
            .with_context(|| format!("{arguments:?}"))?;
        assert_eq!(json.stderr, "", "{arguments:?}");
    }
    let view: ApplicationView = dev
        .pm(&["status", "hello", "--format", "json"])
        .await?
        .json()?;
    assert_eq!(view.current.map(|version| version.0), Some(1));
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn workspaces_keep_equal_names_apart() -> Result<()> {
    let dev = DevProcess::start().await?;
    dev.pm(&["workspace", "create", "test", "--name", "Test bench"])
        .await?
        .success()?;
    deploy(&dev, &TestApp::site("hello", "default")?).await?;
    let other = TestApp::site("hello", "test")?;

    dev.pm(&["deploy", other.argument()?, "--workspace", "test"])
        .await?
        .success()?;

    assert_eq!(body(&dev, "hello").await?, "default");
    let answer = dev.get("web.hello.test.localhost", "/").await?;
    assert_eq!(answer.text(), "test");
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_hostname_belongs_to_one_application() -> Result<()> {
    let dev = DevProcess::start().await?;
    let names = serde_json::json!(["shop.example.com", "*.shop.example.com"]);
    let mut first = TestApp::site("first", "first")?;
    first.set("/instances/0/hostnames", names.clone())?;
    let mut second = TestApp::site("second", "second")?;
    second.set("/instances/0/hostnames", names)?;
    deploy(&dev, &first).await?;

    let said = dev.pm(&["deploy", second.argument()?]).await?.failure()?;

    assert!(said.stderr.contains("shop.example.com"), "{}", said.stderr);
    for host in ["shop.example.com", "a.b.shop.example.com"] {
        assert_eq!(dev.get(host, "/").await?.text(), "first");
    }
    dev.passed();
    Ok(())
}
