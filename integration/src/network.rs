//! Machines in miniature: network namespaces that are joined by a switch, with cables that can be cut.
//!
//! ```text
//!   the test (198.18.N.254) ──┐
//!                             │ switch (a bridge in a namespace of its own)
//!   machine 1 (198.18.N.1) ───┤
//!   machine 2 (198.18.N.2) ───┘
//! ```
//! A [`Network`] owns one number N, so that tests run side by side, and with it the namespaces
//! `pmtN-s` (the switch), `pmtN-1`, `pmtN-2` … and the interface `pmtN`. They are removed when it is
//! dropped, and by the next test when their owner died before that.
//!
//! Faults are of two kinds. A cable that is pulled ([`unplug`](Network::unplug)) is noticed by the
//! machine and cuts it off from the test too. Packets that vanish ([`isolate`](Network::isolate),
//! [`part`](Network::part) and so on) are noticed by nobody, and never vanish between a machine and
//! the test: what a machine that is cut off says can still be asked.

mod availability;
mod disk;
mod leftovers;
mod processes;
mod tools;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

pub(crate) use self::availability::disks_or_skip;
pub use self::availability::network_or_skip;
pub use self::disk::{Disk, Stall};
pub use self::processes::ProcessHandle;

use self::tools::{ip_batch, nft, run};

/// Locks, one file for each number. Not in a temporary directory: namespaces are the machine's.
const LOCKS: &str = "/run/paasmaker-test-networks";
/// Where `ip netns` keeps the namespaces.
const NAMESPACES: &str = "/run/netns";
/// Before the number in all names.
const PREFIX: &str = "pmt";
/// Networks of 198.18.0.0/16: addresses for tests of networks, which lead nowhere else.
const COUNT: u8 = 200;
/// The machine's end of its cable.
const CABLE: &str = "eth0";
/// The last number of the test's own address.
const OBSERVER: u8 = 254;
/// More machines than any test needs.
const MACHINES_MAX: u8 = 16;
/// Packets that vanish are dropped by rules in these chains.
const RULES: &str = "table inet faults {
    chain hears { type filter hook input priority 0; policy accept; }
    chain says { type filter hook output priority 0; policy accept; }
}
";

/// Puts the boot id and the disk in place and becomes the program.
const WITH_BOOT_ID: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id || exit
if [ -n "$1" ]; then mount -o loop "$1" "$2" || exit; fi
shift 2
exec "$@""#;

/// A switch with machines on it, counted from 1.
#[derive(Debug)]
pub struct Network {
    number: u8,
    machines: u8,
    /// The lock on the number; released when the process ends, however it ends.
    _lock: File,
}

impl Network {
    /// Joins so many machines.
    ///
    /// # Errors
    /// When a tool is missing or refuses.
    pub fn build(machines: u8) -> Result<Self> {
        ensure!(
            (1..=MACHINES_MAX).contains(&machines),
            "{machines} machines"
        );
        leftovers::remove()?;
        let (number, lock) = take_number()?;
        let network = Self {
            number,
            machines,
            _lock: lock,
        };
        network.lay_cables()?;
        Ok(network)
    }

    fn lay_cables(&self) -> Result<()> {
        let (number, switch) = (self.number, self.switch());
        let mut lines = vec![format!("netns add {switch}")];
        lines.extend(
            (1..=self.machines).map(|machine| format!("netns add {PREFIX}{number}-{machine}")),
        );
        lines.extend([
            format!("link add {PREFIX}{number} type veth peer name test netns {switch}"),
            format!("addr add 198.18.{number}.{OBSERVER}/24 dev {PREFIX}{number}"),
            format!("link set {PREFIX}{number} up"),
        ]);
        ip_batch(None, &lines)?;
        let mut lines = vec![
            "link add switch type bridge stp_state 0 forward_delay 0".to_owned(),
            "link set switch up".to_owned(),
            "link set test master switch up".to_owned(),
        ];
        for machine in 1..=self.machines {
            let namespace = self.namespace(machine);
            lines.push(format!(
                "link add port{machine} type veth peer name {CABLE} netns {namespace}"
            ));
            lines.push(format!("link set port{machine} master switch up"));
        }
        ip_batch(Some(&switch), &lines)?;
        for machine in 1..=self.machines {
            let namespace = self.namespace(machine);
            let address = self.address(machine);
            ip_batch(
                Some(&namespace),
                &[
                    "link set lo up".to_owned(),
                    format!("addr add {address}/24 dev {CABLE}"),
                    format!("link set {CABLE} up"),
                ],
            )?;
            nft(&namespace, RULES)?;
        }
        Ok(())
    }

    /// The number of machines.
    #[must_use]
    pub fn machines(&self) -> u8 {
        self.machines
    }

