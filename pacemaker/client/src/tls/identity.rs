//! A node's identity and its files: `ca.pem`, `node.key` and `node.pem`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use common::id::NodeId;
use common::node::Role;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::certificate;
use crate::tls::error::TlsError;

const AUTHORITY_FILE: &str = "ca.pem";
const KEY_FILE: &str = "node.key";
const CERTIFICATE_FILE: &str = "node.pem";

/// Who a node is, and how it shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster's id.
    pub cluster: String,
    /// The node's number.
    pub node: NodeId,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// PEM of its certificate.
    pub certificate: String,
    /// PEM of its key.
    pub key: String,
    /// PEM of the authority's certificate.
    pub authority: String,
}

/// Without the key.
impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Puts the parts together; cluster, number and roles are what the certificate says.
    ///
    /// # Errors
    /// When the certificate is not one of a node.
    pub fn new(certificate: String, key: String, authority: String) -> Result<Self, TlsError> {
        let read = certificate::read(&read_certificate(&certificate)?)?;
        Ok(Self {
            cluster: read.subject.cluster,
            node: read.subject.node,
            roles: read.subject.roles,
            certificate,
            key,
            authority,
        })
    }

    /// Reads the identity of a directory; none when there is none. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn load(directory: &Path) -> Result<Option<Self>, TlsError> {
        let path = directory.join(CERTIFICATE_FILE);
        let certificate = match fs::read_to_string(&path) {
            Ok(certificate) => certificate,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TlsError::File { path, source }),
        };
        let read = |name| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|source| TlsError::File { path, source })
        };
        Self::new(certificate, read(KEY_FILE)?, read(AUTHORITY_FILE)?).map(Some)
    }

    /// Keeps the identity in a directory that only its owner reads. Blocks.
    ///
    /// The certificate comes last, and an older one of another key goes first: whenever this is
    /// interrupted, there is a whole identity or none.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn store(&self, directory: &Path) -> Result<(), TlsError> {
        let wrap = |source| TlsError::File {
            path: directory.to_owned(),
            source,
        };
        make_private(directory).map_err(wrap)?;
        let is_kept = |name, text: &str| {
            fs::read_to_string(directory.join(name)).is_ok_and(|found| found == text)
        };
        if !is_kept(KEY_FILE, &self.key) || !is_kept(AUTHORITY_FILE, &self.authority) {
            remove(&directory.join(CERTIFICATE_FILE)).map_err(wrap)?;
            write_private(directory, KEY_FILE, &self.key).map_err(wrap)?;
            write_private(directory, AUTHORITY_FILE, &self.authority).map_err(wrap)?;
        }
        write_private(directory, CERTIFICATE_FILE, &self.certificate).map_err(wrap)
    }

    /// Certificate and key as rustls takes them.
    pub(crate) fn parts(
        &self,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| TlsError::NoKey)?;
        Ok((read_certificate(&self.certificate)?, key))
    }
}

/// The first certificate of a PEM.
pub(crate) fn read_certificate(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::NoCertificate)
}

fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Writes a file that only its owner reads: whole, and under its name only once it is on disk. Blocks.
///
/// # Errors
/// What the system answered; then the file of that name is as it was.
pub fn write_private(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    remove(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
