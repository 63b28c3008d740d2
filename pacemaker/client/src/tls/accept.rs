//! The server's end: connections whose handshake is done, with whom they are from.
//!
//! Handshakes go on beside each other and never hold the next connection up: each has
//! [`HANDSHAKE_PATIENCE`], and past [`HANDSHAKES_MAX`] of them new connections wait in the kernel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{PeerIdentity, Tls, peer_identity};

/// How long a handshake may take: a machine of the same cluster answers in milliseconds; a loaded
/// one, or a person's over a slow line, within this.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes at once. One costs a third of a millisecond of a core and some 40 kB: 1,000 nodes that
/// all come back are served, and those who connect and say nothing cost 40 MB at most.
pub const HANDSHAKES_MAX: usize = 1_024;
/// The pause after the listener failed: descriptors have run out, and time gives some back.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Whom a connection is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Whom its certificate names, when it showed one.
    pub identity: Option<PeerIdentity>,
}

/// A listener that gives out connections once their handshake is done.
#[derive(Debug)]
pub struct TlsListener {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, Peer)>>,
}

impl TlsListener {
    /// Listens as `tls`; the certificate shown is always the present one.
    #[must_use]
    pub fn new(listener: TcpListener, tls: &Tls) -> Self {
        Self {
            listener,
            config: tls.server_config(),
            handshakes: JoinSet::new(),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Failed handshakes are logged and passed over. Cancelling loses nothing.
    pub async fn accept(&mut self) -> (TlsStream<TcpStream>, Peer) {
        loop {
            let has_room = self.handshakes.len() < HANDSHAKES_MAX;
            tokio::select! {
                Some(joined) = self.handshakes.join_next() => match joined {
                    Ok(Some(accepted)) => return accepted,
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "a handshake panicked"),
                },
                accepted = self.listener.accept(), if has_room => match accepted {
                    Ok((stream, address)) => {
                        let config = Arc::clone(&self.config);
                        self.handshakes.spawn(shake(config, stream, address));
                    }
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }
}

async fn shake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delays");
    }
    match timeout(HANDSHAKE_PATIENCE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let identity = peer_identity(stream.get_ref().1);
            Some((stream, Peer { address, identity }))
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a handshake took too long");
            None
        }
    }
}

/// One connection that failed says nothing of the next; a lack of descriptors lasts.
async fn pause_after(error: &io::Error) {
    let is_of_the_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    );
    if !is_of_the_connection {
        tracing::warn!(%error, "accepting connections fails");
        tokio::time::sleep_until(tokio::time::Instant::now() + FAILURE_PAUSE).await;
    }
}
