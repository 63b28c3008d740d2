//! What the API is asked: deployments, and how long its answers take.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use common::api::DeployRequest;
use common::assignment::PackageReference;
use common::digest::Digest;
use common::id::{ApplicationId, Generation, WorkspaceStub};
use futures_util::StreamExt as _;
use pacemaker_client::Client;
use tokio_util::sync::CancellationToken;

use crate::Fallible;
use crate::times::{key, part, pause};

/// Crons of one instance type; a manifest may have no more.
const CRONS_OF_TYPE: usize = 100;
/// Deployments at once.
const DEPLOYMENTS: usize = 8;
/// Between two questions to the API.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// Reads and writes of the API, one after the other, with their times.
pub(crate) struct Asking {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Fallible<Asked>>,
}

#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) reads: Vec<Duration>,
    pub(crate) writes: Vec<Duration>,
}

impl Asked {
    pub(crate) fn text(&self) -> String {
        format!(
            "API: read p50 {:.1?}, p99 {:.1?}; write p50 {:.1?}, p99 {:.1?} ({} each)",
            part(&self.reads, 50),
            part(&self.reads, 99),
            part(&self.writes, 50),
            part(&self.writes, 99),
            self.writes.len()
        )
    }
}

impl Asking {
    pub(crate) fn start(client: &Client, application: ApplicationId) -> Self {
        let (stop, client) = (CancellationToken::new(), client.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut asked = Asked::default();
            while !stopped.is_cancelled() {
                let begun = Instant::now();
                client.application(application).await?;
                asked.reads.push(begun.elapsed());
                let begun = Instant::now();
                client.suspend_cron(application, "cron-0", &key()?).await?;
                asked.writes.push(begun.elapsed());
                pause(ASK_INTERVAL).await;
            }
            asked.reads.sort_unstable();
            asked.writes.sort_unstable();
            Ok(asked)
        });
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> Fallible<Asked> {
        self.stop.cancel();
        self.task.await?
    }
}

pub(crate) async fn deploy_all(
    client: &Client,
    name: &str,
    runspec: &str,
    (applications, crons): (usize, usize),
) -> Fallible<Vec<ApplicationId>> {
    let deployments = (0..applications).map(|number| {
        let name = format!("{name}-{number}");
        async move { deploy(client, &name, runspec, crons).await }
    });
    let deployed: Vec<Fallible<ApplicationId>> = futures_util::stream::iter(deployments)
        .buffer_unordered(DEPLOYMENTS)
        .collect()
        .await;
    deployed.into_iter().collect()
}

pub(crate) async fn deploy(
    client: &Client,
    name: &str,
    runspec: &str,
    crons: usize,
) -> Fallible<ApplicationId> {
    let mut manifest =
        format!("manifest: {{format: 1}}\napplication: {{name: {name}}}\ninstances:\n");
    for number in 0..crons {
        if number % CRONS_OF_TYPE == 0 {
            writeln!(
                manifest,
                "  - name: web-{number}\n    runtime: {{plugin: paasmaker.runtime.shell, version: 1, parameters: {{launch_command: \"serve %(port)d\"}}}}\n    crons:"
            )?;
        }
        writeln!(
            manifest,
            "      - {{runspec: \"{runspec}\", uri: /, overlap: allow, name: cron-{number}}}"
        )?;
    }
    let source = PackageReference {
        digest: Digest::of(b"source"),
        size: 6,
    };
    let file = std::env::temp_dir().join(format!("bench-crons-source-{}", std::process::id()));
    std::fs::write(&file, b"source")?;
    client.upload_package(&source, &file, &|_| ()).await?;
    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default")?,
        manifest,
        source: source.digest,
        promote: true,
    };
    let started = client.deploy(&request, &key()?).await?;
    let mut after = Generation(0);
    loop {
        if let Some(view) = client.watch_job(started.job, after).await? {
            after = view.generation;
            if view.job.state == common::job::JobState::Succeeded {
                return Ok(started.application);
            }
            if view.job.state.is_final() {
                return Err(format!("{name} was not deployed: {:?}", view.job).into());
            }
        }
    }
}
