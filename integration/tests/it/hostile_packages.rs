//! Packages that want out of their directory, blow up, or are damaged: refused, and nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use common::api::DeployRequest;
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{Generation, WorkspaceStub};
use common::job::{Job, JobState};
use integration::{DevProcess, TestApp, eventually};

use crate::support::{body, deploy};

/// Writes one archive per argument pair, `kind` and file; `outside` is a directory that none of
/// them may reach.
const ARCHIVES: &str = r#"
import io, sys, tarfile
outside, manifest = sys.argv[1], open(sys.argv[2], "rb").read()

def entry(archive, name, content=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))

def fill(archive, kind):
    entry(archive, "manifest.yml", manifest)
    if kind == "dotdot":
        entry(archive, "../" * 12 + outside.lstrip("/") + "/escaped")
    elif kind == "absolute":
        entry(archive, outside + "/escaped")
    elif kind == "link":
        entry(archive, "door", b"", type=tarfile.SYMTYPE, linkname=outside)
        entry(archive, "door/escaped")
    elif kind == "hardlink":
        entry(archive, "door", b"", type=tarfile.LNKTYPE, linkname=outside + "/canary")
    elif kind == "device":
        entry(archive, "null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    elif kind == "bomb":
        entry(archive, "zeros", bytes(300 << 20))

for kind, path in zip(sys.argv[3::2], sys.argv[4::2]):
    with tarfile.open(path, "w:gz" if kind == "bomb" else "w") as archive:
        fill(archive, kind)
"#;

/// A cluster with a good version 1, and a directory that packages try to get at.
struct Scene {
    dev: DevProcess,
    application: TestApp,
    outside: tempfile::TempDir,
    trees: BTreeSet<String>,
}

impl Scene {
    async fn new() -> Result<Self> {
        let dev = DevProcess::start().await?;
        let application = TestApp::server("victim", "one")?;
        deploy(&dev, &application).await?;
        let outside = tempfile::tempdir()?;
        fs::write(outside.path().join("canary"), "untouched")?;
        Ok(Self {
            trees: names(&dev.data().join("heart/packages"))?,
            dev,
            application,
            outside,
        })
    }

    /// Uploads an archive as `pm deploy` does, and deploys it; answers the job at its end.
    async fn deploy_archive(&self, archive: &Path) -> Result<Job> {
        let package = self.upload(archive).await?;
        self.deploy_package(&package).await
    }

    async fn upload(&self, archive: &Path) -> Result<PackageReference> {
        let bytes = fs::read(archive)?;
        let package = PackageReference {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        let client = self.dev.client()?;
        client.upload_package(&package, archive, &|_| ()).await?;
        Ok(package)
    }

    async fn deploy_package(&self, package: &PackageReference) -> Result<Job> {
        let client = self.dev.client()?;
        let request = DeployRequest {
            workspace: WorkspaceStub::parse("default")?,
            manifest: fs::read_to_string(self.application.path().join("manifest.yml"))?,
            source: package.digest.clone(),
            promote: true,
        };
        let key = format!(
            "{}{}",
            package.digest,
            self.dev.application("victim").await?.versions.len()
        );
        let job = client.deploy(&request, &key).await?.job;
        let mut after = Generation(0);
        loop {
            let Some(view) = client.watch_job(job, after).await? else {
                continue;
            };
            after = view.generation;
            if view.job.state.is_final() {
                return Ok(view.job);
            }
        }
    }

    /// Version 1 serves, nothing outside was touched, and no tree or instance is left.
    async fn is_as_before(&self) -> Result<()> {
        assert_eq!(body(&self.dev, "victim").await?, "one");
        let outside = names(self.outside.path())?;
        assert_eq!(outside, BTreeSet::from(["canary".to_owned()]));
        let canary = fs::read_to_string(self.outside.path().join("canary"))?;
        assert_eq!(canary, "untouched");
        eventually("nothing of the refused version is left", || async {
            let packages = self.dev.data().join("heart/packages");
            let is_clean = names(&packages).ok()? == self.trees
                && names(&packages.join("partial")).ok()?.is_empty();
            let view = self.dev.application("victim").await.ok()?;
            let others = view.versions.iter().filter(|version| !version.is_current);
            let instances: usize = others
                .flat_map(|version| &version.instance_types)
                .map(|instance_type| instance_type.instances.len())
                .sum();
            (is_clean && instances == 0).then_some(())
        })
        .await
    }
}

#[tokio::test]
async fn an_archive_that_wants_out_or_blows_up_is_refused_and_leaves_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let archives = tempfile::tempdir()?;
    let kinds = [
        ("dotdot", "refused"),
        ("absolute", "refused"),
        ("link", "refused"),
        ("hardlink", "refused"),
        ("device", "refused"),
        ("bomb", "exceeds the limit"),
    ];
    let path = |kind: &str| archives.path().join(kind);
    let mut python = Command::new("python3");
    python
        .args(["-c", ARCHIVES])
        .arg(scene.outside.path())
        .arg(scene.application.path().join("manifest.yml"));
    for (kind, _) in kinds {
        python.arg(kind).arg(path(kind));
    }
    anyhow::ensure!(python.status()?.success(), "the archives were not made");

    for (kind, words) in kinds {
        let job = scene.deploy_archive(&path(kind)).await?;

        assert_eq!(job.state, JobState::Failed, "{kind}");
        let failure = job.failure.context("a failed job says why")?;
        assert_eq!(failure.code, "package_refused", "{kind}: {failure:?}");
        assert!(failure.message.contains(words), "{kind}: {failure:?}");
        scene.is_as_before().await.context(kind)?;
        let shown = scene
            .dev
            .pm(&["job", "follow", &job.id.to_string()])
            .await?;
        assert!(shown.stderr.contains(words), "{kind}: {}", shown.stderr);
    }
    scene.dev.passed();
    Ok(())
}

#[tokio::test]
async fn a_package_that_is_damaged_on_the_pacemakers_disk_is_never_deployed() -> Result<()> {
    let scene = Scene::new().await?;
    let archives = tempfile::tempdir()?;
    let two = TestApp::server("victim", "two")?;
    let archive = archives.path().join("two.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(two.path())
        .arg(".")
        .status()?;
    anyhow::ensure!(packed.success(), "tar failed");
    let package = scene.upload(&archive).await?;
    let stored = stored(&scene.dev, &package.digest);
    let mut bytes = fs::read(&stored)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&stored, bytes)?;

    let job = scene.deploy_package(&package).await?;

    assert_eq!(job.state, JobState::Failed);
    let failure = job.failure.context("a failed job says why")?;
    assert!(failure.message.contains("Upload it again"), "{failure:?}");
    assert!(!stored.exists(), "the damaged file is gone");
    assert_eq!(body(&scene.dev, "victim").await?, "one");

    // What the message says helps.
    scene.upload(&archive).await?;
    assert!(stored.exists());
    let job = scene.deploy_package(&package).await?;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.failure);
    assert_eq!(body(&scene.dev, "victim").await?, "two");
    scene.dev.passed();
    Ok(())
}

fn stored(dev: &DevProcess, digest: &Digest) -> PathBuf {
    let (shard, _) = digest.as_str().split_at(2);
    let packages = dev.data().join("pacemaker/packages");
    packages.join(shard).join(digest.as_str())
}

fn names(directory: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(directory)
        .with_context(|| format!("reading {}", directory.display()))?
        .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
        .collect()
}
