//! Serving with certificates: each request says whose certificate its connection has shown.

use std::io;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts as _, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::serve::{IncomingStream, Listener};
use pacemaker_client::tls::{Peer, PeerIdentity, Tls, TlsListener};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A listener as axum takes it.
struct Listening(TlsListener);

impl Listener for Listening {
    type Io = TlsStream<TcpStream>;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            address: self.0.local_addr()?,
            identity: None,
        })
    }
}

/// What a connection has shown.
#[derive(Clone, Debug)]
struct Shown(Option<PeerIdentity>);

impl Connected<IncomingStream<'_, Listening>> for Shown {
    fn connect_info(stream: IncomingStream<'_, Listening>) -> Self {
        Self(stream.remote_addr().identity.clone())
    }
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    router: Router,
    listener: TcpListener,
    tls: &Tls,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = router.layer(from_fn(identify));
    let listener = Listening(TlsListener::new(listener, tls));
    axum::serve(
        listener,
        router.into_make_service_with_connect_info::<Shown>(),
    )
    .with_graceful_shutdown(shutdown.cancelled_owned())
    .await
}

async fn identify(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match ConnectInfo::<Shown>::from_request_parts(&mut parts, &()).await {
        Ok(ConnectInfo(Shown(Some(identity)))) => {
            parts.extensions.insert(identity);
        }
        Ok(ConnectInfo(Shown(None))) => {}
        Err(rejection) => return rejection.into_response(),
    }
    next.run(Request::from_parts(parts, body)).await
}
