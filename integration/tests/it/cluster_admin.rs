//! What an admin types: a cluster is made, machines join it, it says how it stands, machines leave.
//!
//! Each machine is a `pm agent` of its own on a port of this machine; nothing here needs root.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::{Connection, PmOutput, PortRange, TestApp, eventually, patience, pm_program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

const ALL: &str = "pacemaker,heart,router";
/// Ports of the range that APIs and routers have; the rest is for instances.
const OWN_PORTS: u16 = 16;
/// Ports for the instances of one machine.
const INSTANCE_PORTS: u16 = 8;

/// A cluster as an admin sees it.
struct Admin {
    directory: tempfile::TempDir,
    ports: PortRange,
    agents: Vec<(u16, Child)>,
}

impl Admin {
    fn new() -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new()
                .prefix("pm-test-admin-")
                .tempdir()
                .context("making a directory for a cluster")?,
            ports: PortRange::take()?,
            agents: Vec::new(),
        })
    }

    fn data(&self, machine: u16) -> PathBuf {
        self.directory.path().join(format!("machine-{machine}"))
    }

    fn api(&self, machine: u16) -> String {
        format!("127.0.0.1:{}", self.ports.ports().start() + machine)
    }

    fn router(&self, machine: u16) -> String {
        let port = self.ports.ports().start() + OWN_PORTS / 2 + machine;
        format!("127.0.0.1:{port}")
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// What is said of a machine when it is made.
    fn settings(&self, machine: u16) -> Vec<String> {
        let first = self.ports.ports().start() + OWN_PORTS + (machine - 1) * INSTANCE_PORTS;
        let router_port = self.ports.ports().start() + OWN_PORTS / 2 + machine;
        [
            format!("--data-dir={}", self.data(machine).display()),
            format!("--advertise={}", self.api(machine)),
            format!("--name=machine-{machine}"),
            format!("--router-port={router_port}"),
            "--router-address=127.0.0.1".to_owned(),
            format!("--instance-ports={first}-{}", first + INSTANCE_PORTS - 1),
        ]
        .into()
    }

    async fn pm(&self, arguments: &[&str]) -> Result<PmOutput> {
        PmOutput::of(&self.config(), arguments).await
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--format", "json"]].concat();
        self.pm(&arguments).await?.success()?.json()
    }

    /// `pm cluster init` on machine 1.
    async fn init(&self) -> Result<Value> {
        self.init_with(&[]).await
    }

    async fn init_with(&self, more: &[&str]) -> Result<Value> {
        let settings = self.settings(1);
        let mut arguments = vec!["cluster", "init"];
        arguments.extend(settings.iter().map(String::as_str));
        arguments.extend(more);
        self.json(&arguments).await
    }

    /// Kills all agents, as a power cut would.
    async fn kill(&mut self) -> Result<()> {
        for (_, mut child) in self.agents.drain(..) {
            child.kill().await.context("killing an agent")?;
        }
        Ok(())
    }

    /// Kills the agent of one machine.
    async fn kill_one(&mut self, machine: u16) -> Result<()> {
        let agent = self.agents.iter().position(|(of, _)| *of == machine);
        let (_, mut child) = self.agents.remove(agent.context("the agent runs")?);
        child.kill().await.context("killing an agent")
    }

    /// Waits until so many pacemakers vote.
    async fn has_voters(&self, count: usize) -> Result<Value> {
        eventually(&format!("{count} pacemakers vote"), || async {
            let status = self.json(&["cluster", "status"]).await.ok()?;
            let members = status["members"].as_array()?;
            let voters = members.iter().filter(|member| member["part"] == "voter");
            (voters.count() == count && status["problems"] == serde_json::json!([]))
                .then_some(status)
        })
        .await
        .with_context(|| self.logs())
    }

    /// What a node shows of itself on its disk.
    fn certificate(&self, machine: u16) -> Result<String> {
        let path = self.data(machine).join("tls/node.pem");
        fs::read_to_string(path).context("reading a certificate")
    }

    fn log(&self, machine: u16) -> PathBuf {
        self.directory.path().join(format!("agent-{machine}.log"))
    }

    /// The agent of a machine, as it is typed.
    fn agent(&self, machine: u16, arguments: &[&str]) -> Result<Command> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(machine))
            .context("opening a file for the agent's output")?;
        let mut command = Command::new(pm_program()?);
        command
            .arg("agent")
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.directory.path().join("nobody"))
            .env_remove("PM_CONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the output file")?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command)
    }

    /// Starts the agent of a machine that has its settings.
    fn start(&mut self, machine: u16) -> Result<()> {
        let data = format!("--data-dir={}", self.data(machine).display());
        let child = self.agent(machine, &[&data])?.spawn()?;
        self.agents.push((machine, child));
        Ok(())
    }

    /// Types the join command that was printed, and where this machine keeps and listens besides.
    fn join(&mut self, machine: u16, printed: &str) -> Result<()> {
        let settings = self.settings(machine);
        let mut words = printed.split_whitespace();
        ensure!(words.next() == Some("pm") && words.next() == Some("agent"));
        let arguments: Vec<&str> = words.chain(settings.iter().map(String::as_str)).collect();
        let child = self.agent(machine, &arguments)?.spawn()?;
        self.agents.push((machine, child));
        Ok(())
    }

    /// What an agent says that is refused.
    async fn refused(&self, machine: u16, printed: &str) -> Result<String> {
        let settings = self.settings(machine);
        let words = printed.split_whitespace().skip(2);
        let arguments: Vec<&str> = words.chain(settings.iter().map(String::as_str)).collect();
        let mut child = self.agent(machine, &arguments)?.spawn()?;
        let ended = tokio::time::timeout(patience(), child.wait())
            .await
            .context("the agent ends")??;
        ensure!(ended.code() == Some(1), "the agent ended with {ended}");
        Ok(fs::read_to_string(self.log(machine))?)
    }

    /// Waits until the cluster lists so many active nodes.
    async fn lists(&self, count: usize) -> Result<Vec<Value>> {
        eventually(&format!("{count} nodes are listed"), || async {
            let nodes = self.json(&["node", "list"]).await.ok()?;
            let nodes = nodes.as_array()?.clone();
            let active = nodes.iter().filter(|node| node["state"] == "active");
            (active.count() == count).then_some(nodes)
        })
        .await
        .with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        let said = |machine| fs::read_to_string(self.log(machine)).unwrap_or_default();
        (1..=4)
            .map(|machine| format!("--- machine {machine}\n{}", said(machine)))
            .collect()
    }
}

