//! The server's end: connections whose handshake is done, with whom they are from.
//!
//! Handshakes go on beside each other and never hold the next connection up: each has
//! [`HANDSHAKE_PATIENCE`], and past [`HANDSHAKES_MAX`] of them the oldest gives way. Those who mean it
//! take milliseconds, so that it is one of those who connect and say nothing.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
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
    /// Oldest first; some have ended.
    begun: VecDeque<AbortHandle>,
}

impl TlsListener {
    /// Listens as `tls`; the certificate shown is always the present one.
    #[must_use]
    pub fn new(listener: TcpListener, tls: &Tls) -> Self {
        Self {
            listener,
            config: tls.server_config(),
            handshakes: JoinSet::new(),
            begun: VecDeque::new(),
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
            tokio::select! {
                Some(joined) = self.handshakes.join_next() => match joined {
                    Ok(Some(accepted)) => return accepted,
                    Ok(None) => {}
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => tracing::error!(%error, "a handshake panicked"),
                },
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => self.begin(stream, address),
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.begun.len() >= HANDSHAKES_MAX {
            self.begun.retain(|handshake| !handshake.is_finished());
        }
        if self.begun.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.begun.pop_front()
        {
            oldest.abort();
        }
        let config = Arc::clone(&self.config);
        let handshake = self.handshakes.spawn(shake(config, stream, address));
        self.begun.push_back(handshake);
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
