//! README's commands are typed as they stand there, so they cannot rot.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use integration::{DevProcess, PmOutput, PortRange, eventually, patience, pm_program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::support::body;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The heading of the part that is typed at a cluster of several machines.
const CLUSTER: &str = "\n## A cluster\n";

/// README, parted into what is about clusters and the rest.
fn parts() -> Result<(String, String)> {
    let text = std::fs::read_to_string(root().join("README.md")).context("reading README.md")?;
    let (before, rest) = text.split_once(CLUSTER).context("README has a cluster")?;
    let (cluster, after) = rest.split_once("\n## ").context("and more after it")?;
    Ok((cluster.to_owned(), format!("{before}\n## {after}")))
}

/// A line that is typed, as arguments of `pm`; samples are found from anywhere.
fn typed(line: &str) -> Vec<String> {
    let root = root();
    line.split_whitespace()
        .skip(1)
        .map(|word| {
            if word.starts_with("manifests/") {
                root.join(word).display().to_string()
            } else {
                word.to_owned()
            }
        })
        .collect()
}

/// The lines of the `sh` blocks of a text.
fn shell_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            line if in_block && !line.trim().is_empty() => lines.push(line.trim().to_owned()),
            _ => {}
        }
    }
    lines
}

#[test]
fn the_first_command_starts_the_sample() -> Result<()> {
    let (_, text) = parts()?;
    let lines = shell_lines(&text);
    assert_eq!(
        lines.first().map(String::as_str),
        Some("cargo run --release -- dev --deploy manifests/hello")
    );
    assert!(
        lines.iter().any(|line| line == "scripts/test"),
        "{lines:#?}"
    );
    Ok(())
}

#[test]
fn the_example_of_a_cron_is_a_manifest() -> Result<()> {
    const BEFORE: &str = "\
manifest: {format: 1}
application: {name: chores}
instances:
  - name: web
    runtime: {plugin: paasmaker.runtime.static, version: 1, parameters: {document_root: site}}
";
    let (_, text) = parts()?;
    let (_, rest) = text
        .split_once("```yaml\n    crons:")
        .context("README has crons")?;
    let (crons, _) = rest.split_once("```").context("and an end of them")?;
    let manifest = format!("{BEFORE}    crons:{crons}");
    let checked = common::manifest::parse(&manifest);
    let checked = checked.map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    assert!(checked.notices.is_empty(), "{:?}", checked.notices);
    assert_eq!(checked.spec.instance_types[0].crons.len(), 1);
    Ok(())
}

#[test]
fn the_signature_is_checked_as_the_sample_checks_it() -> Result<()> {
    let (_, text) = parts()?;
    let (_, rest) = text
        .split_once("```python\n")
        .context("README has Python")?;
    let (function, _) = rest.split_once("```").context("and an end of it")?;
    let sample = std::fs::read_to_string(root().join("manifests/crons/app.py"))?;
    assert!(sample.contains(function), "{function}");
    Ok(())
}

#[tokio::test]
async fn the_tour_works_as_it_stands() -> Result<()> {
    let options = integration::DevOptions {
        deploy: Some(root().join("manifests/hello")),
        ..integration::DevOptions::default()
    };
    let dev = DevProcess::start_with(options).await?;
    let (_, text) = parts()?;
    let lines: Vec<String> = shell_lines(&text)
        .into_iter()
        .filter(|line| line.starts_with("pm "))
        .collect();
    assert!(lines.len() >= 8, "{lines:#?}");

    for line in lines {
        let arguments = typed(&line);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        dev.pm(&arguments)
            .await?
            .success()
            .with_context(|| format!("typing {line:?}"))?;
    }

    assert!(body(&dev, "guestbook").await?.contains("\"greeting\""));
    dev.passed();
    Ok(())
}

/// A `scripts/dev-cluster` in a terminal of its own.
struct DevCluster {
    directory: tempfile::TempDir,
    /// Held for as long as the cluster may use them.
    _ports: PortRange,
    child: Child,
}

impl DevCluster {
    fn start(line: &str) -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for a cluster")?;
        let ports = PortRange::take()?;
        let first = *ports.ports().start();
        let said = std::fs::File::create(directory.path().join("said"))?;
        let mut words = line.split_whitespace();
        let script = root().join(words.next().context("a script is typed")?);
        let child = Command::new(script)
            .args(words)
            .env("PM_PROGRAM", pm_program()?)
            .env("PM_CLUSTER_DIR", directory.path().join("cluster"))
            .env("PM_CLUSTER_PORT", first.to_string())
            .env("PM_CLUSTER_ROUTER_PORT", (first + 40).to_string())
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("starting the script")?;
        Ok(Self {
            directory,
            _ports: ports,
            child,
        })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("said")).unwrap_or_default()
    }

    /// Ctrl-C; gives the exit code.
    async fn end(&mut self) -> Result<Option<i32>> {
        let pid = self.child.id().context("the script runs")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
        let ended = tokio::time::timeout(patience(), self.child.wait()).await;
        Ok(ended.context("the script ends")??.code())
    }
}

#[tokio::test]
async fn the_part_about_clusters_works_as_it_stands() -> Result<()> {
    let (text, _) = parts()?;
    let mut lines = shell_lines(&text).into_iter();
    let script = lines.next().context("a cluster is started first")?;
    let mut cluster = DevCluster::start(&script)?;
    eventually("the cluster runs", || async {
        cluster.said().contains("The cluster runs").then_some(())
    })
    .await
    .with_context(|| cluster.said())?;
    let config = cluster.directory.path().join("cluster/config");

    for line in lines {
        let arguments = typed(&line);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        PmOutput::of(&config, &arguments)
            .await?
            .success()
            .with_context(|| format!("typing {line:?}"))?;
    }

    assert_eq!(cluster.end().await?, Some(130));
    let left = crate::support::processes_of(cluster.directory.path());
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
