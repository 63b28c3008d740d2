//! What a process sees, exactly as manifest.md says; and that no string becomes a command.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use integration::{DevProcess, TestApp};
use serde_json::{Value, json};

use crate::support::deploy;

async fn environment(dev: &DevProcess, application: &str) -> Result<BTreeMap<String, String>> {
    let answer = dev
        .get(&DevProcess::host(application), "/environment")
        .await?;
    serde_json::from_str(&answer.text()).context("reading the environment")
}

#[tokio::test]
async fn a_process_is_given_what_the_contract_says_and_nothing_else() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::server("contract", "body")?;
    application.set(
        "/application/env",
        json!({ "A": "application", "B": "application" }),
    )?;
    application.set("/instances/0/env", json!({ "B": "type", "N": 4 }))?;
    application.set(
        "/services",
        json!([{
            "name": "variables",
            "plugin": "paasmaker.service.parameters",
            "parameters": { "one": "two", "three": 3 },
        }]),
    )?;
    deploy(&dev, &application).await?;

    let environment = environment(&dev, "contract").await?;

    let instance = &dev.instances("contract").await?[0];
    let view = dev.application("contract").await?;
    let version_id = view.versions[0].id;
    let metadata: Value = serde_json::from_str(&environment["PM_METADATA"])?;
    assert_eq!(
        metadata,
        json!({
            "application": {
                "application_id": view.id,
                "name": "contract",
                "version": 1,
                "version_id": version_id,
                "workspace": metadata["application"]["workspace"],
                "workspace_stub": "default",
            },
            "node": {},
            "workspace": {},
        })
    );
    assert_eq!(
        serde_json::from_str::<Value>(&environment["PM_SERVICES"])?,
        json!({ "variables": { "one": "two", "three": 3, "provider": "paasmaker.service.parameters" } })
    );
    let port = instance.port.context("it has a port")?.to_string();
    assert_eq!(
        (&environment["PM_PORT"], &environment["PORT"]),
        (&port, &port)
    );
    assert_eq!(environment["PM_INSTANCE"], instance.id.to_string());
    assert_eq!(environment["PM_INSTANCE_TYPE"], "web");
    assert_eq!(
        ["A", "B", "N"].map(|name| environment[name].as_str()),
        ["application", "type", "4"]
    );
    for inherited in [
        "XDG_CONFIG_HOME",
        "CARGO_MANIFEST_DIR",
        "CARGO",
        "RUST_BACKTRACE",
    ] {
        assert!(!environment.contains_key(inherited), "{inherited}");
    }
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn an_application_keeps_the_key_that_its_crons_are_signed_with() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::server("signed", "body")?;
    deploy(&dev, &application).await?;
    let without_crons = environment(&dev, "signed").await?;

    application.set(
        "/instances/0/crons",
        json!([{ "runspec": "@yearly", "uri": "/yearly" }]),
    )?;
    deploy(&dev, &application).await?;
    let first = environment(&dev, "signed").await?;
    deploy(&dev, &application).await?;
    let second = environment(&dev, "signed").await?;

    assert!(!without_crons.contains_key("PM_CRON_KEY"));
    let key = &first["PM_CRON_KEY"];
    assert_eq!(key.len(), 64, "{key}");
    assert!(key.bytes().all(|digit| digit.is_ascii_hexdigit()), "{key}");
    assert_eq!(&second["PM_CRON_KEY"], key);
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn prepare_and_startup_see_their_part_of_the_contract() -> Result<()> {
    let dev = DevProcess::start().await?;
    let mut application = TestApp::server("steps", "body")?;
    application.prepare(&[
        r#"echo "prepare port=[${PM_PORT:-}] instance=[${PM_INSTANCE:-}] services=$PM_SERVICES" > body.txt"#,
        r#"test -n "$PM_METADATA""#,
    ])?;
    application
        .startup(&[r#"echo "startup port=[$PM_PORT] instance=[$PM_INSTANCE]" >> body.txt"#])?;
    deploy(&dev, &application).await?;

    let text = dev.get(&DevProcess::host("steps"), "/").await?.text();

    let instance = &dev.instances("steps").await?[0];
    let port = instance.port.context("it has a port")?;
    assert_eq!(
        text,
        format!(
            "prepare port=[] instance=[] services={{}}\nstartup port=[{port}] instance=[{}]\n",
            instance.id
        )
    );
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn no_string_of_a_user_becomes_a_command() -> Result<()> {
    let dev = DevProcess::start().await?;
    let marker = dev.directory().join("pwned");
    let attack = format!(
        "$(touch {0}) `touch {0}` ; touch {0} | touch {0} && touch {0} > {0} '\"\\ %(x)s ${{IFS}} *",
        marker.display()
    );
    dev.pm(&[
        "workspace",
        "create",
        "evil",
        "--name",
        "; touch $HOME",
        "--tag",
        &format!("k={attack}"),
    ])
    .await?
    .success()?;
    let mut application = TestApp::server("victim", "body")?;
    application.set("/application/env", json!({ "ATTACK": attack }))?;
    application.set("/application/tags", json!({ "attack": attack }))?;
    application.set(
        "/services",
        json!([{
            "name": "variables",
            "plugin": "paasmaker.service.parameters",
            "parameters": { "attack": attack },
        }]),
    )?;
    let quoted = "python3 -u server.py %(port)d ';' touch 'a b' '$(touch x)' '`id`' '>' y";
    application.set(
        "/instances/0/runtime/parameters/launch_command",
        quoted.into(),
    )?;
    application.prepare(&["true"])?;
    application.startup(&["true"])?;

    dev.pm(&["--workspace", "evil", "deploy", application.argument()?])
        .await?
        .success()?;

    let answer = dev.get("web.victim.evil.localhost", "/environment").await?;
    let environment: BTreeMap<String, String> = serde_json::from_str(&answer.text())?;
    assert_eq!(environment["ATTACK"], attack);
    let services: Value = serde_json::from_str(&environment["PM_SERVICES"])?;
    assert_eq!(services["variables"]["attack"], json!(attack));
    let metadata: Value = serde_json::from_str(&environment["PM_METADATA"])?;
    assert_eq!(metadata["workspace"]["k"], json!(attack));
    assert!(!marker.exists());
    for host in ["$(id)", "a;b", "../x", "web.victim.evil.localhost/../../x"] {
        let answer = dev.get(host, "/").await?;
        assert!(answer.status >= 400, "{host}: {answer:?}");
    }
    dev.passed();
    Ok(())
}
