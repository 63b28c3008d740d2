//! What a certificate says of its node: one URI.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use common::id::NodeId;
use common::node::Role;
use common::time::{Span, Timestamp};
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::error::TlsError;

const SCHEME: &str = "paasmaker://";
/// The name of each role in a certificate.
const ROLES: [(Role, &str); 3] = [
    (Role::Pacemaker, "pacemaker"),
    (Role::Heart, "heart"),
    (Role::Router, "router"),
];

/// Whom a certificate names: `paasmaker://<cluster>/node/<number>?roles=heart,router`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The cluster's id.
    pub cluster: String,
    /// The node's number.
    pub node: NodeId,
    /// What it may do.
    pub roles: BTreeSet<Role>,
}

/// A URI that names no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has no name of the form paasmaker://<cluster>/node/<number>?roles=<roles>")]
pub struct SubjectError;

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = ROLES
            .iter()
            .filter(|(role, _)| self.roles.contains(role))
            .map(|(_, name)| *name)
            .collect();
        write!(
            f,
            "{SCHEME}{}/node/{}?roles={}",
            self.cluster,
            self.node,
            names.join(",")
        )
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let rest = text.strip_prefix(SCHEME).ok_or(SubjectError)?;
        let (cluster, rest) = rest.split_once("/node/").ok_or(SubjectError)?;
        let (node, roles) = rest.split_once("?roles=").ok_or(SubjectError)?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if cluster.is_empty() || !is_plain(cluster) || !is_plain(node) {
            return Err(SubjectError);
        }
        // A role of a later release gives nothing here.
        let roles = roles
            .split(',')
            .filter_map(|found| ROLES.iter().find(|(_, name)| *name == found))
            .map(|(role, _)| *role)
            .collect();
        Ok(Self {
            cluster: cluster.to_owned(),
            node: node.parse().map_err(|_| SubjectError)?,
            roles,
        })
    }
}

/// A certificate, read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) subject: Subject,
    /// The first moment at which it counts.
    pub(crate) begins: UnixTime,
    /// The first moment at which it does not.
    pub(crate) expires: Timestamp,
}

/// Reads a node's certificate. Checks no signature.
pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Read, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| TlsError::Unreadable)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| TlsError::Unreadable)?
        .ok_or(SubjectError)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    // Two names would be two identities.
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(SubjectError.into());
    };
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = parsed.validity();
    let begins = seconds(validity.not_before.timestamp());
    // The last second counts.
    let ends = seconds(validity.not_after.timestamp());
    Ok(Read {
        subject: uri.parse()?,
        begins: UnixTime::since_unix_epoch(Span::seconds(begins).duration()),
        expires: Timestamp(0).after(Span::seconds(ends)),
    })
}

/// A certificate as text.
pub(crate) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digits = Vec::with_capacity(certificate.len() * 4 / 3 + 4);
    for group in certificate.chunks(3) {
        let bits = group.iter().enumerate().fold(0, |bits, (place, byte)| {
            bits | u32::from(*byte) << (16 - 8 * place)
        });
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place) & 63) as usize;
            digits.push(if place > group.len() {
                b'='
            } else {
                ALPHABET[digit]
            });
        }
    }
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in digits.chunks(64) {
        text.extend(line.iter().map(|digit| char::from(*digit)));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_written_and_read() {
        let subject = Subject {
            cluster: "c1".to_owned(),
            node: NodeId(7),
            roles: BTreeSet::from([Role::Router, Role::Heart]),
        };
        let text = "paasmaker://c1/node/7?roles=heart,router";

        assert_eq!(subject.to_string(), text);
        assert_eq!(text.parse(), Ok(subject.clone()));
        let later = "paasmaker://c1/node/7?roles=heart,oracle,router";
        assert_eq!(later.parse(), Ok(subject));
        for bad in [
            "",
            "https://c1/node/7?roles=heart",
            "paasmaker:///node/7?roles=heart",
            "paasmaker://c1/node/?roles=heart",
            "paasmaker://c1/node/-7?roles=heart",
            "paasmaker://c1/node/+7?roles=heart",
            "paasmaker://c1/node/7",
            "paasmaker://c1/x/node/7?roles=heart",
        ] {
            assert_eq!(bad.parse::<Subject>(), Err(SubjectError), "{bad}");
        }
    }
}
