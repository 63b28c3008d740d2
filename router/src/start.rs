//! Starts a router and ends it: the list of its parts in the order that they need each other.

use std::fmt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access_log::{AccessLog, OpenError};
use crate::activity::SilenceLimits;
use crate::config::Config;
use crate::descriptors;
use crate::statistics::WorkerStatistics;
use crate::table::{self, Tables};
use crate::table_file::TableFile;
use crate::worker::{self, Limits, Shared};
use crate::{api, listen, metrics, report};

/// Why a router did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error("the router's configuration is refused: {reason}")]
    Config {
        /// Which field, and why.
        reason: &'static str,
    },
    /// The data directory cannot be made.
    #[error("cannot make the router's data directory {path}")]
    DataDirectory {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot begin the access log")]
    AccessLog(#[from] OpenError),
    /// The public address cannot be bound.
    #[error("cannot listen on {address}; is another router running there?")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A worker's thread cannot be started.
    #[error("cannot start worker {worker}")]
    Thread {
        /// Its number.
        worker: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A worker failed while the router was to run on.
    #[error("worker {worker} failed")]
    Worker {
        /// Its number.
        worker: usize,
        /// What the system said; none when it panicked.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The API's listener failed.
    #[error("cannot serve the router's API")]
    Api(#[source] std::io::Error),
}

/// A router that serves.
pub struct Running {
    /// The role's API routes, to be merged with those of the node's other roles.
    pub routes: axum::Router,
    /// The role's metrics as OpenMetrics text, without the `# EOF` line.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Where clients connect, the port filled in.
    pub address: SocketAddr,
    /// Ends after shutdown and drain, or with the failure of a worker.
    pub finished: JoinHandle<Result<(), Error>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Starts a router; it serves the table on disk before this returns.
///
/// # Errors
/// Refuses a configuration that cannot work, and fails when the data directory, the address or a
/// thread is not to be had. That no pacemaker answers is no error.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running, Error> {
    config.validate()?;
    std::fs::create_dir_all(&config.data_dir).map_err(|source| Error::DataDirectory {
        path: config.data_dir.clone(),
        source,
    })?;
    let workers = config.worker_count();
    let file = TableFile::in_directory(&config.data_dir);
    let tables = Tables::new(workers, config.cluster.clone()).with_age(file.age());
    if let Some(table) = file.load(&config.cluster) {
        tracing::info!(
            generation = table.generation.0,
            routes = table.routes.len(),
            "serving the routing table on disk"
        );
        tables.install(&table);
    }
    let (log, log_writer) = match config.access_log {
        true => AccessLog::open(&config.data_dir).map(|(log, writer)| (Some(log), Some(writer)))?,
        false => (None, None),
    };
    let (listeners, address) =
        listen::bind(config.listen, workers).map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
    let shared = Arc::new(Shared {
        tables: Arc::new(tables),
        statistics: (0..workers).map(|_| WorkerStatistics::default()).collect(),
        log,
        limits: limits(&config, workers),
        trusted_clients: config.trusted_clients.clone(),
        port: HeaderValue::from(address.port()),
        stop: CancellationToken::new(),
    });
    let threads = spawn_workers(&shared, listeners)?;
    tracing::info!(%address, workers, "the router listens");
    // A child, so that a worker's failure ends this role and leaves the verdict to the caller.
    let shutdown = shutdown.child_token();

    let background = Background {
        table: tokio::spawn(table::follow(
            Arc::clone(&shared.tables),
            config.client.clone(),
            file,
            shutdown.clone(),
        )),
        report: tokio::spawn(report::run(
            Arc::clone(&shared.tables),
            config.client,
            config.node,
            shutdown.clone(),
        )),
        log_writer,
    };
    Ok(Running {
        routes: api::routes(Arc::clone(&shared), config.token_hashes),
        metrics: metrics::scraper(Arc::clone(&shared)),
        address,
        finished: tokio::spawn(supervise(shared, threads, background, shutdown)),
    })
}

/// Starts a router and serves its API on `listener` until `shutdown`.
///
/// # Errors
/// As [`start`], and when a worker or the API's listener fails.
pub async fn run(
    config: Config,
    listener: tokio::net::TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let running = start(config, shutdown.clone()).await?;
    axum::serve(listener, running.routes)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(Error::Api)?;
    running
        .finished
        .await
        .expect("the supervisor neither panics nor is aborted")
}

/// What each of so many workers keeps to.
fn limits(config: &Config, workers: usize) -> Limits {
    let connections = descriptors::affordable(config.connections_max).div_ceil(workers);
    Limits {
        connections,
        requests: connections,
        drain: config.drain_limit,
        hold: config.hold_limit,
        connect: config.connect_limit,
        response: config.response_limit,
        silence: SilenceLimits {
            head: whole_seconds(config.head_limit),
            idle: whole_seconds(config.idle_limit),
            write: whole_seconds(config.write_limit),
        },
    }
}

/// Connections are looked at once a second, so a shorter limit is one second.
fn whole_seconds(limit: Duration) -> u32 {
    u32::try_from(limit.as_secs())
        .unwrap_or(u32::MAX / 2)
        .max(1)
}

/// What ended, and how.
type Ended = (usize, thread::Result<std::io::Result<()>>);

struct Workers {
    ended: mpsc::Receiver<Ended>,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Background {
    table: JoinHandle<()>,
    report: JoinHandle<()>,
    log_writer: Option<thread::JoinHandle<()>>,
}

fn spawn_workers(
    shared: &Arc<Shared>,
    listeners: Vec<std::net::TcpListener>,
) -> Result<Workers, Error> {
    let (end, ended) = mpsc::channel(listeners.len().max(1));
    let mut threads = Vec::with_capacity(listeners.len());
    for (worker, listener) in listeners.into_iter().enumerate() {
        let (shared, end) = (Arc::clone(shared), end.clone());
        let thread = thread::Builder::new()
            .name(format!("router-{worker}"))
            .spawn(move || {
                let run = AssertUnwindSafe(|| worker::run(shared, worker, listener));
                let result = std::panic::catch_unwind(run);
                if end.blocking_send((worker, result)).is_err() {
                    tracing::debug!(worker, "nobody waited for the worker's end");
                }
            })
            .map_err(|source| Error::Thread { worker, source })?;
        threads.push(thread);
    }
    Ok(Workers { ended, threads })
}

/// Waits for shutdown or a worker's failure, lets the rest drain, and collects every part.
async fn supervise(
    shared: Arc<Shared>,
    mut workers: Workers,
    background: Background,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    tokio::select! {
        () = shutdown.cancelled() => {}
        ended = workers.ended.recv() => outcome = Err(ended.map_or_else(lost, failure)),
    }
    shared.stop.cancel();
    shutdown.cancel();
    while let Some((worker, result)) = workers.ended.recv().await {
        if outcome.is_ok() && !matches!(result, Ok(Ok(()))) {
            outcome = Err(failure((worker, result)));
        }
    }
    for (worker, thread) in workers.threads.into_iter().enumerate() {
        if thread.join().is_err() {
            tracing::error!(worker, "a worker's thread panicked outside of its work");
        }
    }
    for task in [background.table, background.report] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the router failed");
        }
    }
    let finish_log = move || {
        if let (Some(log), Some(writer)) = (&shared.log, background.log_writer) {
            log.end();
            if writer.join().is_err() {
                tracing::error!("the access log's writer panicked");
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(finish_log).await {
        tracing::error!(%error, "the access log was not finished");
    }
    outcome
}

fn failure((worker, result): Ended) -> Error {
    Error::Worker {
        worker,
        source: result.ok().and_then(Result::err),
    }
}

/// Every worker is gone, and none said how.
fn lost() -> Error {
    Error::Worker {
        worker: 0,
        source: None,
    }
}
