//! `pm deploy`: checks, packs, uploads, asks for the deployment, and follows it.

use std::path::{Path, PathBuf};

use common::api::{DeployRequest, JobStarted};
use common::assignment::PackageReference;
use common::id::{ApplicationName, JobId, VersionNumber};
use common::manifest::Notice;
use serde::Serialize;

use crate::args::{DeployArguments, GlobalArguments};
use crate::connection::{Connection, idempotency_key};
use crate::error::{CommandError, code};
use crate::follow::follow;
use crate::manifest::{self, Manifest};

/// What was deployed.
#[derive(Debug, Serialize)]
pub(crate) struct Deployed {
    /// The application.
    pub(crate) application: ApplicationName,
    /// Its new version.
    pub(crate) version: VersionNumber,
    /// The deployment.
    pub(crate) job: JobId,
    /// False: `--detach` did not wait for the end.
    pub(crate) is_finished: bool,
    /// Where it answers.
    pub(crate) urls: Vec<String>,
    /// What the manifest says that has no effect yet.
    pub(crate) notices: Vec<Notice>,
}

/// Deploys and prints what came of it.
pub(crate) async fn run(
    arguments: &DeployArguments,
    global: &GlobalArguments,
) -> Result<(), CommandError> {
    // The manifest is checked before anything else is asked for: a fault needs no cluster to be seen.
    let doing = deploying(&arguments.directory);
    let manifest = read_manifest(arguments, &doing)?;
    let connection = Connection::open(global)?;
    let deployed = deploy_checked(&connection, arguments, manifest).await?;
    connection.output.result(&deployed, human)
}

/// Deploys over a connection that exists.
pub(crate) async fn deploy(
    connection: &Connection,
    arguments: &DeployArguments,
) -> Result<Deployed, CommandError> {
    let doing = deploying(&arguments.directory);
    let manifest = read_manifest(arguments, &doing)?;
    deploy_checked(connection, arguments, manifest).await
}

fn deploying(directory: &Path) -> String {
    format!("deploy {}", directory.display())
}

fn read_manifest(arguments: &DeployArguments, doing: &str) -> Result<Manifest, CommandError> {
    let path = arguments.manifest.as_ref().unwrap_or(&arguments.directory);
    manifest::read(doing, path)
}

async fn deploy_checked(
    connection: &Connection,
    arguments: &DeployArguments,
    manifest: Manifest,
) -> Result<Deployed, CommandError> {
    let application = manifest.checked.spec.application.clone();
    let doing = format!(
        "deploy `{application}` from {} to workspace `{}`",
        arguments.directory.display(),
        connection.workspace
    );
    for notice in &manifest.checked.notices {
        connection
            .progress
            .line(&manifest::notice_line(&manifest.path, notice));
    }

    let package = Package::of(connection, &arguments.directory, &doing).await?;
    let request = DeployRequest {
        workspace: connection.workspace.clone(),
        manifest: manifest.text,
        source: package.reference.digest.clone(),
        promote: !arguments.no_promote,
    };
    let started = start(connection, &request, &package, &doing).await?;
    connection.progress.line(&format!(
        "deploying version {} of `{application}` (job {})",
        started.version, started.job
    ));

    let mut deployed = Deployed {
        application,
        version: started.version,
        job: started.job,
        is_finished: !arguments.detach,
        urls: Vec::new(),
        notices: manifest.checked.notices,
    };
    if !arguments.detach {
        deployed.urls = follow(connection, started.job, &doing).await?.urls;
    }
    Ok(deployed)
}

/// Asks for the deployment, and uploads the package first when the cluster does not have it.
///
/// Asking first saves a question: most deployments after a mistake elsewhere are of a known package.
async fn start(
    connection: &Connection,
    request: &DeployRequest,
    package: &Package,
    doing: &str,
) -> Result<JobStarted, CommandError> {
    let ask = async || {
        let key = idempotency_key()?;
        Ok::<_, CommandError>(connection.client.deploy(request, &key).await)
    };
    match ask().await? {
        Err(error) if is_unknown_package(&error) => {
            package.upload(connection, doing).await?;
            ask().await?.map_err(connection.failed(doing))
        }
        answer => answer.map_err(connection.failed(doing)),
    }
}

fn is_unknown_package(error: &pacemaker_client::Error) -> bool {
    error
        .problem()
        .is_some_and(|problem| problem.code == "package_not_found")
}

/// A packed directory, kept until it is dropped.
struct Package {
    reference: PackageReference,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Package {
    async fn of(
        connection: &Connection,
        directory: &Path,
        doing: &str,
    ) -> Result<Self, CommandError> {
        connection.progress.spin("packing");
        let temporary = tempfile::Builder::new()
            .prefix("pm-package-")
            .tempdir()
            .map_err(|error| {
                CommandError::file(format!("{doing}: make a temporary directory"), &error)
            })?;
        let file = temporary.path().join("package");
        let reference = pack(directory.to_owned(), file.clone(), doing).await?;
        connection.progress.clear();
        Ok(Self {
            reference,
            file,
            _directory: temporary,
        })
    }

    /// Makes sure that the cluster has it.
    async fn upload(&self, connection: &Connection, doing: &str) -> Result<(), CommandError> {
        let progress = &connection.progress;
        progress.begin_bytes("uploading", self.reference.size);
        connection
            .client
            .upload_package(&self.reference, &self.file, &progress.position())
            .await
            .map_err(connection.failed(doing))?;
        progress.clear();
        Ok(())
    }
}

async fn pack(
    directory: PathBuf,
    package: PathBuf,
    doing: &str,
) -> Result<PackageReference, CommandError> {
    let packed = tokio::task::spawn_blocking(move || {
        heart::package::pack(&directory, &package, heart::package::EXCLUDED_NAMES)
    })
    .await;
    match packed {
        Ok(Ok(reference)) => Ok(reference),
        Ok(Err(error)) => Err(CommandError::new(
            code::FILE,
            doing,
            crate::error::chain(&error),
        )),
        Err(error) => Err(CommandError::new(code::FAILED, doing, error.to_string())),
    }
}

fn human(deployed: &Deployed) -> String {
    let Deployed {
        application,
        version,
        job,
        ..
    } = deployed;
    if !deployed.is_finished {
        return format!(
            "Job {job} deploys version {version} of `{application}`; `pm job follow {job}` follows it."
        );
    }
    let mut text = format!("Version {version} of `{application}` is deployed.\n");
    for url in &deployed.urls {
        text.push_str(url);
        text.push('\n');
    }
    text
}
