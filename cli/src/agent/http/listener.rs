//! The connections of the node's one port: accepted, served, and bounded.
//!
//! ```text
//! accept ─► TLS handshake (bounded in number and time) ─► HTTP ─► the routes
//! ```
//! Who shows a certificate has its identity in the extensions of each of its requests; whether that
//! is enough is for the routes to say. Without TLS (`pm dev`, on the loopback interface) the second
//! step is left out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pacemaker_client::tls::{Peer, PeerIdentity, Tls, TlsListener};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Connections at one time. A pacemaker of a full cell has three from each of 5,000 nodes; where the
/// process may open fewer, accepting fails first and is tried again.
const CONNECTIONS_MAX: usize = 16_384;
/// How long the head of a request may take, and a connection be idle, of someone who has shown a
/// certificate: longer than clients keep one, so that it is them who close it.
const NODE_HEAD_LIMIT: Duration = Duration::from_secs(120);
/// The same for everyone else.
const STRANGER_HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Requests at one time on an HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// After this a connection is asked for a sign of life.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a peer may leave what was sent to it unacknowledged: a machine without power says no
/// goodbye, and a watch on it would be kept for a quarter of an hour.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// The wait when the process has no descriptor left.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(100);
/// How long requests under way may go on after the shutdown: who follows a log would go on for ever.
pub(crate) const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// Where connections come from.
enum Source {
    Plain(TcpListener),
    Tls(TlsListener),
}

/// A connection that may send requests.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What every connection needs.
#[derive(Clone)]
struct Service {
    routes: Router,
    /// Requests under way may end.
    shutdown: CancellationToken,
    /// Nothing may go on.
    abort: CancellationToken,
}

/// Serves until the shutdown, then lets requests under way end for a moment.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: Router,
    shutdown: CancellationToken,
) {
    let service = Service {
        routes,
        shutdown: shutdown.clone(),
        abort: CancellationToken::new(),
    };
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut source = match tls {
        Some(tls) => Source::Tls(TlsListener::new(listener, &tls)),
        None => Source::Plain(listener),
    };
    loop {
        let next = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (place, source.accept().await)
        };
        tokio::select! {
            (place, (stream, peer)) = next => {
                tasks.spawn(service.clone().connection(stream, peer, place));
            }
            () = shutdown.cancelled() => break,
        }
    }
    // Nobody new is answered, and the port is free for the next process.
    drop(source);
    tasks.close();
    if timeout(SHUTDOWN_PATIENCE, tasks.wait()).await.is_err() {
        tracing::info!("requests were still under way when the port closed");
        service.abort.cancel();
        tasks.wait().await;
    }
}

impl Source {
    async fn accept(&mut self) -> (Stream, Peer) {
        match self {
            Self::Tls(listener) => {
                let (stream, peer) = listener.accept().await;
                (Stream::Tls(Box::new(stream)), peer)
            }
            Self::Plain(listener) => loop {
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let identity = None;
                        return (Stream::Plain(stream), Peer { address, identity });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep_until(Instant::now() + ACCEPT_INTERVAL).await;
                    }
                }
            },
        }
    }
}

impl Service {
    async fn connection(self, stream: Stream, peer: Peer, place: OwnedSemaphorePermit) {
        let Peer { address, identity } = peer;
        let socket = match &stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        if let Err(error) = prepare(socket) {
            tracing::debug!(%error, %address, "a connection keeps the system's defaults");
        }
        match stream {
            Stream::Plain(stream) => self.requests(stream, address, identity).await,
            Stream::Tls(stream) => self.requests(stream, address, identity).await,
        }
        drop(place);
    }

    async fn requests(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        address: SocketAddr,
        identity: Option<PeerIdentity>,
    ) {
        let head_limit = if identity.is_some() {
            NODE_HEAD_LIMIT
        } else {
            STRANGER_HEAD_LIMIT
        };
        let routes = self.routes;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(ConnectInfo(address));
            if let Some(identity) = &identity {
                extensions.insert(identity.clone());
            }
            routes.clone().oneshot(request)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(head_limit);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .keep_alive_interval(ALIVE_INTERVAL)
            .keep_alive_timeout(SILENCE_LIMIT - ALIVE_INTERVAL);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.abort.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = format!("{error:#}"), %address, "a connection broke off");
        }
    }
}

/// Says at once what is written, and notices a machine that is gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(stream, ALIVE_INTERVAL)?;
    let limit = u32::try_from(SILENCE_LIMIT.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, limit)?;
    Ok(())
}
