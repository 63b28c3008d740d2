//! A `pm dev` in a process of its own, as a user starts it: killed, started again, typed at.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use common::api::{ApplicationView, InstanceView};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pacemaker_client::Client;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::http::{Answer, Connection};
use crate::load::Load;
use crate::patience::eventually;
use crate::pm::{PmOutput, pm_program};
use crate::port_range::PortRange;
use crate::views::{application, instances};

/// How much of the roles' log a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// What a test may choose.
#[derive(Clone, Debug, Default)]
pub struct DevOptions {
    /// Seconds that the version before stays warm.
    pub watch_window: Option<u64>,
    /// Deployed at the start.
    pub deploy: Option<PathBuf>,
    /// How many ports instances may have; otherwise all of the test's range.
    pub instance_ports: Option<u16>,
}

/// A one-node cluster in a process of its own, with everything that it leaves on disk.
#[derive(Debug)]
pub struct DevProcess {
    directory: Option<TempDir>,
    options: DevOptions,
    ports: PortRange,
    child: Option<Child>,
    addresses: Option<Addresses>,
    has_passed: bool,
}

/// What `pm dev` writes about itself.
#[derive(Clone, Debug, Deserialize)]
struct Addresses {
    api: String,
    router: String,
    pid: u32,
}

impl DevProcess {
    /// Starts a cluster and waits until all of its roles run.
    ///
    /// # Errors
    /// When it does not start: shows what it said.
    pub async fn start() -> Result<Self> {
        Self::start_with(DevOptions::default()).await
    }

