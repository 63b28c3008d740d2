//! A node's key, and the request to have it signed.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::tls::error::TlsError;

/// A private key (ECDSA P-256). It leaves the machine never, and its memory only to its file.
pub struct NodeKey(KeyPair);

/// Without the key.
impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").finish_non_exhaustive()
    }
}

impl NodeKey {
    /// Makes one.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Self, TlsError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(TlsError::Key)
    }

    /// Reads one.
    ///
    /// # Errors
    /// Refuses what is no key.
    pub fn from_pem(pem: &str) -> Result<Self, TlsError> {
        KeyPair::from_pem(pem).map(Self).map_err(TlsError::Key)
    }

    /// As it is kept.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// PEM of a request to sign this key. It names nobody: the authority knows whom it signs for.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn signing_request(&self) -> Result<String, TlsError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .serialize_request(&self.0)
            .and_then(|request| request.pem())
            .map_err(TlsError::Key)
    }
}
