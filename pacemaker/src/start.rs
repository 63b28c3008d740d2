//! From a configuration to a pacemaker that leads and answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::id::WorkspaceStub;
use pacemaker_core::command::{Command, TokenRole};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, token_hash};
use crate::http::{self, Api};
use crate::identity::Identity;
use crate::job_log::JobLogs;
use crate::leader::LeaderLoop;
use crate::metrics::Metrics;
use crate::package_store::PackageStore;
use crate::raft::{self, ProposeError, Proposer};
use crate::replica::Replica;
use crate::{Error, Running, files, housekeeping};

/// The workspace that a new cluster has.
const FIRST_WORKSPACE: &str = "default";
/// How long a connection to a heart may take; nodes of one cluster are near each other.
const NODE_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts a pacemaker; on its first start it makes a cluster of itself alone.
///
/// Returns when it leads and answers with everything that was ever acknowledged.
///
/// # Errors
/// Refuses a wrong configuration and a data directory that is damaged, of another format, or in
/// use; each says what to do.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running, Error> {
    config.validate()?;
    let metrics = Metrics::new();
    let replica = Arc::new(Replica::default());
    let identity = load_identity(&config).await?;
    let proposer = raft::start(
        &config.data_dir,
        identity.member,
        &identity.node_key,
        Arc::clone(&replica),
        metrics.clone(),
    )
    .await?;
    let started = start_with(config, &identity, &proposer, &replica, &metrics, shutdown).await;
    if started.is_err() {
        proposer.stop().await;
    }
    started
}

async fn start_with(
    config: Config,
    identity: &Identity,
    proposer: &Proposer,
    replica: &Arc<Replica>,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let (packages, job_logs) = open_stores(&config.data_dir, identity).await?;
    // Ends with the role, and also when it fails.
    let stop = shutdown.child_token();
    let (leader, leader_loop) =
        LeaderLoop::new(proposer.clone(), Arc::clone(replica), metrics.clone());
    let api = Arc::new(Api {
        proposer: proposer.clone(),
        replica: Arc::clone(replica),
        leader,
        packages,
        job_logs: job_logs.clone(),
        metrics: metrics.clone(),
        nodes: reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(NODE_CONNECT_TIMEOUT)
            // A heart answers itself, or not at all.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(Error::NodeClient)?,
        node_token: config.node_token.clone(),
        node_key: config.node_key.clone(),
        member: identity.member,
        router_port: config.router_port,
        ready: AtomicBool::new(false),
        shutdown: stop.clone(),
    });
    tokio::select! {
        prepared = prepare_cluster(&config, proposer, replica) => prepared?,
        error = proposer.failed() => return Err(Error::Failed(error)),
        () = shutdown.cancelled() => return Err(Error::Stopped),
    }
    api.ready.store(true, Ordering::Release);
    let leading = tokio::spawn(leader_loop.run(stop.clone()));
    let sweeping = tokio::spawn(housekeeping::run(
        Arc::clone(replica),
        job_logs,
        stop.clone(),
    ));
    let finished = tokio::spawn(supervise(proposer.clone(), leading, sweeping, stop));
    let text = metrics.clone();
    Ok(Running {
        routes: http::router(&api),
        metrics: Arc::new(move || text.text()),
        finished,
    })
}

async fn load_identity(config: &Config) -> Result<Identity, Error> {
    let directory = config.data_dir.clone();
    let node_key = config.node_key.clone();
    blocking(move || {
        files::make_private(&directory).map_err(|source| Error::Directory {
            path: directory.clone(),
            source,
        })?;
        let has_log = raft::has_log(&directory);
        Ok(Identity::load(&directory, &node_key, has_log)?)
    })
    .await
}

async fn open_stores(
    directory: &Path,
    identity: &Identity,
) -> Result<(PackageStore, JobLogs), Error> {
    let directory = directory.to_owned();
    let identity = identity.clone();
    blocking(move || {
        let in_directory = |path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Directory { path, source }
        };
        let path = directory.join("packages");
        let packages = PackageStore::open(path.clone()).map_err(in_directory(&path))?;
        let path = directory.join("job-logs");
        let job_logs = JobLogs::open(path.clone()).map_err(in_directory(&path))?;
        // Last, because it makes the names of all that was made in the directory durable.
        identity.keep(&directory)?;
        Ok((packages, job_logs))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::Task)?
}

/// Waits until the log is applied, and makes the cluster if there is none.
async fn prepare_cluster(
    config: &Config,
    proposer: &Proposer,
    replica: &Replica,
) -> Result<(), Error> {
    while let Err(error) = proposer.barrier().await {
        match error {
            ProposeError::NoLeader | ProposeError::OtherLeader(_) => {
                tracing::warn!(%error, "waiting to lead");
            }
            ProposeError::Failed(_) => return Err(Error::Failed(error)),
        }
    }
    if !replica.read(pacemaker_core::State::is_initialized) {
        let command = Command::InitializeCluster {
            id: random_id()?,
            hostname: config.cluster_hostname.clone(),
            tokens: BTreeMap::from([
                (
                    token_hash(&config.administrator_token),
                    TokenRole::Administrator,
                ),
                (token_hash(&config.node_token), TokenRole::Node),
            ]),
            settings: config.settings,
            join_tokens: Vec::new(),
            founder: None,
        };
        propose(proposer, command).await?;
    }
    if replica.read(|state| state.workspaces().is_empty()) {
        let stub = WorkspaceStub::parse(FIRST_WORKSPACE).expect("the name keeps the rule");
        let command = Command::CreateWorkspace {
            name: FIRST_WORKSPACE.to_owned(),
            stub,
            tags: BTreeMap::new(),
        };
        propose(proposer, command).await?;
    }
    for (name, token) in [
        ("administrator_token", &config.administrator_token),
        ("node_token", &config.node_token),
    ] {
        let hash = token_hash(token);
        if replica.read(|state| state.token_role(&hash)).is_none() {
            tracing::warn!(
                name,
                "the configured token is not one that the cluster knows"
            );
        }
    }
    Ok(())
}

async fn propose(proposer: &Proposer, command: Command) -> Result<(), Error> {
    proposer
        .propose(command)
        .await
        .map_err(Error::Failed)?
        .map_err(Error::Initialize)
        .map(|_| ())
}

/// 128 random bits as hexadecimal.
fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Ends all tasks at a shutdown, or when one of them or Raft fails.
async fn supervise(
    proposer: Proposer,
    mut leading: JoinHandle<()>,
    mut sweeping: JoinHandle<()>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = proposer.failed() => {
            tracing::error!(%error, "the replicated log failed; the process must end");
            Err(Error::Failed(error))
        }
        joined = &mut leading => early(joined),
        joined = &mut sweeping => early(joined),
    };
    stop.cancel();
    for task in [leading, sweeping] {
        if !task.is_finished()
            && let Err(error) = task.await
            && ended.is_ok()
        {
            ended = Err(Error::Task(error));
        }
    }
    proposer.stop().await;
    ended
}

/// A task that ends by itself has panicked, or saw the shutdown first.
fn early(joined: Result<(), tokio::task::JoinError>) -> Result<(), Error> {
    joined.map_err(Error::Task)
}
