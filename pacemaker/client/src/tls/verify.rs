//! Whom to believe: chain, cluster, role and number, expiry.

use std::fmt;
use std::sync::Arc;

use common::node::Role;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::tls::certificate::{self, Subject};
use crate::tls::error::TlsError;
use crate::tls::identity::read_certificate;
use crate::tls::{Expect, provider};

/// The authority that is believed.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    pub(crate) certificate: CertificateDer<'static>,
    store: Arc<RootCertStore>,
}

impl Roots {
    pub(crate) fn from_pem(authority: &str) -> Result<Self, TlsError> {
        Self::new(read_certificate(authority)?)
    }

    pub(crate) fn new(certificate: CertificateDer<'static>) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        store
            .add(certificate.clone())
            .map_err(TlsError::Configuration)?;
        Ok(Self {
            certificate,
            store: Arc::new(store),
        })
    }

    /// Refuses a certificate that this authority has not signed, as it was at `time`.
    pub(crate) fn check_signed(
        &self,
        certificate: &CertificateDer<'_>,
        time: UnixTime,
    ) -> Result<(), TlsError> {
        self.check_server(certificate, &[], time)
            .map_err(TlsError::Configuration)
    }

    fn check_server(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        time: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &self.store,
            intermediates,
            time,
            algorithms().all,
        )
    }
}

/// Checks the certificates of servers.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    roots: Roots,
    /// None for those who know the authority only, which has signed for one cluster.
    cluster: Option<String>,
    expect: Expect,
}

/// The server is another than the one that was expected.
struct OtherNode {
    found: Subject,
    expected: Expect,
}

/// rustls shows refusals so.
impl fmt::Debug for OtherNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for OtherNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = &self.found;
        match self.expected {
            Expect::Pacemaker => write!(f, "{found} answers, which is no pacemaker of the cluster"),
            Expect::Node(node) => write!(f, "{found} answers, and not node {node} of the cluster"),
            Expect::AnyNode => write!(f, "{found} answers, which is no node of the cluster"),
        }
    }
}

impl std::error::Error for OtherNode {}

impl ServerVerifier {
    pub(crate) fn new(roots: Roots, cluster: Option<String>, expect: Expect) -> Self {
        Self {
            roots,
            cluster,
            expect,
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let read = certificate::read(end_entity).map_err(refuse)?;
        // A clock that is behind cuts nobody off.
        let time = now.max(read.begins);
        self.roots.check_server(end_entity, intermediates, time)?;
        let found = read.subject;
        let is_ours = self
            .cluster
            .as_ref()
            .is_none_or(|cluster| *cluster == found.cluster);
        let is_expected = match self.expect {
            Expect::Pacemaker => found.roles.contains(&Role::Pacemaker),
            Expect::Node(node) => found.node == node,
            Expect::AnyNode => true,
        };
        if is_ours && is_expected {
            return Ok(ServerCertVerified::assertion());
        }
        let expected = self.expect;
        Err(refuse(OtherNode { found, expected }))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Checks the certificates of clients, which may show none. Expiry is recorded, not refused.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: String,
}

impl ClientVerifier {
    pub(crate) fn new(roots: &Roots, cluster: String) -> Result<Self, TlsError> {
        let chain =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots.store), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Configuration(Error::General(error.to_string())))?;
        Ok(Self { chain, cluster })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let read = certificate::read(end_entity).map_err(refuse)?;
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, read.begins)?;
        if read.subject.cluster != self.cluster {
            return Err(refuse(OtherNode {
                found: read.subject,
                expected: Expect::AnyNode,
            }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

pub(crate) fn refuse(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}
