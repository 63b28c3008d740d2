//! The cluster's own authority: it signs what says who a node is.
//!
//! `ca.pem` is on every node, `ca.key` on pacemakers only, any of which signs. The key is shown to
//! nobody but a pacemaker that joins, in the answer to its join. A certificate names its node in one
//! URI ([`Subject`]); nothing else of a signing request is taken over than its key.
//!
//! Never does: log a key, or decide who may have a certificate.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::digest::Digest;
use common::time::{Span, Timestamp};
use pacemaker_client::tls::{self, BACKDATED, NodeIdentity, NodeKey, Subject, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};

use crate::files;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";
/// The authority outlives the machines: it is not replaced while its cluster lives.
const LIFE: Span = Span::seconds(30 * 365 * 24 * 3600);
/// A signing request of a P-256 key has some 400 bytes.
const REQUEST_MAX_BYTES: usize = 4_096;

/// Signs certificates of one cluster.
pub struct Authority {
    /// PEM.
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Without the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// The authority cannot be used, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of it.
    #[error("using {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its files are damaged, or are not those of one authority.
    #[error("reading the certificate and the key of the cluster's authority")]
    Damaged(#[source] rcgen::Error),
    /// The certificate is of another key.
    #[error("the key is not the one of the authority's certificate")]
    OtherKey,
    /// The request to sign is none.
    #[error(
        "the signing request cannot be read: PEM of a PKCS #10 request of an ECDSA P-256 key is needed"
    )]
    Request,
    /// Signing failed.
    #[error("signing a certificate")]
    Sign(#[source] rcgen::Error),
    /// The system gives no random numbers.
    #[error("making a serial number")]
    Random(#[source] getrandom::Error),
    /// The certificate that was made is of no use.
    #[error("using the certificate that was signed")]
    Identity(#[from] TlsError),
}

impl Authority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn create(cluster: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let mut parameters = lasting(now, LIFE)?;
        parameters
            .distinguished_name
            .push(DnType::CommonName, format!("Paasmaker cluster {cluster}"));
        // It signs nodes, and nothing that signs.
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).map_err(AuthorityError::Sign)?;
        Ok(Self {
            certificate: certificate.pem(),
            issuer: Issuer::new(parameters, key),
        })
    }

    /// From what another pacemaker gave.
    ///
    /// # Errors
    /// When the texts are not the certificate and the key of one authority.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Damaged)?;
        if !is_of_key(certificate, &key) {
            return Err(AuthorityError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(AuthorityError::Damaged)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            issuer,
        })
    }

    /// Reads the authority of a directory; none on nodes that are no pacemakers. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, or is damaged.
    pub fn load(directory: &Path) -> Result<Option<Self>, AuthorityError> {
        let read = |name| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|source| AuthorityError::File { path, source })
        };
        let key = match read(KEY_FILE) {
            Err(AuthorityError::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            key => key?,
        };
        Self::from_pem(&read(CERTIFICATE_FILE)?, &key).map(Some)
    }

    /// Keeps the authority in a directory that only its owner reads. Blocks.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn store(&self, directory: &Path) -> Result<(), AuthorityError> {
        let wrap = |source| AuthorityError::File {
            path: directory.to_owned(),
            source,
        };
        files::make_private(directory).map_err(wrap)?;
        tls::write_private(directory, CERTIFICATE_FILE, &self.certificate).map_err(wrap)?;
        // The key last: with it the authority is there.
        tls::write_private(directory, KEY_FILE, &self.key_pem()).map_err(wrap)
    }

    /// PEM of its certificate, for everybody.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// PEM of its key, for pacemakers only.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// What a join token knows the cluster by.
    ///
    /// # Errors
    /// When its certificate is damaged.
    pub fn fingerprint(&self) -> Result<Digest, AuthorityError> {
        Ok(tls::fingerprint(&self.certificate)?)
    }

    /// Signs the key of a request for this node, for so long from now on. Gives PEM.
    ///
    /// # Errors
    /// Refuses what is no request, and keys of another kind than nodes have.
    pub fn sign(
        &self,
        signing_request: &str,
        subject: &Subject,
        now: Timestamp,
        ttl: Span,
    ) -> Result<String, AuthorityError> {
        let mut request = read_request(signing_request)?;
        request.params = lasting(now, ttl)?;
        let uri = subject.to_string().try_into();
        request.params.subject_alt_names = vec![SanType::URI(uri.map_err(AuthorityError::Sign)?)];
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.use_authority_key_identifier_extension = true;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = request.signed_by(&self.issuer);
        Ok(signed.map_err(AuthorityError::Sign)?.pem())
    }

    /// Says whether [`Authority::sign`] would take this request.
    ///
    /// # Errors
    /// As it would.
    #[expect(clippy::unused_self, reason = "it is the authority that is asked")]
    pub(crate) fn check_request(&self, signing_request: &str) -> Result<(), AuthorityError> {
        read_request(signing_request).map(|_| ())
    }

    /// Makes an identity for this machine itself, with a new key.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn issue(
        &self,
        subject: &Subject,
        now: Timestamp,
        ttl: Span,
    ) -> Result<NodeIdentity, AuthorityError> {
        self.reissue(&NodeKey::generate()?.to_pem(), subject, now, ttl)
    }

    /// Signs this machine's own key anew.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn reissue(
        &self,
        key: &str,
        subject: &Subject,
        now: Timestamp,
        ttl: Span,
    ) -> Result<NodeIdentity, AuthorityError> {
        let request = NodeKey::from_pem(key)?.signing_request()?;
        let certificate = self.sign(&request, subject, now, ttl)?;
        let authority = self.certificate.clone();
        Ok(NodeIdentity::new(certificate, key.to_owned(), authority)?)
    }
}

/// A request of a node's kind of key, whose signature shows that the one who asks has the key.
fn read_request(signing_request: &str) -> Result<CertificateSigningRequestParams, AuthorityError> {
    if signing_request.len() > REQUEST_MAX_BYTES {
        return Err(AuthorityError::Request);
    }
    let request = CertificateSigningRequestParams::from_pem(signing_request)
        .map_err(|_| AuthorityError::Request)?;
    if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(AuthorityError::Request);
    }
    Ok(request)
}

/// A certificate for so long from now on, of nobody yet.
fn lasting(now: Timestamp, life: Span) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(AuthorityError::Random)?;
    let at = |time: Timestamp| date_time_ymd(1970, 1, 1) + Duration::from_millis(time.0);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    // In the past, for machines whose clocks are behind.
    parameters.not_before = at(Timestamp(now.since(Timestamp(BACKDATED.0)).0));
    parameters.not_after = at(now.after(life));
    Ok(parameters)
}

/// True when the certificate is of this key.
fn is_of_key(certificate: &str, key: &KeyPair) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()) else {
        return false;
    };
    pem.parse_x509()
        .is_ok_and(|parsed| parsed.public_key().subject_public_key.data == key.public_key_raw())
}

#[cfg(test)]
mod tests;
