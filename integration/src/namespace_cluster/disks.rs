//! Disks of pacemakers: what they had not flushed is lost with the power, they fail, stall, fill up.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::NamespaceCluster;
use crate::network::{Disk, Stall, disks_or_skip};

impl NamespaceCluster {
    /// As [`start`](Self::start), with a disk of so many mebibytes under each pacemaker.
    ///
    /// # Errors
    /// As [`start`](Self::start), and when a tool refuses.
    pub async fn start_on_disks(roles: &[&str], mebibytes: u64) -> Result<Option<Self>> {
        if !disks_or_skip()? {
            return Ok(None);
        }
        let Some(mut cluster) = Self::start(roles).await? else {
            return Ok(None);
        };
        for machine in cluster.with_role("pacemaker") {
            cluster.end_agent(machine).await?;
            cluster.machine_mut(machine)?.put_on_disk(mebibytes)?;
            cluster.start_agent(machine)?;
            cluster.all_take_part().await?;
        }
        Ok(Some(cluster))
    }

    /// The disk of a machine, and its agent's process.
    fn disk(&self, machine: u8) -> Result<(&Disk, u32)> {
        let found = self.machines.get(&machine);
        let found = found.with_context(|| format!("there is a machine {machine}"))?;
        Ok((found.disk()?, found.pid()?))
    }

    /// A file on a machine's disk, while its agent runs.
    ///
    /// # Errors
    /// When it has no disk.
    pub fn on_disk(&self, machine: u8, name: &str) -> Result<PathBuf> {
        let (disk, process) = self.disk(machine)?;
        Ok(disk.seen_by(process).join(name))
    }

    /// Cuts the power of these machines; of what was not flushed to their disks nothing is left.
    ///
    /// # Errors
    /// When a tool refuses, or a process does not end.
    pub async fn lose_power(&mut self, machines: &[u8]) -> Result<()> {
        // Nobody does anything between the end of the disk and its own.
        for machine in machines {
            self.pause_machine(*machine)?;
        }
        for machine in machines {
            self.fail_disk(*machine)?;
        }
        self.cut_power(machines)?;
        for machine in machines {
            self.disk_is_free(*machine).await?;
        }
        Ok(())
    }

    /// Lets a machine's disk fail: what was not flushed is lost, and nothing is taken any more.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn fail_disk(&self, machine: u8) -> Result<()> {
        let (disk, process) = self.disk(machine)?;
        disk.shut_down(process)
    }

    /// Waits until nothing on the machine uses its disk any more, so that it is mounted anew.
    ///
    /// # Errors
    /// When something does.
    pub async fn disk_is_free(&self, machine: u8) -> Result<()> {
        let found = self.machines.get(&machine);
        let found = found.with_context(|| format!("there is a machine {machine}"))?;
        found.disk()?.is_free().await
    }

    /// Lets a machine's disk take nothing until this is dropped.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn stall_disk(&self, machine: u8) -> Result<Stall> {
        let (disk, process) = self.disk(machine)?;
        disk.stall(process)
    }

    /// Lets a machine's disk take half a second for everything, until this is dropped.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn slow_disk(&self, machine: u8) -> Result<Stall> {
        let (disk, process) = self.disk(machine)?;
        disk.crawl(process)
    }

    /// Leaves so many mebibytes of room at most on a machine's disk.
    ///
    /// # Errors
    /// When it has no disk.
    pub fn fill_disk(&self, machine: u8, left: u64) -> Result<()> {
        let (disk, process) = self.disk(machine)?;
        disk.fill(process, left)
    }

    /// Makes room on a disk that was filled, whether its agent runs or has ended.
    ///
    /// # Errors
    /// When a tool refuses.
    pub fn empty_disk(&mut self, machine: u8) -> Result<()> {
        let found = self.machine_mut(machine)?;
        let process = found.is_running()?.then(|| found.pid()).transpose()?;
        found.disk()?.empty(process)
    }
}
