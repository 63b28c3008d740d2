//! Who is who on the wire: certificates of the cluster's own authority, on both ends of a connection.
//!
//! ```text
//! ca.pem ── signs ──► node.pem: paasmaker://<cluster>/node/<number>?roles=heart,router
//! ```
//! A node's certificate says its cluster, its number and its roles in one URI; hostnames and
//! addresses are not looked at, so that machines may move. [`Tls`] holds a node's identity and gives
//! the configurations of rustls for both ends; the identity can be replaced while connections live.
//!
//! | Certificate shown by | Chain | Cluster | Role, number | Expiry |
//! |---|---|---|---|---|
//! | a server | checked | checked | as [`Expect`] says | refused |
//! | a client | checked | checked | recorded in [`PeerIdentity`] | recorded: one endpoint takes it |
//!
//! A certificate that is not valid *yet* is taken: the one who signed it has another clock, and
//! nothing is won by cutting a machine off whose clock is behind.
//!
//! Sessions are never resumed: each connection shows and checks certificates anew, so that a renewed
//! or an expired one counts from the next connection on. The one provider of cryptography is
//! aws-lc-rs, named here and not taken from the process.

mod accept;
mod certificate;
mod error;
mod identity;
mod key;
mod verify;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use common::digest::Digest;
use common::id::NodeId;
use common::node::Role;
use common::time::{Span, Timestamp};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, ServerConnection, SignatureScheme};
use tokio::sync::watch;

pub use crate::tls::accept::{HANDSHAKE_PATIENCE, HANDSHAKES_MAX, Peer, TlsListener};
pub(crate) use crate::tls::certificate::pem_of;
pub use crate::tls::certificate::{Subject, SubjectError};
pub use crate::tls::error::TlsError;
pub use crate::tls::identity::{NodeIdentity, write_private};
pub use crate::tls::key::NodeKey;
use crate::tls::verify::ClientVerifier;
pub(crate) use crate::tls::verify::{Roots, ServerVerifier, algorithms};

/// The one protocol that is spoken inside a TLS connection.
const PROTOCOL: &[u8] = b"http/1.1";

/// A certificate counts from this long before it was signed, because clocks differ.
pub const BACKDATED: Span = Span::seconds(3600);

/// What is expected of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any pacemaker of the cluster.
    Pacemaker,
    /// This node and no other.
    Node(NodeId),
    /// Any node of the cluster.
    AnyNode,
}

/// Whom a client's certificate names. Set by the listener as an extension of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The cluster's id; the same as ours.
    pub cluster: String,
    /// The node's number.
    pub node: NodeId,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// When its certificate ends.
    pub expires: Timestamp,
    /// True when it had ended at the handshake; see [`PeerIdentity::is_expired_at`].
    pub is_expired: bool,
}

impl PeerIdentity {
    /// True when the certificate has ended by `now`: connections may outlive it.
    #[must_use]
    pub fn is_expired_at(&self, now: Timestamp) -> bool {
        self.is_expired || self.expires <= now
    }

    /// True for a certificate that lets its node be a pacemaker at `now`; its cluster is ours.
    #[must_use]
    pub fn is_pacemaker_at(&self, now: Timestamp) -> bool {
        self.roles.contains(&Role::Pacemaker) && !self.is_expired_at(now)
    }
}

/// A node's identity on the wire; clones share it, and it can be replaced while connections live.
#[derive(Clone)]
pub struct Tls {
    held: Arc<watch::Sender<Arc<Held>>>,
    roots: Roots,
    server: Arc<ServerConfig>,
}

