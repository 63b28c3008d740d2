//! The harness's own machines: they see each other, and each fault cuts what it says and no more.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::{Connection, Network, eventually, network_or_skip};
use tempfile::TempDir;

/// Where each machine serves.
const PORT: u16 = 8000;
/// Who does not connect within it is cut off.
const CONNECT_SECONDS: &str = "0.5";

/// Machines that each serve files.
struct Room {
    network: Network,
    directory: TempDir,
}

impl Room {
    async fn open(machines: u8) -> Result<Option<Self>> {
        let Some(network) = network_or_skip(machines)? else {
            return Ok(None);
        };
        let directory = tempfile::tempdir()?;
        let room = Self { network, directory };
        std::fs::write(room.boot_id(), "7f3c2a5e-0000-4000-8000-000000000001\n")?;
        for machine in 1..=machines {
            room.run(machine, &format!("python3 -m http.server {PORT}"))?;
        }
        for machine in 1..=machines {
            eventually("the machine serves", || async {
                room.answers(machine).await.then_some(())
            })
            .await?;
        }
        Ok(Some(room))
    }

    fn boot_id(&self) -> PathBuf {
        self.directory.path().join("boot_id")
    }

    /// Starts a command line on a machine.
    fn run(&self, machine: u8, line: &str) -> Result<u32> {
        let child = self
            .network
            .command(machine, &self.boot_id(), None, Path::new("sh"))
            .args(["-c", &format!("exec {line}")])
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(child.id())
    }

    /// Whether the test reaches a machine.
    async fn answers(&self, machine: u8) -> bool {
        let request = async {
            let address = (self.network.address(machine), PORT).into();
            Connection::open(address)
                .await?
                .get("here", "/boot_id")
                .await
        };
        matches!(
            tokio::time::timeout(Duration::from_millis(500), request).await,
            Ok(Ok(answer)) if answer.status == 200
        )
    }

    /// Whether one machine reaches another.
    async fn reaches(&self, from: u8, to: u8) -> Result<bool> {
        let address = self.network.address(to);
        let mut command = tokio::process::Command::from(self.network.command(
            from,
            &self.boot_id(),
            None,
            Path::new("timeout"),
        ));
        let status = command
            .args([CONNECT_SECONDS, "bash", "-c"])
            .arg(format!("exec 3<>/dev/tcp/{address}/{PORT}"))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await?;
        Ok(status.success())
    }

    /// Who reaches whom, as `1>2` and so on.
    async fn reached(&self) -> Result<Vec<String>> {
        let all = 1..=self.network.machines();
        let pairs: Vec<(u8, u8)> = all
            .clone()
            .flat_map(|from| all.clone().map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect();
        // At once: most of them wait for an answer that never comes.
        let tries = pairs.iter().map(|(from, to)| self.reaches(*from, *to));
        let answers = futures_util::future::join_all(tries).await;
        let mut found = Vec::new();
        for ((from, to), reaches) in pairs.iter().zip(answers) {
            if reaches? {
                found.push(format!("{from}>{to}"));
            }
        }
        Ok(found)
    }
}

#[tokio::test]
async fn faults_cut_what_they_say_and_no_more() -> Result<()> {
    let Some(room) = Room::open(3).await? else {
        return Ok(());
    };
    let all = ["1>2", "1>3", "2>1", "2>3", "3>1", "3>2"];
    ensure!(room.reached().await? == all);

    room.network.part(1, 2)?;
    ensure!(room.reached().await? == ["1>3", "2>3", "3>1", "3>2"]);
    room.network.heal()?;
    for fault in [Network::isolate, Network::deafen, Network::mute] {
        fault(&room.network, 1)?;
        ensure!(room.reached().await? == ["2>3", "3>2"]);
        ensure!(room.answers(1).await, "the test is cut off too");
        room.network.heal()?;
    }
    room.network.unplug(1)?;
    ensure!(!room.answers(1).await && !room.reaches(2, 1).await?);
    ensure!(room.answers(2).await);
    room.network.plug(1)?;

    eventually("all is as before", || async {
        (room.reached().await.ok()? == all).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_narrow_cable_is_slow() -> Result<()> {
    let Some(room) = Room::open(2).await? else {
        return Ok(());
    };
    // Half a megabit through a cable of one megabit.
    std::fs::write(room.directory.path().join("large"), vec![b'x'; 64 * 1024])?;
    room.network.narrow(1, "1mbit")?;
    let script = format!(
        "import urllib.request as r; r.urlopen('http://{}:{PORT}/large').read()",
        room.network.address(2)
    );
    let fetch = || async {
        let started = Instant::now();
        let mut command = tokio::process::Command::from(room.network.command(
            1,
            &room.boot_id(),
            None,
            Path::new("python3"),
        ));
        let status = command.args(["-c", &script]).status().await?;
        ensure!(status.success(), "{status}");
        anyhow::Ok(started.elapsed())
    };

    let narrow = fetch().await?;
    room.network.widen(1)?;
    let wide = fetch().await?;

    ensure!(
        narrow > wide + Duration::from_millis(150),
        "{narrow:?} {wide:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_power_cut_ends_every_process_of_the_machine_and_no_other() -> Result<()> {
    let Some(room) = Room::open(2).await? else {
        return Ok(());
    };
    room.run(1, "setsid sh -c 'sleep 1000 & sleep 1000 & wait'")?;
    eventually("the machine is busy", || async {
        (room.network.processes(1).ok()?.len() >= 4).then_some(())
    })
    .await?;

    room.network.cut_power(&[1])?;

    ensure!(room.network.processes(1)?.is_empty());
    ensure!(!room.answers(1).await && room.answers(2).await);
    Ok(())
}

#[tokio::test]
async fn a_machine_has_a_boot_id_of_its_own() -> Result<()> {
    let Some(room) = Room::open(1).await? else {
        return Ok(());
    };
    let mut command = room
        .network
        .command(1, &room.boot_id(), None, Path::new("cat"));

    let output = command.arg("/proc/sys/kernel/random/boot_id").output()?;

    ensure!(output.stdout == std::fs::read(room.boot_id())?);
    Ok(())
}

#[tokio::test]
async fn what_a_dead_test_left_is_removed_by_the_next() -> Result<()> {
    /// Held by who owns or removes what has this number, which no network takes.
    const LOCK: &str = "/run/paasmaker-test-networks/250";
    if network_or_skip(1)?.is_none() {
        return Ok(());
    }
    // Nobody removes what is half made: a test that builds its network holds the lock too.
    let owner = File::create(LOCK)?;
    owner.lock()?;
    let left = format!("pmt250-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &left]).status()?;
    ensure!(made.success());
    let mut process = stay_in(&left)?;

    drop(owner);
    let network = network_or_skip(1)?;

    ensure!(network.is_some());
    // A test beside this one may have been the next, and still be at it.
    eventually("what was left is gone", || async {
        let is_gone = !Path::new("/run/netns").join(&left).exists();
        is_gone.then_some(())
    })
    .await?;
    ensure!(!process.wait()?.success());
    Ok(())
}

/// A process that is in a namespace when this returns. Unless it is killed, it ends well with its
/// input, which a wait for it closes.
fn stay_in(namespace: &str) -> Result<Child> {
    let mut process = Command::new("ip")
        .args(["netns", "exec", namespace, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let input = process.stdin.as_mut().context("the input is piped")?;
    let output = process.stdout.as_mut().context("the output is piped")?;
    input.write_all(b"?")?;
    output.read_exact(&mut [0])?;
    Ok(process)
}
