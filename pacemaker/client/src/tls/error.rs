//! What can be wrong with an identity or a handshake.

use std::io;
use std::path::PathBuf;

use common::digest::Digest;

use crate::tls::certificate::SubjectError;

/// An identity that cannot be used, or a server that is not the one.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the identity.
    #[error("using {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM without a certificate.
    #[error("there is no certificate in it: a text with `BEGIN CERTIFICATE` is needed")]
    NoCertificate,
    /// A PEM without a key.
    #[error("there is no key in it: a text with `BEGIN PRIVATE KEY` is needed")]
    NoKey,
    /// The certificate is damaged.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// The certificate is not one of a node.
    #[error("the certificate is not one of a Paasmaker node")]
    Subject(#[from] SubjectError),
    /// The parts do not belong together.
    #[error("the certificate is of another cluster or node than it is said to be")]
    OtherIdentity,
    /// rustls refuses.
    #[error("preparing TLS")]
    Configuration(#[source] rustls::Error),
    /// A key or a signing request could not be made.
    #[error("making a key and a signing request")]
    Key(#[source] rcgen::Error),
    /// Nobody answers.
    #[error("connecting to {endpoint}")]
    Connect {
        /// To whom.
        endpoint: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another cluster answers, or somebody in between.
    #[error(
        "{endpoint} is not of the cluster with the fingerprint {expected}: nothing was sent to it; check the address, and that nobody stands in between"
    )]
    OtherAuthority {
        /// Who answers.
        endpoint: String,
        /// Who was expected.
        expected: Digest,
    },
}
