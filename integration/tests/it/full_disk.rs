//! E4: the pacemaker's disk is full: changes and uploads are refused with words, applications are
//! served, nothing acknowledged is lost, and changes go on without a restart when there is room.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use common::api::CreateWorkspace;
use common::id::WorkspaceStub;
use integration::{DevProcess, TestApp, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::support::{body, deploy};

/// A log, and more than the reserve below which a pacemaker takes nothing in.
const DISK: &str = "size=64m";
/// Leaves less than that reserve, and more than what is under way needs.
const MOST_BYTES: usize = 48 << 20;
/// What is acknowledged before the disk is full.
const ACKNOWLEDGED: usize = 20;

/// A small file system in place of a directory.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Moves what is in `path` to a small disk there; `None` where only root may.
    fn replace(path: &Path) -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: mounting a small disk needs root");
            return Ok(None);
        }
        let aside = path.with_extension("aside");
        std::fs::rename(path, &aside)?;
        std::fs::create_dir(path)?;
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(DISK),
        )
        .context("mounting a small disk")?;
        let disk = Self {
            path: path.to_owned(),
        };
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(aside.join("."))
            .arg(path)
            .status()?;
        ensure!(copied.success(), "copying to the small disk");
        Ok(Some(disk))
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves little room.
    fn fill_most(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.ballast())?;
        file.write_all(&vec![0; MOST_BYTES])?;
        Ok(())
    }

    /// Leaves no room.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::options().append(true).open(self.ballast())?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
    }
}

fn workspace(number: usize) -> Result<CreateWorkspace> {
    Ok(CreateWorkspace {
        name: format!("kept {number}"),
        stub: WorkspaceStub::parse(&format!("kept-{number}"))?,
        tags: std::collections::BTreeMap::new(),
    })
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut dev = DevProcess::start().await?;
    deploy(&dev, &TestApp::site("hello", "one")?).await?;
    dev.end_by(Signal::SIGTERM).await?;
    let Some(disk) = SmallDisk::replace(&dev.data().join("pacemaker"))? else {
        dev.passed();
        return Ok(());
    };
    dev.spawn()?;
    dev.ready().await?;
    let client = dev.client()?;
    for number in 0..ACKNOWLEDGED {
        client
            .create_workspace(&workspace(number)?, &format!("key-{number}"))
            .await?;
    }

    // A change is refused while there is still room for what is under way.
    disk.fill_most()?;
    let refused = workspace(ACKNOWLEDGED)?;
    let key = format!("key-{ACKNOWLEDGED}");
    let said = eventually("a change is refused", || async {
        client.create_workspace(&refused, &key).await.err()
    })
    .await?;
    ensure!(said.status() == Some(507), "{said}");

    // An upload is refused, and says why; what runs is served and shown.
    disk.fill()?;
    let large = TestApp::site("large", "large")?;
    let noise: String = (0..200_000_u32)
        .map(|number| number.wrapping_mul(2_654_435_761).to_string())
        .collect();
    large.file("site/noise.txt", &noise)?;
    let said = dev.pm(&["deploy", large.argument()?]).await?.failure()?;
    ensure!(said.stderr.contains("make room"), "{}", said.stderr);
    body(&dev, "hello").await?;
    dev.pm(&["status", "hello"]).await?.success()?;

    // With room again, changes go on without a restart.
    std::fs::remove_file(disk.ballast())?;
    eventually("a change is taken", || async {
        client.create_workspace(&refused, &key).await.ok()
    })
    .await?;
    dev.kill().await?;
    dev.spawn()?;
    dev.ready().await?;
    let found = dev.client()?.workspaces().await?;
    for number in 0..=ACKNOWLEDGED {
        let stub = workspace(number)?.stub;
        ensure!(
            found.iter().any(|workspace| workspace.stub == stub),
            "{stub} was acknowledged and is lost"
        );
    }
    eventually("the application answers", || async {
        body(&dev, "hello").await.ok()
    })
    .await?;
    dev.end_by(Signal::SIGINT).await?;
    drop(disk);
    dev.passed();
    Ok(())
}
