//! The handshake: both sides say who they are before the first frame.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::id::NodeId;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use pacemaker_client::tls::{Expect, Tls};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::replica::Replica;

/// The name of the protocol in `Upgrade`.
pub(crate) const PROTOCOL: &str = "pm-peer/1";
/// How long unacknowledged bytes may lie in the network before the connection counts as cut. TCP
/// itself would wait for minutes, and go on slowly after a cut that has healed.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);

/// A node is known by the number in its certificate; names are not looked at.
const ANY_NAME: &str = "paasmaker";

/// The headers of the handshake, in both directions.
pub(crate) mod headers {
    /// The number of the one that speaks.
    pub(crate) const MEMBER: &str = "pm-member";
    /// The number of the one that is spoken to.
    pub(crate) const TARGET: &str = "pm-target";
    /// The cluster of the one that speaks, when it knows it.
    pub(crate) const CLUSTER: &str = "pm-cluster";
    /// The incarnation of the log of the one that speaks.
    pub(crate) const INCARNATION: &str = "pm-incarnation";
    /// With a refusal: its code.
    pub(crate) const REFUSAL: &str = "pm-refusal";
}

/// The code of the refusal that a member hears that was taken out of the group.
pub(crate) const MEMBER_REMOVED: &str = "member_removed";

/// An open connection.
pub(super) type Stream = TokioIo<hyper::upgrade::Upgraded>;

/// Who this pacemaker is among its peers.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// Its number.
    pub(crate) member: u64,
    /// Made with its log: a log that is made anew has another.
    pub(crate) incarnation: String,
    /// The cluster of its identity; without one, that of its state.
    pub(crate) cluster: Option<String>,
    /// Where there are certificates: shown, and asked of the peer.
    pub(crate) tls: Option<Tls>,
    /// Shown where there is no TLS.
    pub(crate) node_token: String,
    /// Where the cluster's id is, once there is one.
    pub(crate) replica: Arc<Replica>,
}

/// Without the token.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// The cluster that this pacemaker belongs to, when it knows.
    pub(crate) fn cluster(&self) -> Option<String> {
        self.cluster.clone().or_else(|| {
            self.replica
                .read(|state| state.cluster().map(|(id, _)| id.to_owned()))
        })
    }

    /// What it says of itself.
    pub(crate) fn introduce(&self, headers: &mut HeaderMap) {
        headers.insert(headers::MEMBER, HeaderValue::from(self.member));
        for (name, value) in [
            (headers::CLUSTER, self.cluster()),
            (headers::INCARNATION, Some(self.incarnation.clone())),
        ] {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
    }
}

/// What a peer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Its number.
    pub(crate) member: u64,
    /// Whom it wants to speak to.
    pub(crate) target: Option<u64>,
    /// Its cluster.
    pub(crate) cluster: Option<String>,
    /// Of its log.
    pub(crate) incarnation: String,
}

impl Hello {
    /// Reads it; `None` when it does not say who it is.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        Some(Self {
            member: text(headers::MEMBER)?.parse().ok()?,
            target: text(headers::TARGET).and_then(|target| target.parse().ok()),
            cluster: text(headers::CLUSTER),
            incarnation: text(headers::INCARNATION).unwrap_or_default(),
        })
    }

    /// True when both know their cluster, and it is not the same.
    pub(crate) fn is_foreign(&self, cluster: Option<&str>) -> bool {
        matches!((&self.cluster, cluster), (Some(theirs), Some(ours)) if theirs != ours)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nobody listens there: the process is gone, or has not begun.
    #[error("nobody listens at the address")]
    NobodyListens,
    /// The network, or the one at the other end.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// HTTP failed.
    #[error("the handshake failed")]
    Handshake(#[source] hyper::Error),
    /// The peer does not want this pacemaker.
    #[error("the peer refuses with status {status}: {code}")]
    Refused {
        /// Of HTTP.
        status: StatusCode,
        /// Why.
        code: String,
    },
    /// Someone else answers, or the one that is meant with another log.
    #[error("{0}")]
    WrongPeer(String),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::NobodyListens,
            _ => Self::Io(error),
        }
    }
}

/// Connects to the member `target` at `address` and makes both sides known.
pub(super) async fn connect(
    credentials: &Credentials,
    target: u64,
    address: &str,
) -> Result<(Stream, Hello), ConnectError> {
    let stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    let Some(tls) = &credentials.tls else {
        return upgrade(credentials, target, address, stream).await;
    };
    let connector = TlsConnector::from(tls.client_config(Expect::Node(NodeId(target))));
    let name = ServerName::try_from(ANY_NAME).map_err(io::Error::other)?;
    let stream = connector.connect(name, stream).await?;
    upgrade(credentials, target, address, stream).await
}

/// Sets what both ends of a connection between peers want.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

async fn upgrade(
    credentials: &Credentials,
    target: u64,
    address: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(Stream, Hello), ConnectError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Handshake)?;
    let driving = tokio::spawn(connection.with_upgrades());
    let request = request(credentials, target, address)?;
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => {
            driving.abort();
            return Err(ConnectError::Handshake(error));
        }
    };
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        driving.abort();
        let code = response.headers().get(headers::REFUSAL);
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or("");
        return Err(ConnectError::Refused {
            status,
            code: code.to_owned(),
        });
    }
    let hello = Hello::read(response.headers())
        .ok_or_else(|| ConnectError::WrongPeer("the peer does not say who it is".to_owned()))?;
    if hello.member != target {
        return Err(ConnectError::WrongPeer(format!(
            "member {} answers where member {target} is expected",
            hello.member
        )));
    }
    if hello.is_foreign(credentials.cluster().as_deref()) {
        return Err(ConnectError::WrongPeer(
            "the peer belongs to another cluster".to_owned(),
        ));
    }
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(ConnectError::Handshake)?;
    Ok((TokioIo::new(upgraded), hello))
}

fn request(
    credentials: &Credentials,
    target: u64,
    address: &str,
) -> Result<Request<Empty>, ConnectError> {
    let mut request = Request::new(Empty);
    *request.method_mut() = Method::GET;
    *request.uri_mut() = http::Uri::from_static(common::api::paths::PEER);
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    headers.insert(headers::TARGET, HeaderValue::from(target));
    let bearer = match &credentials.tls {
        Some(_) => None,
        None => Some(format!("Bearer {}", credentials.node_token)),
    };
    let shown = bearer.as_deref().map(|bearer| (AUTHORIZATION, bearer));
    for (name, value) in [(HOST, address)].into_iter().chain(shown) {
        let mut value = HeaderValue::from_str(value)
            .map_err(|error| ConnectError::Io(io::Error::other(error)))?;
        value.set_sensitive(name == AUTHORIZATION);
        headers.insert(name, value);
    }
    credentials.introduce(headers);
    Ok(request)
}

/// A request without a body.
struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}