    /// Where a machine is reached.
    #[must_use]
    pub fn address(&self, machine: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, machine)
    }

    /// Where the test is reached by the machines.
    #[must_use]
    pub fn observer(&self) -> Ipv4Addr {
        self.address(OBSERVER)
    }

    /// The machine's network namespace.
    #[must_use]
    pub fn namespace(&self, machine: u8) -> String {
        format!("{PREFIX}{}-{machine}", self.number)
    }

    fn switch(&self) -> String {
        format!("{PREFIX}{}-s", self.number)
    }

    /// Pulls the machine's cable.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn unplug(&self, machine: u8) -> Result<()> {
        ip_batch(
            Some(&self.switch()),
            &[format!("link set port{machine} down")],
        )
    }

    /// Puts the machine's cable back.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn plug(&self, machine: u8) -> Result<()> {
        ip_batch(
            Some(&self.switch()),
            &[format!("link set port{machine} up")],
        )
    }

    /// Lets all packets between the machine and the others vanish.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn isolate(&self, machine: u8) -> Result<()> {
        self.deafen(machine)?;
        self.mute(machine)
    }

    /// Lets all packets from other machines to this one vanish: it is heard and hears nobody.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn deafen(&self, machine: u8) -> Result<()> {
        let rule = format!(
            "add rule inet faults hears iifname {CABLE} ip saddr != {} drop",
            self.observer()
        );
        nft(&self.namespace(machine), &rule)
    }

    /// Lets all packets from this machine to others vanish: it hears and is heard by nobody.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn mute(&self, machine: u8) -> Result<()> {
        let rule = format!(
            "add rule inet faults says oifname {CABLE} ip daddr != {} drop",
            self.observer()
        );
        nft(&self.namespace(machine), &rule)
    }

    /// Lets all packets between two machines vanish; both see the others.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn part(&self, one: u8, other: u8) -> Result<()> {
        for (here, there) in [(one, other), (other, one)] {
            let rule = format!(
                "add rule inet faults hears ip saddr {} drop",
                self.address(there)
            );
            nft(&self.namespace(here), &rule)?;
        }
        Ok(())
    }

    /// Lets all packets vanish on these links, from the one to the other, and on no others.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn clog(&self, links: &[(u8, u8)]) -> Result<()> {
        for machine in 1..=self.machines {
            let rules: String = links
                .iter()
                .filter(|(_, to)| *to == machine)
                .map(|(from, _)| {
                    let from = self.address(*from);
                    format!("add rule inet faults hears ip saddr {from} drop\n")
                })
                .collect();
            // In one step: no moment with neither the old rules nor the new ones.
            let all = format!("flush table inet faults\n{rules}");
            nft(&self.namespace(machine), &all)?;
        }
        Ok(())
    }

    /// Ends what [`isolate`](Self::isolate), [`deafen`](Self::deafen), [`mute`](Self::mute),
    /// [`part`](Self::part) and [`clog`](Self::clog) began, everywhere.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn heal(&self) -> Result<()> {
        for machine in 1..=self.machines {
            nft(&self.namespace(machine), "flush table inet faults")?;
        }
        Ok(())
    }

    /// Limits what reaches the machine, to such as `1mbit`.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn narrow(&self, machine: u8, rate: &str) -> Result<()> {
        let switch = self.switch();
        let port = format!("port{machine}");
        run(
            "tc",
            &[
                "-n", &switch, "qdisc", "replace", "dev", &port, "root", "tbf", "rate", rate,
                "burst", "16kb", "latency", "400ms",
            ],
        )
    }

    /// Ends what [`narrow`](Self::narrow) began.
    ///
    /// # Errors
    /// When the tool refuses.
    pub fn widen(&self, machine: u8) -> Result<()> {
        let switch = self.switch();
        let port = format!("port{machine}");
        run("tc", &["-n", &switch, "qdisc", "del", "dev", &port, "root"])
    }

    /// A command that runs on a machine, with its own view of file systems and its own boot id.
    ///
    /// The boot id is what the file `boot_id` says at that moment. The command's process is the
    /// program itself: a signal to it reaches nobody else.
    /// With a disk, that is mounted for the program and what it starts.
    #[must_use]
    pub fn command(
        &self,
        machine: u8,
        boot_id: &Path,
        disk: Option<&Disk>,
        program: &Path,
    ) -> Command {
        let nothing = Path::new("");
        let (image, directory) = disk.map_or((nothing, nothing), Disk::mount);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={NAMESPACES}/{}", self.namespace(machine)))
            .args(["unshare", "--mount", "--propagation", "private"])
            .args(["sh", "-c", WITH_BOOT_ID])
            .args([boot_id, image, directory, program]);
        command
    }

    /// Every process of a machine.
    ///
    /// # Errors
    /// When the machine does not exist.
    pub fn processes(&self, machine: u8) -> Result<Vec<ProcessHandle>> {
        processes::of(&self.namespace(machine))
    }

    /// Cuts the power of these machines: every process ends at once, applications too.
    ///
    /// # Errors
    /// When one of them does not end.
    pub fn cut_power(&self, machines: &[u8]) -> Result<()> {
        let namespaces: Vec<String> = machines
            .iter()
            .map(|machine| self.namespace(*machine))
            .collect();
        processes::end_all(&namespaces)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = leftovers::remove_number(self.number) {
            tracing::warn!(error = format!("{error:#}"), "namespaces are left behind");
        }
    }
}

/// Takes a number that nobody holds.
fn take_number() -> Result<(u8, File)> {
    // Begin where another process hardly begins, so that addresses are not reused at once.
    let begin = u8::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for step in 0..COUNT {
        let number = u8::try_from((u16::from(begin) + u16::from(step)) % u16::from(COUNT))
            .context("a number of a network is small")?;
        if let Some(lock) = lock(number)? {
            return Ok((number, lock));
        }
    }
    bail!("all {COUNT} networks are held by other tests")
}

/// Takes a number, unless somebody holds it.
fn lock(number: u8) -> Result<Option<File>> {
    std::fs::create_dir_all(LOCKS).context("making the directory of network locks")?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(PathBuf::from(LOCKS).join(number.to_string()))
        .context("opening a network lock")?;
    Ok(flock(&file, FlockOperation::NonBlockingLockExclusive)
        .is_ok()
        .then_some(file))
}