impl Drop for Admin {
    /// Ends agents first, because a heart that runs starts again what is stopped.
    fn drop(&mut self) {
        for (_, child) in &mut self.agents {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default();
                while matches!(child.try_wait(), Ok(None)) {
                    std::thread::yield_now();
                }
            }
        }
        for machine in 1..=4 {
            if self.data(machine).join("heart").exists() {
                stop_applications(&self.data(machine));
            }
        }
    }
}

fn stop_applications(data: &Path) {
    let stopped = pm_program().and_then(|program| {
        std::process::Command::new(program)
            .args(["agent", "--stop", "--data-dir"])
            .arg(data)
            .stdout(Stdio::null())
            .status()
            .context("stopping the applications")
    });
    if let Err(error) = stopped {
        tracing::warn!(%error, "applications may be left running");
    }
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("it is a text")
}

#[tokio::test]
async fn machines_join_with_one_command_each() -> Result<()> {
    let mut admin = Admin::new()?;
    let made = admin.init().await?;
    let first_command = text(&made["join_command"])?.to_owned();
    admin.start(1)?;
    admin.lists(1).await?;

    admin.join(2, &first_command)?;
    admin.lists(2).await?;
    let said = admin.refused(3, &first_command).await?;
    assert!(said.contains("could not join the cluster"), "{said}");
    assert!(said.contains("pm cluster token"), "{said}");
    let secret = text(&made["token"])?.rsplit('/').next().unwrap_or_default();
    assert!(!said.contains(secret), "{said}");

    let token = admin.json(&["cluster", "token", "--roles", ALL]).await?;
    admin.join(3, text(&token["join_command"])?)?;
    let nodes = admin.lists(3).await?;
    let names: Vec<&str> = nodes
        .iter()
        .filter_map(|node| node["description"]["name"].as_str())
        .collect();
    assert_eq!(names, ["machine-1", "machine-2", "machine-3"]);

    let status = admin.has_voters(3).await?;
    assert_eq!(status["id"], made["cluster"]);
    let said = admin.pm(&["cluster", "status"]).await?.success()?.stdout;
    assert!(said.contains("All is well."), "{said}");

    let site = TestApp::site("hello", "one")?;
    admin.pm(&["deploy", site.argument()?]).await?.success()?;
    for machine in 1..=3 {
        let mut connection = Connection::open(admin.router(machine).parse()?).await?;
        let answer = connection.get("web.hello.default.localhost", "/").await?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "one"));
    }
    Ok(())
}

