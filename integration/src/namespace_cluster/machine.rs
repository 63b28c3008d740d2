//! One machine: its directory, its roles and the agent's process.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::{Disk, Network};
use crate::pm::pm_program;

use super::wrong_clock::WrongClock;

/// A machine with what it keeps over restarts.
#[derive(Debug)]
pub(super) struct Machine {
    number: u8,
    directory: PathBuf,
    roles: String,
    agent: Option<Child>,
    boots: u32,
    /// In place of the pacemaker's directory, where a test wants one.
    disk: Option<Disk>,
    /// Where a test sets the time of day.
    clock: Option<WrongClock>,
}

/// The data directory of a machine.
pub(super) fn data(cluster: &Path, machine: u8) -> PathBuf {
    directory(cluster, machine).join("data")
}

/// What a machine's agent logged.
pub(super) fn log(cluster: &Path, machine: u8) -> PathBuf {
    data(cluster, machine).join("pm.log")
}

/// What the node of a machine is called.
pub(super) fn name(machine: u8) -> String {
    format!("machine-{machine}")
}

fn directory(cluster: &Path, machine: u8) -> PathBuf {
    cluster.join(format!("machine-{machine}"))
}

impl Machine {
    /// Unpacks a new machine.
    pub(super) fn set_up(cluster: &Path, number: u8, roles: &str) -> Result<Self> {
        let directory = directory(cluster, number);
        std::fs::create_dir_all(&directory).context("making a machine's directory")?;
        let machine = Self {
            number,
            directory,
            roles: roles.to_owned(),
            agent: None,
            boots: 0,
            disk: None,
            clock: None,
        };
        machine.write_boot_id()?;
        Ok(machine)
    }

    /// What the node is called.
    pub(super) fn name(&self) -> String {
        name(self.number)
    }

    /// The roles, as they are typed.
    pub(super) fn roles(&self) -> &str {
        &self.roles
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn boot_id(&self) -> PathBuf {
        self.directory.join("boot_id")
    }

    /// A boot id that no other boot has.
    fn write_boot_id(&self) -> Result<()> {
        let text = format!(
            "{:08x}-{:04x}-4000-8000-{:012x}\n",
            self.boots,
            self.number,
            std::process::id()
        );
        std::fs::write(self.boot_id(), text).context("writing a boot id")
    }

    /// Starts the agent.
    pub(super) fn start(
        &mut self,
        network: &Network,
        advertise: SocketAddr,
        token: Option<&str>,
    ) -> Result<()> {
        ensure!(!self.is_running()?, "the agent of {} runs", self.name());
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("agent.log"))
            .context("opening a file for the agent's output")?;
        let mut command = network.command(
            self.number,
            &self.boot_id(),
            self.disk.as_ref(),
            &pm_program()?,
        );
        command
            .arg("agent")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--roles", &self.roles])
            .args(["--advertise", &advertise.to_string()])
            .args(["--name", &self.name()]);
        if let Some(clock) = &self.clock {
            clock.show_to(&mut command);
        }
        if let Some(token) = token {
            command.args(["--join", token]);
        }
        command
            .env("XDG_CONFIG_HOME", self.directory.join("config"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing the output file")?)
            .stderr(output);
        self.agent = Some(command.spawn().context("starting pm agent")?);
        Ok(())
    }

    /// True while the agent's process exists.
    pub(super) fn is_running(&mut self) -> Result<bool> {
        let Some(agent) = &mut self.agent else {
            return Ok(false);
        };
        let ended = agent.try_wait().context("looking after the agent")?;
        Ok(ended.is_none())
    }

    /// The agent's process.
    pub(super) fn pid(&self) -> Result<u32> {
        let agent = self.agent.as_ref().context("the agent runs")?;
        Ok(agent.id())
    }

    /// Sends a signal to the agent alone.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("a process id fits")?;
        kill(Pid::from_raw(pid), signal).context("sending a signal to the agent")
    }

    /// Takes the end of the agent's process, which was killed.
    pub(super) fn reap(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent was started")?;
        agent.wait().context("waiting for the agent").map(|_| ())
    }

    /// Gives the pacemaker's directory a disk of its own; the agent does not run.
    pub(super) fn put_on_disk(&mut self, mebibytes: u64) -> Result<()> {
        ensure!(!self.is_running()?, "the agent of {} runs", self.name());
        let directory = self.data().join("pacemaker");
        self.disk = Some(Disk::replace(&directory, mebibytes)?);
        Ok(())
    }

    /// Sets the time of day that the agent sees; from its next start on at the latest.
    pub(super) fn set_clock(&mut self, seconds_ahead: i64) -> Result<()> {
        let clock = match &self.clock {
            Some(clock) => clock,
            None => self.clock.insert(WrongClock::make(&self.directory)?),
        };
        clock.set(seconds_ahead)
    }

    /// The disk that it was given.
    pub(super) fn disk(&self) -> Result<&Disk> {
        let missing = || format!("{} has a disk of its own", self.name());
        self.disk.as_ref().with_context(missing)
    }

    /// The next start is that of another boot.
    pub(super) fn boot(&mut self) -> Result<()> {
        self.boots += 1;
        self.write_boot_id()
    }
}