    /// As [`start`](Self::start), with choices.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(options: DevOptions) -> Result<Self> {
        let mut process = Self {
            directory: Some(
                tempfile::Builder::new()
                    .prefix("pm-test-dev-")
                    .tempdir()
                    .context("making a directory for pm dev")?,
            ),
            options,
            ports: PortRange::take()?,
            child: None,
            addresses: None,
            has_passed: false,
        };
        process.spawn()?;
        process.ready().await?;
        Ok(process)
    }

    /// Starts the process again after its end, in the same directory and on the same ports.
    ///
    /// Returns at once; [`ready`](Self::ready) waits.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn spawn(&mut self) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory().join("pm.err"))
            .context("opening a file for the output of pm dev")?;
        let mut command = Command::new(pm_program()?);
        let port = |url: Option<&str>| {
            url.and_then(|url| url.rsplit_once(':'))
                .map_or_else(|| "0".to_owned(), |(_, port)| port.to_owned())
        };
        let addresses = self.addresses.as_ref();
        command
            .arg("dev")
            .arg("--data-dir")
            .arg(self.data())
            .args([
                "--api-port",
                &port(addresses.map(|addresses| &*addresses.api)),
            ])
            .args([
                "--router-port",
                &port(addresses.map(|addresses| &*addresses.router)),
            ])
            .args(["--instance-ports", &self.instance_ports()])
            .env("XDG_CONFIG_HOME", self.config_home())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the output file")?)
            .stderr(log);
        if let Some(seconds) = self.options.watch_window {
            command.args(["--watch-window", &seconds.to_string()]);
        }
        if let Some(directory) = &self.options.deploy {
            command.arg("--deploy").arg(directory);
        }
        self.child = Some(command.spawn().context("starting pm dev")?);
        Ok(())
    }

    /// Ends a story well: nothing is left behind. A story that ends in any other way leaves its logs.
    pub fn passed(mut self) {
        self.has_passed = true;
    }

    fn instance_ports(&self) -> String {
        let ports = self.ports.ports();
        let last = self
            .options
            .instance_ports
            .map_or_else(|| *ports.end(), |count| ports.start() + count - 1);
        format!("{}-{last}", ports.start())
    }

    /// The ports that instances may have.
    #[must_use]
    pub fn ports(&self) -> std::ops::RangeInclusive<u16> {
        self.ports.ports()
    }

    /// Waits until the process that was spawned last serves.
    ///
    /// # Errors
    /// When it ends instead, or does not within the patience.
    pub async fn ready(&mut self) -> Result<()> {
        let path = self.data().join("addresses.json");
        let child = self.child.as_mut().context("pm dev has been started")?;
        let pid = child.id().context("pm dev runs")?;
        let child = std::cell::RefCell::new(child);
        let seen = eventually("pm dev serves", || async {
            if let Ok(Some(status)) = child.borrow_mut().try_wait() {
                return Some(Err(status));
            }
            let text = fs::read(&path).ok()?;
            let addresses: Addresses = serde_json::from_slice(&text).ok()?;
            (addresses.pid == pid).then_some(Ok(addresses))
        })
        .await?;
        match seen {
            Ok(addresses) => {
                self.addresses = Some(addresses);
                Ok(())
            }
            Err(status) => bail!(
                "pm dev ended with {status}: {}",
                fs::read_to_string(self.directory().join("pm.err")).unwrap_or_default()
            ),
        }
    }

    /// Kills the process as a power cut would (SIGKILL); applications are not touched.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("pm dev runs")?;
        child.kill().await.context("killing pm dev")
    }

    /// Sends a signal and waits for the end; gives the exit code.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn end_by(&mut self, signal: Signal) -> Result<Option<i32>> {
        send(self.pid()?, signal)?;
        self.ended().await
    }

    /// Waits for the end of the process, which somebody else causes; gives the exit code.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        let mut child = self.child.take().context("pm dev runs")?;
        let status = tokio::time::timeout(crate::patience(), child.wait())
            .await
            .context("pm dev does not end")?
            .context("waiting for pm dev")?;
        Ok(status.code())
    }

    /// The process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.child
            .as_ref()
            .and_then(Child::id)
            .context("pm dev runs")
    }

    /// Where the test's files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory
            .as_ref()
            .map_or_else(|| Path::new("."), TempDir::path)
    }

    /// The data directory of the cluster.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    fn config_home(&self) -> PathBuf {
        self.directory().join("config")
    }

    /// The URL of the API.
    ///
    /// # Errors
    /// Before the cluster has served for the first time.
    pub fn api(&self) -> Result<&str> {
        self.addresses
            .as_ref()
            .map(|addresses| addresses.api.as_str())
            .context("pm dev has served")
    }

    /// The router's address.
    ///
    /// # Errors
    /// Before the cluster has served for the first time.
    pub fn router(&self) -> Result<SocketAddr> {
        let addresses = self.addresses.as_ref().context("pm dev has served")?;
        addresses
            .router
            .trim_start_matches("http://")
            .parse()
            .context("reading the router's address")
    }

    /// Types a `pm` command, as the user who started the cluster.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn pm(&self, arguments: &[&str]) -> Result<PmOutput> {
        PmOutput::of(&self.config_home(), arguments).await
    }

    /// A client of the API with the user's login.
    ///
    /// # Errors
    /// When there is no login.
    pub fn client(&self) -> Result<Client> {
        #[derive(Deserialize)]
        struct Secrets {
            administrator_token: String,
        }
        let text = fs::read(self.data().join("secrets.json")).context("reading the secrets")?;
        let secrets: Secrets = serde_json::from_slice(&text).context("reading the secrets")?;
        Client::new(&[self.api()?.to_owned()], &secrets.administrator_token)
            .context("making a client")
    }

    /// One request through the router on a connection of its own.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer> {
        let mut connection = Connection::open(self.router()?).await?;
        connection.get(host, path).await
    }

    /// What the node tells Prometheus.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let address = self.api()?.trim_start_matches("http://");
        let mut connection = Connection::open(address.parse()?).await?;
        let answer = connection.get(address, "/metrics").await?;
        Ok(answer.text())
    }

    /// Constant load on a host.
    ///
    /// # Errors
    /// Before the cluster has served for the first time.
    pub fn load(&self, host: &str, connections: usize) -> Result<Load> {
        Ok(Load::start(self.router()?, host, connections))
    }

    /// The hostname that an application's type has in workspace `default`.
    #[must_use]
    pub fn host(application: &str) -> String {
        format!("web.{application}.default.localhost")
    }

    /// An application of workspace `default`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn application(&self, name: &str) -> Result<ApplicationView> {
        application(&self.client()?, name).await
    }

    /// The instances of an application's current version.
    ///
    /// # Errors
    /// When there is no such application.
    pub async fn instances(&self, name: &str) -> Result<Vec<InstanceView>> {
        instances(&self.client()?, name).await
    }
}

/// Sends a signal to a process.
fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).context("a process id fits")?;
    kill(Pid::from_raw(pid), signal).context("sending a signal")
}

impl Drop for DevProcess {
    /// Ends the cluster and its applications; keeps the directory when the test has failed.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.start_kill()
        {
            tracing::warn!(%error, "pm dev could not be killed");
        }
        if let Some(child) = &mut self.child {
            // The lock of the data directory is released when the process is gone.
            while matches!(child.try_wait(), Ok(None)) {
                std::thread::yield_now();
            }
        }
        let stopped = pm_program().and_then(|program| {
            std::process::Command::new(program)
                .args(["dev", "--stop", "--data-dir"])
                .arg(self.data())
                .stdout(Stdio::null())
                .status()
                .context("stopping the applications")
        });
        if let Err(error) = stopped {
            tracing::warn!(%error, "applications may be left running");
        }
        if !self.has_passed
            && let Some(directory) = self.directory.take()
        {
            show(&directory.keep());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a failed test says what the cluster said and where the rest is"
)]
fn show(directory: &Path) {
    let log = fs::read_to_string(directory.join("data/pm.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    eprintln!(
        "--- the end of pm.log\n{}\n--- everything is kept in {}",
        tail.join("\n"),
        directory.display()
    );
}
