//! From a configuration to a pacemaker that answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::id::WorkspaceStub;
use pacemaker_client::Connections;
use pacemaker_core::command::{Command, TokenRole};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, token_hash};
use crate::crash_point::Crash;
use crate::crons::log::CronLogs;
use crate::crons::{CronLoop, CronParts};
use crate::http::{self, Api, Attempts, Certificates};
use crate::identity::Identity;
use crate::job_log::JobLogs;
use crate::job_log::share::SharedLogs;
use crate::leader::LeaderLoop;
use crate::membership::{Members, StatusSource};
use crate::metrics::Metrics;
use crate::package_store::{PackageStore, Packages};
use crate::peer::{Credentials, Event, Peers, Place};
use crate::peers::Pacemakers;
use crate::raft::{self, ProposeError, Proposer};
use crate::replica::Replica;
use crate::{Error, Running, files, housekeeping};

/// The workspace that a new cluster has.
const FIRST_WORKSPACE: &str = "default";

/// Starts a pacemaker; the founder's makes the cluster on its first start.
///
/// Returns at once: `/readyz`, and everything that needs the state, answers when all that was ever
/// acknowledged is applied here, as far as a leader knows.
///
/// # Errors
/// Refuses a wrong configuration and a data directory that is damaged, of another format, or in
/// use; each says what to do.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running, Error> {
    config.validate()?;
    let metrics = Metrics::new();
    let replica = Arc::new(Replica::default());
    let identity = load_identity(&config).await?;
    let (peers, noticed) = Peers::new(Credentials {
        member: identity.member,
        incarnation: identity.incarnation.clone(),
        cluster: config.cluster.as_ref().map(|cluster| cluster.id.clone()),
        tls: config.tls.clone(),
        node_token: config.node_token.clone(),
        replica: Arc::clone(&replica),
    });
    let founder = config.founder.then(|| Place {
        address: config.advertise.clone(),
        incarnation: identity.incarnation.clone(),
    });
    let proposer = raft::start(
        &config.data_dir,
        founder,
        peers.clone(),
        Arc::clone(&replica),
        metrics.clone(),
    )
    .await?;
    let group = GroupParts { peers, noticed };
    let started = start_with(
        config, &identity, &proposer, &replica, &metrics, group, shutdown,
    )
    .await;
    if started.is_err() {
        proposer.stop().await;
    }
    started
}

/// What the tasks of the group are made of.
struct GroupParts {
    peers: Peers,
    noticed: mpsc::UnboundedReceiver<Event>,
}

