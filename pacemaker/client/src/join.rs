//! Becoming a node of a cluster: know it first, then tell it the secret.
//!
//! ```text
//! fetch_authority: handshake ── fingerprint as in the token? ── no: nothing is ever sent
//!                                   └ yes: POST /v1/join with the secret and a signing request
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::api::{JoinAnswer, JoinRequest, paths};
use common::digest::Digest;
use common::join_token::JoinToken;
use common::node::NodeDescription;
use reqwest::{Method, Url};
use rustls::Error as RustlsError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::Error;
use crate::tls::{Expect, NodeIdentity, NodeKey, Roots, ServerVerifier, Tls, TlsError};
use crate::tls::{client_config, pem_of};
use crate::transport::{Transport, read_json};

/// How long a pacemaker may take to show its certificate.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// A machine did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody of the cluster answers, or another cluster does.
    #[error("looking for the cluster")]
    Authority(#[source] TlsError),
    /// No key could be made.
    #[error("making the node's key")]
    Key(#[source] TlsError),
    /// The cluster refused, or did not answer.
    #[error("joining the cluster")]
    Refused(#[source] Error),
    /// The cluster answered something that does not fit.
    #[error("using the identity that the cluster gave")]
    Identity(#[source] TlsError),
}

/// Asks who answers at `endpoint` (`host:port`), and gives the authority's certificate (PEM) if it
/// is the one with this fingerprint. Sends nothing but a handshake.
///
/// # Errors
/// When nobody answers, or another cluster does.
pub async fn fetch_authority(endpoint: &str, fingerprint: &Digest) -> Result<String, TlsError> {
    let connect = |source| TlsError::Connect {
        endpoint: endpoint.to_owned(),
        source,
    };
    let (host, port) = split(endpoint).map_err(connect)?;
    let seen = Arc::new(Seen::default());
    let config = client_config(
        Looking {
            fingerprint: fingerprint.clone(),
            seen: Arc::clone(&seen),
        },
        None,
    );
    let name = ServerName::try_from(host.clone()).map_err(|error| connect(invalid(error)))?;
    let handshake = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    };
    let shaken = timeout(HANDSHAKE_PATIENCE, handshake)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found = seen.take();
    match (shaken, found) {
        (Ok(_), Found::Authority(certificate)) => Ok(pem_of(&certificate)),
        (Err(source), Found::Nothing | Found::Authority(_)) => Err(connect(source)),
        (_, Found::Stranger) | (Ok(_), Found::Nothing) => Err(TlsError::OtherAuthority {
            endpoint: endpoint.to_owned(),
            expected: fingerprint.clone(),
        }),
    }
}

/// Joins the cluster of a token: checks who answers, makes a key, and has it signed.
///
/// The same description with the same token can be repeated when an answer was lost.
///
/// # Errors
/// When no pacemaker of the cluster answers, and when it refuses.
pub async fn join(
    token: &JoinToken,
    description: &NodeDescription,
) -> Result<(NodeIdentity, JoinAnswer), JoinError> {
    let authority = find_authority(token).await.map_err(JoinError::Authority)?;
    let key = NodeKey::generate().map_err(JoinError::Key)?;
    let request = JoinRequest {
        secret: token.secret.clone(),
        signing_request: key.signing_request().map_err(JoinError::Key)?,
        description: description.clone(),
    };
    let answer = ask(token, &authority, &request)
        .await
        .map_err(JoinError::Refused)?;
    let identity = NodeIdentity::new(answer.certificate.clone(), key.to_pem(), authority)
        .map_err(JoinError::Identity)?;
    if identity.node != answer.node || identity.cluster != answer.cluster {
        return Err(JoinError::Identity(TlsError::OtherIdentity));
    }
    // Certificate, key and authority belong together.
    Tls::new(identity.clone()).map_err(JoinError::Identity)?;
    Ok((identity, answer))
}

/// The authority, from the first pacemaker that shows it.
async fn find_authority(token: &JoinToken) -> Result<String, TlsError> {
    let mut failed = None;
    for endpoint in &token.endpoints {
        match fetch_authority(endpoint, &token.fingerprint).await {
            Ok(authority) => return Ok(authority),
            // That somebody else answers says more than that nobody does.
            Err(error) if !matches!(failed, Some(TlsError::OtherAuthority { .. })) => {
                failed = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(failed.unwrap_or(TlsError::NoCertificate))
}

async fn ask(
    token: &JoinToken,
    authority: &str,
    request: &JoinRequest,
) -> Result<JoinAnswer, Error> {
    let action = "join the cluster";
    let endpoints: Vec<String> = token
        .endpoints
        .iter()
        .map(|endpoint| format!("https://{endpoint}"))
        .collect();
    let transport = Transport::of_stranger(&endpoints, authority)?;
    let response = transport
        .change(action, Method::POST, paths::JOIN, request, None)
        .await?;
    read_json(action, response).await
}

fn split(endpoint: &str) -> io::Result<(String, u16)> {
    let text = if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("https://{endpoint}")
    };
    let url = Url::parse(&text).map_err(invalid)?;
    let host = url
        .host_str()
        .ok_or_else(|| invalid("there is no host in it"))?;
    let port = url
        .port_or_known_default()
        .ok_or_else(|| invalid("there is no port in it"))?;
    // Without the brackets of an IPv6 address.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// What a handshake has shown.
#[derive(Debug, Default)]
struct Seen(Mutex<Found>);

#[derive(Debug, Default)]
enum Found {
    /// No certificate came.
    #[default]
    Nothing,
    /// The one that was looked for.
    Authority(CertificateDer<'static>),
    /// Another one.
    Stranger,
}

impl Seen {
    fn put(&self, found: Found) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn take(&self) -> Found {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Believes whom the authority with this fingerprint has signed, if the server shows it.
#[derive(Debug)]
struct Looking {
    fingerprint: Digest,
    seen: Arc<Seen>,
}

impl Looking {
    fn verifier(&self, shown: &[CertificateDer<'_>]) -> Option<ServerVerifier> {
        let authority = shown
            .iter()
            .find(|certificate| Digest::of(certificate) == self.fingerprint)?
            .clone()
            .into_owned();
        let roots = Roots::new(authority.clone()).ok()?;
        self.seen.put(Found::Authority(authority));
        Some(ServerVerifier::new(roots, None, Expect::Pacemaker))
    }
}

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let Some(verifier) = self.verifier(intermediates) else {
            self.seen.put(Found::Stranger);
            return Err(CertificateError::UnknownIssuer.into());
        };
        verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = crate::tls::algorithms();
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = crate::tls::algorithms();
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crate::tls::algorithms().supported_schemes()
    }
}
