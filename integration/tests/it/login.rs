//! Being let in, and being refused.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use integration::{DevProcess, PmOutput, pm_program};
use tokio::io::AsyncWriteExt as _;

async fn log_in(home: &std::path::Path, url: &str, token: &str) -> Result<PmOutput> {
    let mut child = tokio::process::Command::new(pm_program()?)
        .args(["login", url, "--token-stdin"])
        .env("XDG_CONFIG_HOME", home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin is a pipe")?;
    stdin.write_all(token.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    Ok(PmOutput {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn token(dev: &DevProcess, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(dev.data().join("secrets.json"))?;
    let secrets: serde_json::Value = serde_json::from_str(&text)?;
    secrets[name]
        .as_str()
        .map(str::to_owned)
        .context("the secret is text")
}

#[tokio::test]
async fn another_user_logs_in_with_a_token() -> Result<()> {
    let dev = DevProcess::start().await?;
    let home = tempfile::tempdir()?;
    let token = token(&dev, "administrator_token")?;

    let said = log_in(home.path(), dev.api()?, &format!("{token}\n"))
        .await?
        .success()?;

    assert!(!said.stdout.contains(&token) && !said.stderr.contains(&token));
    PmOutput::of(home.path(), &["status"]).await?.success()?;
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_not_kept() -> Result<()> {
    let dev = DevProcess::start().await?;
    let home = tempfile::tempdir()?;

    let said = log_in(home.path(), dev.api()?, "wrong").await?.failure()?;

    assert!(said.stderr.contains("pm login"), "{}", said.stderr);
    assert!(!home.path().join("paasmaker/login.json").exists());
    dev.passed();
    Ok(())
}

#[tokio::test]
async fn the_token_of_a_node_opens_nothing_for_people() -> Result<()> {
    let dev = DevProcess::start().await?;
    let home = tempfile::tempdir()?;
    let token = token(&dev, "node_token")?;

    log_in(home.path(), dev.api()?, &token).await?;
    let mut login = tokio::process::Command::new(pm_program()?);
    let output = login
        .args(["--url", dev.api()?, "workspace", "create", "stolen"])
        .env("XDG_CONFIG_HOME", home.path())
        .env("PM_TOKEN", &token)
        .output()
        .await?;

    assert_eq!(output.status.code(), Some(1));
    let list = dev.pm(&["workspace", "list"]).await?.success()?;
    assert!(!list.stdout.contains("stolen"));
    dev.passed();
    Ok(())
}
