//! Serves a directory of files over HTTP: the runtime `paasmaker.runtime.static`.
//!
//! `path` decides what a request may name, `file` opens it without ever leaving the root,
//! `response` answers. One thread, no cache of contents (the kernel has one), and every
//! connection's memory is bounded, so hundreds of sites fit on a small node.

mod body;
mod content_type;
mod file;
mod path;
mod response;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use file::Root;

/// Connections at once; each holds at most about 80 KiB. Further ones wait in the listen queue.
const CONNECTIONS: usize = 1024;

/// The head of a request may take this long, and an idle connection is closed after it: longer
/// than a router keeps one in its pool, so that the router is the one that closes.
const HEAD_LIMIT: Duration = Duration::from_secs(120);

/// hyper's buffer of one connection: a request without a body is its head.
const HEAD_MAX_BYTES: usize = 16 << 10;

/// How long transfers in flight may take after SIGTERM; a shorter grace of the heart ends them.
const DRAIN_LIMIT: Duration = Duration::from_secs(3600);

/// A site could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory could not be opened.
    #[error("could not open the document root {}", root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The port could not be listened on.
    #[error("could not listen on port {port}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The asynchronous runtime or its signals could not be set up.
    #[error("could not set up the server")]
    Runtime(#[source] io::Error),
}

/// The body of `pm static --root DIR`: serves on `PM_PORT` until SIGTERM.
///
/// What went wrong is the last line of the output, where the instance's log shows it.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let root = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(root), None) if flag == "--root" => PathBuf::from(root),
        _ => return fail("usage: pm static --root DIRECTORY"),
    };
    let port = std::env::var("PM_PORT")
        .ok()
        .and_then(|port| port.parse().ok());
    let Some(port) = port else {
        return fail("PM_PORT is not set to a port");
    };
    match run(&root, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            fail(&format!("{error}{cause}"))
        }
    }
}

fn fail(words: &str) -> ExitCode {
    // With standard error closed there is nobody to tell; the exit code still speaks.
    writeln!(io::stderr(), "pm static: {words}").ok();
    ExitCode::FAILURE
}

/// Serves `root` on `port` of every address until SIGTERM, then finishes what is in flight.
///
/// # Errors
/// When the directory cannot be opened or the port not be listened on.
pub fn run(root: &Path, port: u16) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(async {
        // Before the port is in LISTEN, so that whoever sees it may already stop this process.
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .map_err(|source| Error::Listen { port, source })?;
        let shutdown = CancellationToken::new();
        let stop = async {
            terminate.recv().await;
            shutdown.cancel();
            std::future::pending().await
        };
        tokio::select! {
            result = serve(root, listener, shutdown.clone()) => result,
            never = stop => never,
        }
    })
}

/// Serves `root` on `listener` until `shutdown`, then finishes what is in flight.
///
/// # Errors
/// When the directory cannot be opened.
pub async fn serve(
    root: &Path,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let root = Rc::new(RefCell::new(Root::open(root).map_err(|source| {
        Error::Root {
            root: root.to_owned(),
            source,
        }
    })?));
    LocalSet::new()
        .run_until(accept(root, listener, shutdown))
        .await;
    Ok(())
}

async fn accept(root: Rc<RefCell<Root>>, listener: TcpListener, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, permit)) => serve_connection(&root, &graceful, stream, permit),
            // Out of descriptors or memory: time must pass, the connection stays in the queue.
            Err(_) => wait_a_little(&shutdown).await,
        }
    }
    drop(listener);
    // What is still in flight after the limit is cut.
    drop(tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await);
}

async fn wait_a_little(shutdown: &CancellationToken) {
    /// Long enough not to spin, short enough not to be noticed.
    const PAUSE: Duration = Duration::from_millis(50);
    drop(tokio::time::timeout(PAUSE, shutdown.cancelled()).await);
}

fn serve_connection(
    root: &Rc<RefCell<Root>>,
    graceful: &GracefulShutdown,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) {
    // Refused on a connection that is gone already, which is noticed soon enough.
    stream.set_nodelay(true).ok();
    let root = Rc::clone(root);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let response = response::answer(&mut root.borrow_mut(), &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::task::spawn_local(async move {
        // A broken connection concerns the client only.
        connection.await.ok();
        drop(permit);
    });
}