/// The identity and what rustls needs of it.
struct Held {
    identity: Arc<NodeIdentity>,
    certified: Arc<CertifiedKey>,
    renews: Timestamp,
    expires: Timestamp,
    /// Counts replacements.
    generation: u64,
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Checks that certificate, key and authority belong together.
    ///
    /// # Errors
    /// Says which part does not fit.
    pub fn new(identity: NodeIdentity) -> Result<Self, TlsError> {
        let roots = Roots::from_pem(&identity.authority)?;
        let cluster = identity.cluster.clone();
        let held = Held::new(identity, &roots, 0)?;
        let (held, receiver) = watch::channel(Arc::new(held));
        let resolver = Arc::new(Presented(receiver));
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Configuration)?
            .with_client_cert_verifier(Arc::new(ClientVerifier::new(&roots, cluster)?))
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            held: Arc::new(held),
            roots,
            server: Arc::new(server),
        })
    }

    /// Puts a newer certificate in the place of the present one: new connections show it.
    ///
    /// # Errors
    /// Refuses an identity of another cluster, authority or node.
    pub fn replace(&self, identity: NodeIdentity) -> Result<(), TlsError> {
        let present = self.identity();
        let is_same = present.cluster == identity.cluster
            && present.node == identity.node
            && Roots::from_pem(&identity.authority)?.certificate == self.roots.certificate;
        if !is_same {
            return Err(TlsError::OtherIdentity);
        }
        let held = Held::new(identity, &self.roots, self.generation() + 1)?;
        self.held.send_replace(Arc::new(held));
        Ok(())
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> Arc<NodeIdentity> {
        Arc::clone(&self.held.borrow().identity)
    }

    /// When its certificate ends.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.held.borrow().expires
    }

    /// Grows with each replacement.
    pub(crate) fn generation(&self) -> u64 {
        self.held.borrow().generation
    }

    /// When its certificate should be renewed: half of its life has then passed.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        self.held.borrow().renews
    }

    /// Changes whenever the identity is replaced: long connections are then made anew.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.held.subscribe())
    }

    /// For the server's end: a client may show a certificate; see [`peer_identity`].
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For the client's end: shows this node's certificate, and talks only to what is expected.
    #[must_use]
    pub fn client_config(&self, expect: Expect) -> Arc<ClientConfig> {
        let cluster = self.identity().cluster.clone();
        let verifier = ServerVerifier::new(self.roots.clone(), Some(cluster), expect);
        let resolver = Presented(self.held.subscribe());
        Arc::new(client_config(verifier, Some(resolver)))
    }
}

/// Tells when an identity has been replaced.
#[derive(Clone)]
pub struct Changes(watch::Receiver<Arc<Held>>);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Resolves at the next replacement; never when the identity is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Held {
    fn new(identity: NodeIdentity, roots: &Roots, generation: u64) -> Result<Self, TlsError> {
        let (certificate, key) = identity.parts()?;
        let read = certificate::read(&certificate)?;
        let subject = &read.subject;
        if subject.cluster != identity.cluster || subject.node != identity.node {
            return Err(TlsError::OtherIdentity);
        }
        roots.check_signed(&certificate, read.begins)?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(TlsError::Configuration)?;
        // The authority's certificate goes along: who joins checks its fingerprint.
        let certified = CertifiedKey::new(vec![certificate, roots.certificate.clone()], key);
        certified.keys_match().map_err(TlsError::Configuration)?;
        let signed = Timestamp(0)
            .after(Span::seconds(read.begins.as_secs()))
            .after(BACKDATED);
        let life = read.expires.since(signed);
        Ok(Self {
            identity: Arc::new(identity),
            certified: Arc::new(certified),
            renews: signed.after(Span(life.0 / 2)),
            expires: read.expires,
            generation,
        })
    }
}

/// Shows the certificate of the moment.
pub(crate) struct Presented(watch::Receiver<Arc<Held>>);

/// Without the key.
impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow().certified))
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whom the client's certificate names; none when it showed none.
///
/// The chain and the cluster have been checked in the handshake; the expiry has not.
#[must_use]
pub fn peer_identity(connection: &ServerConnection) -> Option<PeerIdentity> {
    let certificate = connection.peer_certificates()?.first()?;
    let read = certificate::read(certificate).ok()?;
    Some(PeerIdentity {
        cluster: read.subject.cluster,
        node: read.subject.node,
        roles: read.subject.roles,
        expires: read.expires,
        is_expired: read.expires <= wall_clock(),
    })
}

/// The SHA-256 of an authority's certificate, as a join token has it.
///
/// # Errors
/// Refuses a text without a certificate.
pub fn fingerprint(authority: &str) -> Result<Digest, TlsError> {
    Ok(Digest::of(&identity::read_certificate(authority)?))
}

/// A configuration that trusts one authority and shows no certificate: for people.
pub(crate) fn pinned_config(authority: &str) -> Result<ClientConfig, TlsError> {
    let roots = Roots::from_pem(authority)?;
    let verifier = ServerVerifier::new(roots, None, Expect::Pacemaker);
    Ok(client_config(verifier, None))
}

/// A configuration for connections that are not encrypted.
pub(crate) fn trusting_nobody() -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the cipher suites of TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

pub(crate) fn client_config(
    verifier: impl rustls::client::danger::ServerCertVerifier + 'static,
    presented: Option<Presented>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the cipher suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match presented {
        Some(presented) => builder.with_client_cert_resolver(Arc::new(presented)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let made = PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(made)
}

/// What this machine's clock says: the time that certificates are judged by.
#[must_use]
pub fn wall_clock() -> Timestamp {
    let passed = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