async fn start_with(
    config: Config,
    identity: &Identity,
    proposer: &Proposer,
    replica: &Arc<Replica>,
    metrics: &Metrics,
    group: GroupParts,
    shutdown: CancellationToken,
) -> Result<Running, Error> {
    let (packages, job_logs, cron_logs) = open_stores(&config.data_dir, identity).await?;
    // Ends with the role, and also when it fails.
    let stop = shutdown.child_token();
    let looking = proposer.clone();
    let connections = Connections::new(config.tls.as_ref()).map_err(Error::Pacemakers)?;
    let nodes = connections.clone();
    let pacemakers = Pacemakers::new(
        move || looking.group().into(),
        connections,
        &config.node_token,
    );
    let packages = Packages::new(packages, &pacemakers, metrics.clone(), stop.clone());
    let (leader, leader_loop) = LeaderLoop::new(
        proposer.clone(),
        Arc::clone(replica),
        metrics.clone(),
        nodes.clone(),
    );
    let members = Members::new(
        proposer.clone(),
        Arc::clone(replica),
        group.peers.clone(),
        packages.fetches.clone(),
        StatusSource {
            data_dir: config.data_dir.clone(),
            tls: config.tls.clone(),
        },
    );
    let cron_loop = cron_loop(&config, proposer, replica, metrics, &cron_logs)?;
    let api = Arc::new(Api {
        proposer: proposer.clone(),
        replica: Arc::clone(replica),
        leader,
        members: members.clone(),
        peers: group.peers,
        connections: TaskTracker::new(),
        job_logs: SharedLogs::new(job_logs.clone(), pacemakers.clone()),
        cron_logs,
        wall_clock: config.wall_clock,
        pacemakers,
        packages,
        metrics: metrics.clone(),
        nodes,
        node_token: config.node_token.clone(),
        tls: config.tls.clone(),
        authority: config.authority.clone(),
        attempts: Attempts::default(),
        certificates: Certificates::default(),
        node_key: config.node_key.clone(),
        member: identity.member,
        router_port: config.router_port,
        ready: AtomicBool::new(false),
        shutdown: stop.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(leader_loop.run(stop.clone()));
    tasks.spawn(cron_loop.run(stop.clone()));
    tasks.spawn(members.run(stop.clone()));
    tasks.spawn(proposer.clone().watch_peers(group.noticed, stop.clone()));
    tasks.spawn(housekeeping::run(Arc::clone(&api), job_logs, stop.clone()));
    let beginning = tokio::spawn(begin(config, Arc::clone(&api), stop.clone()));
    let connections = api.connections.clone();
    let supervising = supervise(proposer.clone(), tasks, beginning, connections, stop);
    let (metrics, replica) = (metrics.clone(), Arc::clone(replica));
    Ok(Running {
        routes: http::router(&api),
        metrics: Arc::new(move || scrape(&metrics, &replica)),
        finished: tokio::spawn(supervising),
    })
}

fn cron_loop(
    config: &Config,
    proposer: &Proposer,
    replica: &Arc<Replica>,
    metrics: &Metrics,
    logs: &CronLogs,
) -> Result<CronLoop, Error> {
    Ok(CronLoop::new(CronParts {
        proposer: proposer.clone(),
        replica: Arc::clone(replica),
        metrics: metrics.clone(),
        wall: config.wall_clock,
        logs: logs.clone(),
        crash: Crash(config.crash_at),
        incarnation: random_id()?,
    }))
}

/// The metrics, with those that are counted only when someone looks.
fn scrape(metrics: &Metrics, replica: &Replica) -> String {
    let failing = replica.read(|state| state.failing_crons().len());
    let failing = i64::try_from(failing).unwrap_or(i64::MAX);
    metrics.crons_failing.set(failing);
    metrics.text()
}

async fn load_identity(config: &Config) -> Result<Identity, Error> {
    let directory = config.data_dir.clone();
    let (member, node_key) = (config.member, config.node_key.clone());
    blocking(move || {
        files::make_private(&directory).map_err(|source| Error::Directory {
            path: directory.clone(),
            source,
        })?;
        let has_log = raft::has_log(&directory);
        Ok(Identity::load(&directory, member, &node_key, has_log)?)
    })
    .await
}

async fn open_stores(
    directory: &Path,
    identity: &Identity,
) -> Result<(PackageStore, JobLogs, CronLogs), Error> {
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
        let path = directory.join("cron-logs");
        let cron_logs = CronLogs::open(path.clone()).map_err(in_directory(&path))?;
        // Last, because it makes the names of all that was made in the directory durable.
        identity.keep(&directory)?;
        Ok((packages, job_logs, cron_logs))
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

/// Waits until the log is applied, makes the cluster if this is its founder, and is ready then.
async fn begin(config: Config, api: Arc<Api>, stop: CancellationToken) -> Result<(), Error> {
    let prepared = prepare_cluster(&config, &api.proposer, &api.replica);
    if let Some(prepared) = stop.run_until_cancelled(prepared).await {
        prepared?;
        api.ready.store(true, Ordering::Release);
        tracing::info!(member = api.member, "ready");
        stop.cancelled().await;
    }
    Ok(())
}

/// Waits until the log is applied, and makes the cluster if there is none.
async fn prepare_cluster(
    config: &Config,
    proposer: &Proposer,
    replica: &Replica,
) -> Result<(), Error> {
    loop {
        match proposer.barrier().await {
            Ok(()) if config.founder || replica.read(pacemaker_core::State::is_initialized) => {
                break;
            }
            Ok(()) => proposer.leadership_changed(proposer.status()).await,
            Err(error @ ProposeError::Failed(_)) => return Err(Error::Failed(error)),
            Err(error) => tracing::info!(%error, "waiting for the cluster"),
        }
    }
    if config.founder {
        found(config, proposer, replica).await?;
    }
    let configured = [
        ("administrator_token", &config.administrator_token),
        ("node_token", &config.node_token),
    ];
    // Where there are certificates, tokens are the founder's and people's.
    for (name, token) in configured.iter().filter(|_| config.tls.is_none()) {
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

/// Makes the cluster, unless that has been done.
async fn found(config: &Config, proposer: &Proposer, replica: &Replica) -> Result<(), Error> {
    if !replica.read(pacemaker_core::State::is_initialized) {
        let command = Command::InitializeCluster {
            id: match &config.cluster {
                Some(cluster) => cluster.id.clone(),
                None => random_id()?,
            },
            hostname: config.cluster_hostname.clone(),
            tokens: first_tokens(config),
            settings: config.settings,
            join_tokens: config.join_tokens.clone(),
            founder: config.description.clone(),
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
    Ok(())
}

/// The tokens of a new cluster. One that all nodes share would be worth more than a certificate.
fn first_tokens(config: &Config) -> BTreeMap<String, TokenRole> {
    let administrator = token_hash(&config.administrator_token);
    let mut tokens = BTreeMap::from([(administrator, TokenRole::Administrator)]);
    if config.tls.is_none() {
        tokens.insert(token_hash(&config.node_token), TokenRole::Node);
    }
    tokens
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
    mut tasks: JoinSet<()>,
    mut beginning: JoinHandle<Result<(), Error>>,
    connections: TaskTracker,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = proposer.failed() => {
            tracing::error!(%error, "the replicated log failed; the process must end");
            Err(Error::Failed(error))
        }
        Some(joined) = tasks.join_next() => joined.map_err(Error::Task),
        begun = &mut beginning => early(begun),
    };
    if ended.is_ok() {
        proposer.hand_over().await;
    }
    stop.cancel();
    if !beginning.is_finished() {
        ended = ended.and(early(beginning.await));
    }
    while let Some(joined) = tasks.join_next().await {
        ended = ended.and_then(|()| joined.map_err(Error::Task));
    }
    connections.close();
    connections.wait().await;
    proposer.stop().await;
    ended
}

/// A task that ends by itself has panicked, has failed, or saw the shutdown first.
fn early(joined: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    joined.map_err(Error::Task)?
}