#[tokio::test]
async fn people_log_in_when_they_know_the_authority() -> Result<()> {
    let mut admin = Admin::new()?;
    let made = admin.init().await?;
    admin.start(1)?;
    admin.lists(1).await?;
    let url = text(&made["api"])?;
    let token = text(&made["administrator_token"])?;
    let other = admin.directory.path().join("another-person");
    let login = |arguments: Vec<String>| {
        let mut command = Command::new(pm_program()?);
        command
            .args(["login", url])
            .args(arguments)
            .env("XDG_CONFIG_HOME", &other)
            .env("PM_TOKEN", token);
        anyhow::Ok(command)
    };

    let unknown = login(Vec::new())?.output().await?;
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("--ca"), "{said}");
    let wrong = login(vec![format!("--fingerprint={}", "0".repeat(64))])?;
    let wrong = { wrong }.output().await?;
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("the token was not sent"), "{said}");

    let authority = admin.data(1).join("tls/ca.pem");
    for known in [
        format!("--ca={}", authority.display()),
        format!("--fingerprint={}", text(&made["fingerprint"])?),
    ] {
        let done = login(vec![known])?.output().await?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(0), "{said}");
        PmOutput::of(&other, &["node", "list"]).await?.success()?;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_cannot_start_says_what_to_do() -> Result<()> {
    let admin = Admin::new()?;
    let data = format!("--data-dir={}", admin.data(1).display());
    let said = admin.pm(&["agent", &data]).await?.failure()?.stderr;
    assert!(said.contains("pm cluster init"), "{said}");

    let config = admin.directory.path().join("paasmaker.yml");
    fs::write(&config, "name: one\nrouter_prt: 80\n")?;
    let config = config.to_str().context("the name is UTF-8")?;
    let said = admin.pm(&["agent", "--config", config]).await?.failure()?;
    assert!(said.stderr.contains("line 2, column 1"), "{}", said.stderr);

    let made = admin.init().await?;
    let said = admin.init().await.unwrap_err().to_string();
    assert!(said.contains("a node already"), "{said}");
    let token = text(&made["token"])?;
    let cut = format!("pm agent --join {}", &token[..token.len() - 40]);
    let said = admin.refused(2, &cut).await?;
    assert!(said.contains("copy all of it"), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_empty_machine_leaves_and_is_forgotten() -> Result<()> {
    let mut admin = Admin::new()?;
    admin.init().await?;
    admin.start(1)?;
    admin.lists(1).await?;
    let token = admin
        .json(&["cluster", "token", "--roles", "heart"])
        .await?;
    admin.join(2, text(&token["join_command"])?)?;
    admin.lists(2).await?;
    let mut site = TestApp::site("hello", "one")?;
    site.set("/instances/0/quantity", 4.into())?;
    admin.pm(&["deploy", site.argument()?]).await?.success()?;
    let before = admin.json(&["node", "show", "2"]).await?;
    assert!(before["instances"].as_u64() > Some(0), "{before}");
    let refused = admin.pm(&["node", "remove", "2"]).await?.failure()?;
    assert!(
        refused.stderr.contains("pm node drain 2"),
        "{}",
        refused.stderr
    );

    let drained = admin.json(&["node", "drain", "2"]).await?;

    assert_eq!(drained["instances"], 0, "{drained}");
    let mut connection = Connection::open(admin.router(1).parse()?).await?;
    let answer = connection.get("web.hello.default.localhost", "/").await?;
    assert_eq!(answer.status, 200);
    admin.pm(&["node", "remove", "2"]).await?.success()?;
    admin.lists(1).await?;
    let missing = admin.pm(&["node", "show", "2"]).await?.failure()?;
    assert!(
        missing.stderr.contains("pm node list"),
        "{}",
        missing.stderr
    );
    Ok(())
}

#[tokio::test]
async fn a_pacemaker_that_died_is_taken_out_and_another_is_not() -> Result<()> {
    let mut admin = Admin::new()?;
    admin.init().await?;
    admin.start(1)?;
    admin.lists(1).await?;
    for machine in [2, 3] {
        let token = admin.json(&["cluster", "token", "--roles", ALL]).await?;
        admin.join(machine, text(&token["join_command"])?)?;
    }
    admin.lists(3).await?;
    admin.has_voters(3).await?;
    let said = admin.pm(&["cluster", "remove", "9"]).await?.failure()?;
    assert!(said.stderr.contains("pm cluster status"), "{}", said.stderr);
    admin.kill_one(3).await?;

    let refused = admin.pm(&["cluster", "remove", "2"]).await?.failure()?;
    assert!(refused.stderr.contains("majority"), "{}", refused.stderr);
    let done = admin.pm(&["cluster", "remove", "3"]).await?.success()?;

    assert!(done.stdout.contains("pm node remove 3"), "{}", done.stdout);
    // Somebody who is not sure types it again.
    admin.pm(&["cluster", "remove", "3"]).await?.success()?;
    let status = eventually("the group is the two that remain", || async {
        let status = admin.json(&["cluster", "status"]).await.ok()?;
        let members = status["members"].as_array()?;
        let nodes: Vec<u64> = members
            .iter()
            .filter_map(|member| member["node"].as_u64())
            .collect();
        (nodes == [1, 2]).then_some(status)
    })
    .await
    .with_context(|| admin.logs())?;
    let problems = status["problems"].to_string();
    assert!(problems.contains("even number"), "{status}");
    admin.lists(2).await?;
    admin.pm(&["node", "remove", "3"]).await?.success()?;
    let nodes = admin.json(&["node", "list"]).await?;
    assert_eq!(nodes.as_array().map(Vec::len), Some(2), "{nodes}");
    let created = admin.pm(&["workspace", "create", "after"]).await?;
    created.success()?;
    Ok(())
}

#[tokio::test]
async fn certificates_renew_by_themselves_and_after_a_night_without_power() -> Result<()> {
    /// So short that a test can outlive it, and long enough for two slow cores to renew in time.
    const LIFE: Duration = Duration::from_secs(8);
    let mut admin = Admin::new()?;
    admin.init_with(&["--certificate-ttl", "8s"]).await?;
    admin.start(1)?;
    admin.lists(1).await?;
    let token = admin
        .json(&["cluster", "token", "--roles", "heart"])
        .await?;
    admin.join(2, text(&token["join_command"])?)?;
    admin.lists(2).await?;

    for machine in [1, 2] {
        let before = admin.certificate(machine)?;
        eventually(&format!("machine {machine} renews"), || async {
            (admin.certificate(machine).ok()? != before).then_some(())
        })
        .await
        .with_context(|| admin.logs())?;
    }
    admin.kill().await?;
    let before = admin.certificate(2)?;
    // The fault: nobody runs until every certificate has ended.
    tokio::time::timeout(LIFE, std::future::pending::<()>())
        .await
        .ok();
    admin.start(2)?;
    admin.start(1)?;

    eventually("both come back by themselves", || async {
        let nodes = admin.json(&["node", "list"]).await.ok()?;
        let nodes = nodes.as_array()?;
        let is_back = nodes.len() == 2 && nodes.iter().all(|node| node["state"] == "active");
        (is_back && admin.certificate(2).ok()? != before).then_some(())
    })
    .await
    .with_context(|| admin.logs())?;
    Ok(())
}
