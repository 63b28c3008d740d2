//! Web crons, with real requests to a receiver that records them.

mod hostile;
mod kills;
mod leaders;
mod policies;
mod process;
mod receiver;
mod slots;
mod stampede;

use std::sync::Arc;
use std::time::SystemTime;

use common::api::{CronRunState, CronRunView, DeployRequest};
use common::digest::Digest;
use common::id::{ApplicationId, InstanceId, RunId, WorkspaceStub};
use common::job::JobState;
use common::time::Timestamp;
use pacemaker::WallClock;
use pacemaker_client::Client;
use tempfile::TempDir;

use crate::crons::receiver::Receiver;
use crate::deploy::{finished, upload};
use crate::harness::{NODE, Pacemaker, config, eventually};
use crate::node::FakeNode;

/// A minute in two seconds: slots come quickly, and 30 seconds of grace are one.
pub(crate) const RATE: u32 = 30;
/// Milliseconds until a first deployment has succeeded.
const DEPLOYED_WITHIN: u64 = 2_500;
/// A slot that no test lives to see.
pub(crate) const NEVER: &str = "0 0 1 1 *";

/// One pacemaker with an application whose instances are a receiver.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) pacemaker: Pacemaker,
    pub(crate) client: Client,
    pub(crate) receiver: Receiver,
    pub(crate) application: ApplicationId,
    pub(crate) wall: WallClock,
    _node: FakeNode,
}

impl World {
    /// Its clock is the world's.
    pub(crate) async fn with(quantity: u32, crons: &str) -> Self {
        Self::with_clock(WallClock::system(), quantity, crons).await
    }

    /// Its minutes pass in seconds.
    pub(crate) async fn fast(quantity: u32, crons: &str) -> Self {
        // The state dates what is deployed by the time of the log, which is not scaled.
        let start = Timestamp(real_now().0 + DEPLOYED_WITHIN);
        let world = Self::with_clock(WallClock::scaled(start, RATE), quantity, crons).await;
        world.wall_is_past(start).await;
        world
    }

    async fn with_clock(wall: WallClock, quantity: u32, crons: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        config.wall_clock = wall;
        let pacemaker = Pacemaker::start_with(config).await;
        let client = pacemaker.administrator();
        let receiver = Receiver::new();
        let node = node(&pacemaker.node(), &receiver, &pacemaker.url).await;
        let application = deploy(&client, &manifest(quantity, crons)).await;
        Self {
            directory,
            pacemaker,
            client,
            receiver,
            application,
            wall,
            _node: node,
        }
    }

    pub(crate) async fn deploy(&self, quantity: u32, crons: &str) {
        deploy(&self.client, &manifest(quantity, crons)).await;
    }

    /// Runs a cron now, and waits for its end.
    pub(crate) async fn run(&self, cron: &str) -> CronRunView {
        let started = self.start(cron).await;
        ended(&self.client, started.id).await
    }

    pub(crate) async fn start(&self, cron: &str) -> CronRunView {
        let key = key();
        let started = self.client.start_cron_run(self.application, cron, &key);
        started.await.unwrap()
    }

    /// Newest first.
    pub(crate) async fn runs(&self, cron: &str) -> Vec<CronRunView> {
        let runs = self
            .client
            .cron_runs(self.application, Some(cron), None, 100);
        runs.await.unwrap()
    }

    /// Waits until its clock has passed `time`.
    pub(crate) async fn wall_is_past(&self, time: Timestamp) {
        eventually("time has passed", async || {
            (self.wall.now() > time).then_some(())
        })
        .await;
    }

    /// The newest run of a cron in a state.
    pub(crate) async fn run_in(&self, cron: &str, state: CronRunState) -> CronRunView {
        eventually(&format!("{cron} is {state:?}"), async || {
            let runs = self.runs(cron).await;
            runs.into_iter().find(|run| run.state == state)
        })
        .await
    }

    pub(crate) async fn log(&self, run: RunId) -> String {
        let log = self.client.cron_run_log(run, 0).await.unwrap();
        String::from_utf8_lossy(&log.bytes).into_owned()
    }
}

/// A heart and a router whose instances are the receiver's.
pub(crate) async fn node(client: &Client, receiver: &Receiver, api: &str) -> FakeNode {
    let receiver = receiver.clone();
    let port = Arc::new(move |instance: InstanceId| receiver.port(instance));
    FakeNode::start_at(client, api, port).await
}

pub(crate) async fn deploy(client: &Client, manifest: &str) -> ApplicationId {
    let request = DeployRequest {
        workspace: WorkspaceStub::parse("default").unwrap(),
        manifest: manifest.to_owned(),
        source: upload(client, manifest.as_bytes()).await,
        promote: true,
    };
    let key = Digest::of(manifest.as_bytes()).to_string();
    let started = client.deploy(&request, &key).await.unwrap();
    let job = finished(client, started.job).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    started.application
}

/// `crons` is a YAML list in flow style, an item on each line.
pub(crate) fn manifest(quantity: u32, crons: &str) -> String {
    let crons: String = crons
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| format!("      - {line}\n"))
        .collect();
    format!(
        "
manifest:
  format: 1
application:
  name: hello
instances:
  - name: web
    quantity: {quantity}
    hostnames: [hello.example.com]
    runtime:
      plugin: paasmaker.runtime.shell
      version: 1
      parameters:
        launch_command: \"serve %(port)d\"
    crons:
{crons}"
    )
}

pub(crate) async fn ended(client: &Client, run: RunId) -> CronRunView {
    eventually("the run has ended", async || {
        let view = client.cron_run(run).await.ok()?;
        view.state.is_final().then_some(view)
    })
    .await
}

pub(crate) fn real_now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(u64::try_from(since.unwrap().as_millis()).unwrap())
}

/// An idempotency key that nobody has used.
pub(crate) fn key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// All pacemakers of a cluster, as a node knows them.
pub(crate) fn node_client(urls: &[String]) -> Client {
    Client::new(urls, NODE).unwrap()
}
