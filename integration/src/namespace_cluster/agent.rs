//! What happens to agents: started, killed, paused; power that goes and comes.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::NamespaceCluster;
use crate::patience::eventually;

impl NamespaceCluster {
    /// Starts the agent of a machine that has joined, or that founds the cluster.
    ///
    /// # Errors
    /// When it runs, or cannot be executed.
    pub fn start_agent(&mut self, machine: u8) -> Result<()> {
        let api = self.api(machine);
        let found = self
            .machines
            .get_mut(&machine)
            .with_context(|| format!("there is a machine {machine}"))?;
        found.start(&self.network, api, None)
    }

    /// Kills an agent (SIGKILL); applications are not touched.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_agent(&mut self, machine: u8) -> Result<()> {
        self.signal_agent(machine, Signal::SIGKILL)?;
        self.machine_mut(machine)?.reap()
    }

    /// Kills several agents at once.
    ///
    /// # Errors
    /// When one does not run.
    pub fn kill_agents(&mut self, machines: &[u8]) -> Result<()> {
        for machine in machines {
            self.signal_agent(*machine, Signal::SIGKILL)?;
        }
        for machine in machines {
            self.machine_mut(*machine)?.reap()?;
        }
        Ok(())
    }

    /// Ends an agent in order (SIGTERM).
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn end_agent(&mut self, machine: u8) -> Result<()> {
        self.signal_agent(machine, Signal::SIGTERM)?;
        self.agent_ends(machine).await
    }

    /// Waits until an agent has ended.
    ///
    /// # Errors
    /// When it has not within the patience.
    pub async fn agent_ends(&mut self, machine: u8) -> Result<()> {
        let found = std::cell::RefCell::new(self.machine_mut(machine)?);
        eventually("the agent ends", || async {
            let is_running = found.borrow_mut().is_running().ok()?;
            (!is_running).then_some(())
        })
        .await?;
        found.borrow_mut().reap()
    }

    /// Sends a signal to an agent alone: SIGSTOP and SIGCONT pause it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_agent(&mut self, machine: u8, signal: Signal) -> Result<()> {
        let found = self.machine_mut(machine)?;
        ensure!(found.is_running()?, "the agent of machine {machine} ended");
        found.signal(signal)
    }

    /// The process of a machine's agent.
    ///
    /// # Errors
    /// When it has not been started.
    pub fn agent_pid(&self, machine: u8) -> Result<u32> {
        self.machines
            .get(&machine)
            .with_context(|| format!("there is a machine {machine}"))?
            .pid()
    }

    /// Cuts the power of these machines at once: agents, shims and applications end.
    ///
    /// # Errors
    /// When a process does not end.
    pub fn cut_power(&mut self, machines: &[u8]) -> Result<()> {
        self.network.cut_power(machines)?;
        for machine in machines {
            let found = self.machine_mut(*machine)?;
            found.reap()?;
            found.boot()?;
        }
        Ok(())
    }

    /// Power is back: the agent starts by itself, as its service would be started.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn restore_power(&mut self, machine: u8) -> Result<()> {
        self.start_agent(machine)
    }

    /// As [`start`](Self::start), with machines whose clocks can be set while they run.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when there is no C compiler.
    pub async fn start_with_clocks(roles: &[&str]) -> Result<Option<Self>> {
        let Some(mut cluster) = Self::start(roles).await? else {
            return Ok(None);
        };
        for machine in 1..=cluster.network.machines() {
            cluster.end_agent(machine).await?;
            cluster.set_clock(machine, 0)?;
            cluster.start_agent(machine)?;
            cluster.all_take_part().await?;
        }
        Ok(Some(cluster))
    }

    /// Sets a machine's time of day to so many seconds ahead of the real one.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn set_clock(&mut self, machine: u8, seconds_ahead: i64) -> Result<()> {
        self.machine_mut(machine)?.set_clock(seconds_ahead)
    }

    /// Fails when an agent has ended that nobody ended.
    ///
    /// # Errors
    /// Names its machine.
    pub fn all_agents_run(&mut self) -> Result<()> {
        let all: Vec<u8> = self.machines().collect();
        self.all_agents_run_of(&all)
    }

    /// As [`all_agents_run`](Self::all_agents_run), for some machines.
    ///
    /// # Errors
    /// Names the machine.
    pub fn all_agents_run_of(&mut self, machines: &[u8]) -> Result<()> {
        for machine in machines {
            let is_running = self.machine_mut(*machine)?.is_running()?;
            ensure!(is_running, "the agent of machine {machine} ended");
        }
        Ok(())
    }

    /// Pauses every process of a machine, as a suspended virtual machine.
    ///
    /// # Errors
    /// When the machine does not exist.
    pub fn pause_machine(&self, machine: u8) -> Result<()> {
        for process in self.network.processes(machine)? {
            process.pause();
        }
        Ok(())
    }

    /// Lets every process of a machine go on.
    ///
    /// # Errors
    /// When the machine does not exist.
    pub fn resume_machine(&self, machine: u8) -> Result<()> {
        for process in self.network.processes(machine)? {
            process.resume();
        }
        Ok(())
    }
}
