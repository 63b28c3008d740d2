//! The pacemaker's disk is full: uploads are refused, nothing acknowledged is lost, the process ends
//! rather than lingers, and goes on when there is room again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use common::api::CreateWorkspace;
use common::id::WorkspaceStub;
use integration::{DevProcess, TestApp, eventually};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{body, deploy};

/// Room for a log and little else.
const DISK: &str = "size=3m";
/// Much in one entry of the log, so that the disk is full soon.
const TAG_BYTES: usize = 8 * 1024;
/// Entries after which the disk must have been full.
const ENTRIES_MAX: usize = 1_000;

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

    /// Leaves no room.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.ballast())?;
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
        tags: [("filler".to_owned(), json!("x".repeat(TAG_BYTES)))].into(),
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
    disk.fill()?;

    // An upload is refused, and says why.
    let large = TestApp::site("large", "large")?;
    let noise: String = (0..200_000_u32)
        .map(|number| number.wrapping_mul(2_654_435_761).to_string())
        .collect();
    large.file("site/noise.txt", &noise)?;
    let said = dev.pm(&["deploy", large.argument()?]).await?.failure()?;
    ensure!(said.stderr.contains("make room"), "{}", said.stderr);

    // The log takes what it has room for; then the process ends.
    let client = dev.client()?;
    let mut acknowledged = 0;
    while acknowledged < ENTRIES_MAX
        && client
            .create_workspace(&workspace(acknowledged)?, &format!("key-{acknowledged}"))
            .await
            .is_ok()
    {
        acknowledged += 1;
    }
    ensure!(acknowledged < ENTRIES_MAX, "the disk never became full");
    let code = dev.ended().await?;
    ensure!(code != Some(0), "the process ended as if all were well");
    let pm_err = std::fs::read_to_string(dev.directory().join("pm.err"))?;
    ensure!(pm_err.contains("pacemaker"), "{pm_err}");

    std::fs::remove_file(disk.ballast())?;
    dev.spawn()?;
    dev.ready().await?;
    let found = dev.client()?.workspaces().await?;
    for number in 0..acknowledged {
        let stub = workspace(number)?.stub;
        ensure!(
            found.iter().any(|workspace| workspace.stub == stub),
            "{stub} of {acknowledged} acknowledged workspaces is lost"
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
